"""Which model, and which frame of it, a graph comes from that Dynamo hands to a backend."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.autograd.function import FunctionCtx

from mhc_compile import _torch_compat as compat

_ENTRY = ("compile_wrapper", "eval_frame.py")
"""Function and file of PyTorch through which every call of a compiled module or function goes."""

_RESUMED = re.compile(r"^(?:torch_dynamo_resume_in_)+(.*?)(?:_at_\d+)+$")
"""How Dynamo calls the rest of a function behind a graph break."""


@dataclass(frozen=True)
class Origin:
    """Where a graph was traced.

    Attributes:
        frame: the traced function, `file:function`.
        function: the same, or the function whose rest behind a graph break `frame` is.
        partial: whether a graph break in front of it left the function, or its rest, to be traced by itself.
        break_reason: why the graph ends before the function does, "" if it does not.
        break_location: `file:line` of the graph break at its end, "" if there is none.
        custom_backward: whether it runs in the forward of an autograd function, which has a backward of its own.
    """

    frame: str
    function: str
    partial: bool = False
    break_reason: str = ""
    break_location: str = ""
    custom_backward: bool = False

    @property
    def resumed(self) -> bool:
        """Whether it is the rest of a function behind a graph break."""
        return self.frame.partition("(")[0] != self.function

    @property
    def whole(self) -> bool:
        """Whether no graph break cuts the model at either end."""
        return not self.partial and not self.break_reason


def origin_of(gm: fx.GraphModule) -> Origin:
    """The frame that is being traced, and the graph break that ended this graph of it."""
    code = traced_code()
    name = code.co_name if code is not None else ""
    function = _RESUMED.sub(r"\1", name)
    file = code.co_filename if code is not None else ""
    traced = (f"{file}:{name}", f"{file}:{function}", function != name or _is_part(gm))
    reason, custom = getattr(gm, "compile_subgraph_reason", None), _runs_in_a_function()
    if reason is None or not reason.graph_break:
        return Origin(*traced, custom_backward=custom)
    where = f"{reason.user_stack[-1].filename}:{reason.user_stack[-1].lineno}" if reason.user_stack else ""
    return Origin(*traced, reason.reason, where, custom)


def _runs_in_a_function() -> bool:
    """Whether an autograd function is being computed, further up the Python stack.

    PyTorch's own, that for reentrant checkpointing, has a backward that runs the code again, and is none of them.
    """
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "forward" and frame.f_code.co_argcount:
            context = frame.f_locals.get(frame.f_code.co_varnames[0])
            function = getattr(context, "_forward_cls", None) if isinstance(context, FunctionCtx) else None
            if function is not None and function.__module__.partition(".")[0] != "torch":
                return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def traced_code() -> Any:
    """The code object that Dynamo is tracing, None outside of Dynamo."""
    return getattr(_root_frame(), "f_code", None)


def compiled_module() -> nn.Module | None:
    """The module that `torch.compile` was given, if one is being called; it stands further up the Python stack."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == _ENTRY[0] and frame.f_code.co_filename.endswith(_ENTRY[1]):
            module = getattr(frame.f_locals.get("fn"), "__self__", None)
            return module if isinstance(module, nn.Module) else None
        frame = frame.f_back  # type: ignore[assignment]
    return None


def find_model(gm: fx.GraphModule) -> nn.Module | None:
    """The module that `torch.compile` was given; for a compiled function, the one module it uses most parameters of.

    The parameters alone would not do: behind a graph break, their paths start at the submodule that broke.
    """
    compiled = compiled_module()
    if compiled is not None:
        return compiled
    roots = Counter(id(root) for root in _roots(gm))
    found = {id(root): root for root in _roots(gm)}
    return found[roots.most_common(1)[0][0]] if roots else None


def is_model_state(placeholder: fx.Node) -> bool:
    """Whether an input of the graph is a tensor that some module holds."""
    return _outermost_module(getattr(placeholder, "_dynamo_source", None)) is not None


def state_path(placeholder: fx.Node) -> str:
    """A dotted name for a tensor that a module holds, from the variable it is reached through."""
    return _dotted(re.findall(r"\w+", placeholder._dynamo_source.name)[1:])  # type: ignore[attr-defined]


def path_from_root(placeholder: fx.Node) -> tuple[str, str] | None:
    """How Dynamo names the outermost module on the way to a tensor, and the dotted path from there on.

    None for what no module holds, and where the way is more than attributes and items.
    """
    source: Any = getattr(placeholder, "_dynamo_source", None)
    root: Any = _outermost_module(source)
    if root is None or not source.name.startswith(root.name):
        return None
    return root.name, _dotted(re.findall(r"\w+", source.name.removeprefix(root.name)))


def _dotted(parts: list[str]) -> str:
    return ".".join(part for part in parts if part not in ("_modules", "_parameters", "_buffers"))


def _is_part(gm: fx.GraphModule) -> bool:
    """Whether the traced function is that of a submodule: Dynamo gave up on the functions around it."""
    compiled, roots = compiled_module(), list(_roots(gm))
    return compiled is not None and bool(roots) and all(root is not compiled for root in roots)


def _roots(gm: fx.GraphModule) -> Iterator[nn.Module]:
    """For each tensor of a module, the outermost module on the way to it."""
    frame = _root_frame()
    if frame is None:
        return
    scope = {"L": frame.output.local_scope, "G": frame.output.global_scope}
    for node in gm.graph.find_nodes(op="placeholder"):
        source = _outermost_module(getattr(node, "_dynamo_source", None))
        if source is not None:
            root = eval(source.name, {}, scope)  # an expression of Dynamo's own, which its guards evaluate as well
            if isinstance(root, nn.Module):
                yield root


def _outermost_module(source: Any) -> Any:
    found = None
    while source is not None:
        if isinstance(source, compat.NNModuleSource):
            found = source
        source = getattr(source, "base", None)
    return found


def _root_frame() -> Any:
    """Dynamo's interpreter of the frame it traces, None outside of Dynamo."""
    try:
        translator = compat.InstructionTranslator.current_tx()
    except AttributeError:  # nothing was traced in this thread yet
        return None
    return None if translator is None else translator.output.root_tx
