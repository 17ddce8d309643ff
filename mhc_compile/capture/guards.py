"""What Dynamo guards while it traces, and what it is told to guard or to let pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mhc_compile import _torch_compat as compat


@contextmanager
def gradients_asked_for() -> Iterator[list[bool]]:
    """Gets an entry when traced code in the block asks a tensor for `requires_grad`, which Dynamo makes a constant."""
    kind, asked = compat.load("TensorVariable"), []
    answer = kind.method_attr_requires_grad

    def answer_and_note(*args: Any) -> Any:
        asked.append(True)
        return answer(*args)

    kind.method_attr_requires_grad = answer_and_note
    try:
        yield asked
    finally:
        kind.method_attr_requires_grad = answer


def guard_while_compiled(check: Callable[[], bool], what: str) -> None:
    """Where Dynamo traces, let the code that it makes hold only as long as `check()` is true; `what` names that."""
    context = compat.load("TracingContext").try_get()
    if context is None:
        return

    def create(builder: Any, guard: Any) -> None:
        builder.add_python_lambda_leaf_guard_to_root(["___mhc_check()"], [what], {"___mhc_check": check})

    context.guards_context.dynamo_guards.add(compat.load("GlobalStateSource")().make_guard(create))


_EXPORT_ROOT = "L['self']._modules['_export_root']"
"""How Dynamo names the model in the guards of `dynamo_graph_capture`."""

_GLOBALS = re.compile(r"(?<![\w.])G\[")
"""The same of the globals of the traced code; an attribute may be called so, too."""

_LOCALS = re.compile(r"(?<![\w.])L\[")
"""And of the inputs of the call, which have guards of their own."""


@dataclass(frozen=True)
class GuardRecord:
    """One guard of Dynamo's on a model, or on what lies outside of it.

    Attributes:
        kind: such as `CONSTANT_MATCH`.
        name: an expression for what is guarded, such as `root._modules['drop'].p` or `scope['SCALE']`.
        arguments: of the guard.
        scope: what `scope` stands for in the name; `root` is the model.
    """

    kind: str
    name: str
    arguments: dict[str, Any]
    scope: dict[str, Any] = field(repr=False)


@contextmanager
def recorded_guards() -> Iterator[list[GuardRecord]]:
    """Collects the guards of what `dynamo_graph_capture` captures in the block.

    The capture throws them away, so they are taken on the way through; one thread at a time. What it keeps is its
    graph, in the globals of a module of PyTorch, and with it every parameter: that is taken out at the end.
    """
    found: list[GuardRecord] = []
    installed: list[tuple[dict[str, Any], str]] = []
    module, capture = compat.load("functional_export"), compat.load("fullgraph_capture")

    def capture_and_record(*args: Any, **kwargs: Any) -> Any:
        captured = capture(*args, **kwargs)
        graph = captured.graph_capture_output.output_graph
        if captured.backend_input is not None:
            installed.append((graph.global_scope, captured.backend_input.backend_id))
        for guard in graph.guards:
            create = guard.create_fn
            name = guard.name.replace(_EXPORT_ROOT, "root")
            if not _LOCALS.search(name):
                kind, arguments = getattr(create, "func", create).__name__, dict(getattr(create, "keywords", {}))
                if "source_b" in arguments:  # of what is the same object
                    arguments["other"] = arguments["source_b"].name.replace(_EXPORT_ROOT, "root")
                found.append(GuardRecord(kind, _GLOBALS.sub("scope[", name), arguments, graph.global_scope))
        # Compiling them takes an eighth of a capture and serves constraints on sizes, of which there are none.
        captured.graph_capture_output.build_guards = lambda *_, **__: None
        return captured

    module.fullgraph_capture = capture_and_record
    try:
        yield found
    finally:
        module.fullgraph_capture = capture
        for scope, name in installed:
            scope.pop(name, None)


_LEAVES_CHECK = "_check_requires_grad_intermediate_outputs"


@contextmanager
def leaves_allowed() -> Iterator[None]:
    """Lets captures hold `requires_grad_()` of a value on the way, as PEFT's recipe for checkpointing has it.

    Dynamo refuses it because AOTAutograd would drop it; what is captured runs as it stands. One thread at a time.
    """
    kind = compat.load("OutputGraph")
    check = vars(kind).get(_LEAVES_CHECK)  # PyTorch 2.13 has none
    if check is None:
        yield
        return
    setattr(kind, _LEAVES_CHECK, lambda *_: None)
    try:
        yield
    finally:
        setattr(kind, _LEAVES_CHECK, check)
