"""Float adds in the bodies of higher-order operators, which are left alone: streams do not enter such a body.

`torch.cond`, `while_loop`, `scan` and the like hold graphs of their own. They are called as a whole and are never
changed; only the bodies of checkpointed blocks are opened (`checkpointed.py`). A score function of `flex_attention`
adds scalars, which are no float adds here or anywhere.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

from torch import fx

from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.normalise import normalise
from mhc_compile.passes.graph.op_kinds import canonical_name
from mhc_compile.passes.graph.sums import is_float_add
from mhc_compile.passes.graph.values import attribute, location_of, module_path_of, shape_of
from mhc_compile.passes.plan.data import Rejection
from mhc_compile.passes.plan.reasons import Reason


def hidden_adds(graph: Ancestry) -> list[tuple[int, Rejection]]:
    """Every float add in a body, as a rejection, with the position of the operator that calls the body.

    A body that is called several times is listed once. The name of an add starts with that of its body.
    """
    bodies: dict[str, int] = {}
    for i, node in enumerate(graph.nodes):
        for name in _bodies(graph.gm, node):
            bodies.setdefault(name, i)
    return [
        (i, found)
        for name, i in bodies.items()
        for found in _adds_in(attribute(graph.gm, name), name, f"in {canonical_name(graph.nodes[i])}")
    ]


def _adds_in(body: fx.GraphModule, name: str, detail: str) -> Iterator[Rejection]:
    """The adds of one body and of those inside it, counted on a copy as those outside are."""
    graph = Ancestry(normalise(fx.GraphModule(body, copy.deepcopy(body.graph))))
    for i, node in enumerate(graph.nodes):
        if is_float_add(graph, i):
            yield _rejection(node, f"{name}.{node.name}", detail)
    for _, inner in hidden_adds(graph):
        yield replace(inner, add=f"{name}.{inner.add}", adds=(f"{name}.{inner.add}",), detail=detail)


def _bodies(gm: fx.GraphModule, node: fx.Node) -> Iterator[str]:
    """Names of the graphs that a node calls. What a function computes in its backward is no part of the model."""
    if node.op != "call_function":
        return
    backward = node.args[1:2] if canonical_name(node).endswith("autograd_function_apply") else ()
    for argument in node.all_input_nodes:
        name = str(argument.target) if argument.op == "get_attr" and argument not in backward else ""
        if name and isinstance(attribute(gm, name), fx.GraphModule):
            yield name


def _rejection(node: fx.Node, name: str, detail: str) -> Rejection:
    return Rejection(
        add=name,
        adds=(name,),
        reason=Reason.HIGHER_ORDER,
        detail=detail,
        shape=shape_of(node),
        module=module_path_of(node),
        location=location_of(node),
    )
