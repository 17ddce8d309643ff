"""The public function on graphs: rewrite any traced `GraphModule`, module-level or ATen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from mhc_compile import _torch_compat as compat
from mhc_compile.capture.graph_module import copy_graph_module
from mhc_compile.capture.inference import make_ordinary
from mhc_compile.config import make_config
from mhc_compile.errors import InputMismatchError, MissingInputsError, NotAModuleError
from mhc_compile.passes.plan.data import Plan
from mhc_compile.programs.nothing_found import warn_of_nothing
from mhc_compile.programs.specs import initial_sites
from mhc_compile.programs.untransformed import check_untransformed
from mhc_compile.twin.hyper_connections import CHILD, HyperConnections
from mhc_compile.twin.reserved import check_free


def rewrite(
    gm: fx.GraphModule, n: int = 4, *, example_inputs: Sequence[Any] | Any | None = None, **options: Any
) -> tuple[fx.GraphModule, Plan]:
    """Rewrite the residual connections of a traced graph.

    Args:
        gm: from `torch.fx.symbolic_trace`, `torch.export.export(...).module()`, `make_fx` or Dynamo. Left as it is.
        n: number of streams, 1 to 8.
        example_inputs: flat inputs, needed only if the graph carries no shapes (`meta["val"]`).
        **options: fields of `Config`.

    Returns:
        A new `GraphModule` over the same parameters, with the child `hyper_connections` unless nothing was found,
        and the plan.

    Raises:
        NotAModuleError: `gm` is no `GraphModule`.
        MissingInputsError: it carries no shapes and `example_inputs` is None.
        InputMismatchError: it cannot be run on `example_inputs`.
        MhcError: as for `mhc_compile.transform`.
    """
    from mhc_compile.passes.order import make_plan, rewrite_graph  # late

    config = make_config(n, options)
    if not isinstance(gm, fx.GraphModule):
        raise NotAModuleError(
            f"got a {type(gm).__name__}, which is no torch.fx.GraphModule: "
            "write mhc_compile.transform(model, example_inputs=(x,)) for modules"
        )
    check_untransformed(gm)
    check_free(gm)
    make_ordinary(gm)
    copied = copy_graph_module(gm)
    if not _has_shapes(copied):
        _propagate(copied, example_inputs)
    plan = make_plan(copied, config)
    if not plan.sites:
        warn_of_nothing(plan, config)
        return copied, plan
    copied.add_module(CHILD, HyperConnections(initial_sites([plan], config, copied), config).train(gm.training))
    rewritten = rewrite_graph(copied, plan, config)
    rewritten.graph.lint()
    rewritten.recompile()
    return rewritten, plan


def _has_shapes(gm: fx.GraphModule) -> bool:
    calls = [n for n in gm.graph.nodes if n.op.startswith("call")]
    return any("val" in n.meta or "example_value" in n.meta for n in calls)


def _propagate(gm: fx.GraphModule, example_inputs: Sequence[Any] | Any | None) -> None:
    """Put fake values on every node, by running the graph on fake tensors."""
    if example_inputs is None:
        raise MissingInputsError(
            "the graph carries no shapes: write mhc_compile.rewrite(gm, n=4, example_inputs=(x,)) to have them inferred"
        )
    flat = compat.tree_flatten(
        (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    )[0]
    try:
        compat.FakeTensorProp(gm, compat.FakeTensorMode(allow_non_fake_inputs=True)).propagate(*flat)
    except Exception as error:
        raise InputMismatchError(f"the graph cannot be run on example_inputs: {error}") from error
