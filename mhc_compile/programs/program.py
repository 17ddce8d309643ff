"""A rewritten graph as a pure function of the module that owns the parameters and the flat inputs of a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from mhc_compile import _torch_compat as compat
from mhc_compile._torch_compat import tree_unflatten
from mhc_compile.capture.autocast import autocast_state
from mhc_compile.capture.input_spec import InputSpec
from mhc_compile.capture.reads import Reads
from mhc_compile.capture.trace import Captured
from mhc_compile.errors import CaptureError
from mhc_compile.programs.linking import compile_graph, split
from mhc_compile.twin.owned import Owner

_MISSING = object()


@dataclass(frozen=True)
class Program:
    """The code of one variant of `forward` and the calls it serves.

    It holds no parameter: names are looked up on the live module at each call, so replacing parameters, `.to()`,
    `load_state_dict` and weight tying work as in any module. Weights tied while tracing are read under one name, so
    once they are no longer tied it holds no more.

    Attributes:
        reads: what it depends on in the model.
        input_spec: the calls it is valid for.
        grad_mode: gradient mode it needs, None for any.
        autocast: state of autocast that it needs, None for any.
        function: `function(owner, *constants, *flat_inputs)`, a tuple of flat outputs.
        constants: tensors and graph modules that belong to the trace and not to the module tree.
        out_spec: structure of the outputs.
        source: the code of `function`, for the reader.
        entered: names of the modules whose calls run a part of it.
    """

    reads: Reads
    input_spec: InputSpec
    grad_mode: bool | None
    autocast: tuple[Any, ...] | None
    function: Callable[..., Any]
    constants: tuple[Any, ...]
    out_spec: Any
    source: str
    entered: frozenset[str]

    def takes(self, flat: Sequence[Any], tree: Any) -> bool:
        """Whether it is for inputs like these, in the modes of the moment. Plain Python: Dynamo inlines it."""
        if self.grad_mode is not None and self.grad_mode != torch.is_grad_enabled():
            return False
        if self.autocast is not None and self.autocast != autocast_state():
            return False
        return self.input_spec.matches(flat, tree)

    @property
    def holds_tensors(self) -> bool:
        """Whether it has tensors of its own, which may be those of objects that the model holds."""
        return not all(isinstance(constant, fx.GraphModule) and _reads_nothing(constant) for constant in self.constants)

    def __call__(self, owner: nn.Module, flat: Sequence[Any]) -> Any:
        """Run on the owner's parameters; outputs have the structure of the model's own."""
        return tree_unflatten(self.function(owner, *self.constants, *flat), self.out_spec)


def build_program(
    captured: Captured, gm: fx.GraphModule, owner: Owner, path: str = "", whole: frozenset[str] = frozenset()
) -> Program:
    """Compile a rewritten graph for `owner`, whose current state it is bound to.

    Args:
        captured: the trace `gm` was rewritten from.
        gm: the rewritten graph; changed in place.
        owner: the module its parameter names refer to.
        path: name of the module in it that the program is a call of.
        whole: names of modules with marks on their borders; none where the model is not distributed.

    Raises:
        CaptureError: the trace holds a value that exists only while tracing.
        ParallelError: a distributed module cannot be called as a whole.
    """
    constants = _lift_constants(gm, owner)
    graph, layout = split(gm.graph, owner, captured.calls, path, whole)
    function, source = compile_graph(graph)
    return Program(
        replace(captured.reads.of_program(layout.entered, layout.whole).found_in(owner), parallel=bool(whole)),
        captured.input_spec,
        captured.grad_mode,
        captured.autocast,
        function,
        constants,
        captured.out_spec,
        source,
        layout.entered,
    )


def _lift_constants(gm: fx.GraphModule, owner: nn.Module) -> tuple[Any, ...]:
    """Turn attributes that the owner does not have into leading placeholders; returns their values in order."""
    graph = gm.graph
    first = next(iter(graph.nodes))
    lifted: dict[str, fx.Node] = {}
    for node in [n for n in graph.nodes if n.op == "get_attr" and _attribute(owner, n.target) is _MISSING]:
        if node.target not in lifted:
            with graph.inserting_before(first):
                lifted[node.target] = graph.placeholder(f"constant_{len(lifted)}")
        node.replace_all_uses_with(lifted[node.target])
        graph.erase_node(node)
    values = tuple(_attribute(gm, target) for target in lifted)
    for target, value in zip(lifted, values, strict=True):
        if value is _MISSING or isinstance(value, compat.FakeTensor):
            raise CaptureError(
                f"the traced code reads {target}, which is neither a parameter nor a buffer of the model: "
                "register it with model.register_buffer(name, tensor)"
            )
    return values


def _reads_nothing(gm: fx.GraphModule) -> bool:
    """Whether a body, such as that of an autograd function, gets all that it uses as arguments."""
    return not gm.graph.find_nodes(op="get_attr")


def _attribute(root: Any, target: str) -> Any:
    for part in target.split("."):
        root = getattr(root, part, _MISSING)
        if root is _MISSING:
            break
    return root
