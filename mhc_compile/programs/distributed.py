"""Programs for a model whose modules are distributed over processes by something else than `fully_shard`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

from torch import fx, nn

from mhc_compile._torch_compat import is_cut
from mhc_compile.errors import ParallelError
from mhc_compile.programs.ownership import Served
from mhc_compile.programs.unsharded import make_whole
from mhc_compile.twin.module_tree import HOOKS, State, second_tree, shallow
from mhc_compile.twin.names import named_modules
from mhc_compile.twin.parallel import distributes_values, is_parallel, meshes, whole_modules


def called_whole(owner: Served) -> frozenset[str]:
    """Names of the modules that code is to call as a whole; none where the model is not distributed.

    Raises:
        ParallelError: a module with sites inside distributes what it takes or returns.
    """
    return modules_to_call(owner) if is_parallel(list(owner.modules())) else frozenset()


def modules_to_call(owner: Served) -> frozenset[str]:
    """The same of a model that is distributed, or will be.

    Raises:
        ParallelError: a module with sites inside distributes what it takes or returns.
    """
    modules = dict(named_modules(owner))
    whole = whole_modules(owner, {site.module for plan in owner._mhc.plans for site in plan.sites})
    inside = tuple(f"{path}." for path in whole)
    for path, module in modules.items():
        if path and path not in whole and not path.startswith(inside) and distributes_values(module):
            raise ParallelError(
                f"{path} holds residual connections, and something distributes what it takes or returns over several "
                "processes, such as PrepareModuleInput: its generated code takes streams. Put that on the modules "
                "inside of it, the norms, attention and feed-forward parts"
            )
    if not whole:
        raise ParallelError(
            "the model is distributed over several processes, and no module of it is without residual connections, so "
            "that none can be called as a whole: put what is distributed into modules of its own"
        )
    return frozenset(whole)


def check_uncut(owner: Served, known: Iterable[str]) -> None:
    """Refuse a part of a model that an engine has made a stage of a pipeline by deleting the rest.

    Args:
        owner: the part.
        known: names of the modules that it had in earlier traces.

    Raises:
        ParallelError: layers are gone, and modules around them are None. Streams would end at the borders of the part.
    """
    emptied = [name for name in known if name in owner._modules and owner._modules[name] is None]
    modules = dict(owner.named_modules())
    gone = [site.module for plan in owner._mhc.plans for site in plan.sites if site.module not in modules]
    if emptied and gone:
        raise ParallelError(
            f"{', '.join(emptied)} of this model are None and {gone[0]} is gone, as in a stage that an engine cuts "
            "out: its streams would end at its borders. Write mhc_compile.pipeline.split(model, at=[...]) for stages, "
            "or use mhc_compile.torchtitan; to leave the parts out on purpose, do so before transform"
        )


def spread_over(gm: fx.GraphModule, owner: Served) -> None:
    """Let a rewritten graph of `owner` compute on tensors that are distributed as its parameters are."""
    from mhc_compile.passes.rewrite.spread import let_spread  # late, for it imports torch.distributed.tensor
    from mhc_compile.programs.gradient_sums import GradientSums

    known, kept = weakref.ref(owner), owner._mhc
    kept.sums = kept.sums or GradientSums(owner)
    let_spread(gm.graph, lambda: meshes(model.modules()) if (model := known()) is not None else [], kept.sums)


def undistributed(model: nn.Module) -> nn.Module | None:
    """A second tree over a model that was distributed before it is transformed, to be traced: with whole parameters.

    None for a model that is not distributed.

    Raises:
        ParallelError: torchtitan has replaced forwards, which call modules of this object and no other.
    """
    modules = list(model.modules())
    if not is_parallel(modules):
        return None
    for path, module in model.named_modules():
        if "forward" in vars(module) and distributes_values(module):
            raise ParallelError(
                f"{path or 'the model'} was parallelised by torchtitan, whose new forward calls this object: write "
                "mhc_compile.transform(model, ...) first and parallelise the result, or use mhc_compile.torchtitan"
            )
    second: nn.Module = object.__new__(type(model))
    vars(second).update(shallow(model))
    second_tree(model, second, _without_distribution)
    tensors = (t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None)
    make_whole(second, {id(t): (t.dtype, t.device) for t in tensors if is_cut(t)})
    return second


def _without_distribution(module: nn.Module) -> tuple[type[nn.Module], State]:
    state = shallow(module)
    if distributes_values(module):
        state.update({name: type(state[name])() for name in HOOKS})
    return type(module), state


def refuse_fallback(owner: Served, call: Callable[[], str]) -> None:
    """Refuse what would run through Dynamo, whose graphs know nothing of gradients that have to be added up.

    Raises:
        ParallelError: the model is distributed.
    """
    if is_parallel(owner.modules()):
        raise ParallelError(
            f"{call()} is no one graph, and the model is distributed over several processes: hand in tensors, numbers "
            "and texts only (an attention that needs no mask object, no cache), or use fully_shard alone"
        )
