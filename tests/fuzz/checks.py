"""What must hold for one drawn network. Every failure raises `FuzzError` with the reason."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, fx, nn

import mhc_compile
from mhc_compile.config import Config
from mhc_compile.errors import NothingToTransformWarning
from mhc_compile.passes.graph.normalise import normalise
from mhc_compile.passes.order import make_plan
from mhc_compile.passes.plan.data import Plan
from mhc_compile.verification.formulas import formulas_of
from tests.fuzz.network import Model, build
from tests.fuzz.spec import Network, expected_sites
from tests.seeded import seeded

BOUND, MOVED = 1e-10, 1e-8
_NOISE = 0.3  # how far new parameters are moved, which stands for training
_ADDS = {"add": 1, "sub": 1, "iadd": 1, "isub": 1, "addcmul": 1, "addcdiv": 1, "index_add": 1, "scatter_add": 1,
         "cumsum": 1, "lerp": 2}  # fmt: skip
"""How many adds a call is, by name."""

_STEPS, _RATE = 2, 1e-2


class FuzzError(AssertionError):
    """A drawn network is not rewritten as it must be."""


class Values(fx.Interpreter):
    """Runs a graph and leaves each value on its node, as the passes want to find it."""

    def run_node(self, n: fx.Node) -> object:
        """As the base class, and remembers the result."""
        n.meta["val"] = super().run_node(n)
        return n.meta["val"]


def check_traced(net: Network, learn: bool = False) -> None:
    """All checks on the `symbolic_trace` of a network; `learn` adds train mode and two steps of SGD."""
    model, inputs = build(net)
    gm = fx.symbolic_trace(model)
    with torch.no_grad():
        Values(gm).run(*copies(inputs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingToTransformWarning)
        rewritten, plan = mhc_compile.rewrite(gm, n=net.n, connection=net.connection, reduce=net.reduce)
    check_plan(net, plan, _float_adds(gm))
    check_preserved(model, rewritten, inputs)
    check_left_out(net, model, inputs, plan)
    if learn:
        check_training(model, rewritten, inputs, plan)
    check_moved(net, gm, rewritten, plan, inputs)


def check_moved(net: Network, gm: fx.GraphModule, rewritten: nn.Module, plan: Plan, inputs: Sequence[Tensor]) -> None:
    """What the rewritten model computes once its new parameters have moved is what the plan says, in both modes."""
    if not plan.sites:
        return
    plain = normalise(fx.GraphModule(gm, copy.deepcopy(gm.graph)))
    config = Config(n=net.n, connection=net.connection, reduce=net.reduce)
    new = rewritten.get_submodule("hyper_connections")
    with torch.no_grad():
        for i, p in enumerate(new.parameters()):
            p.add_(_NOISE * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(net.seed + i)))
        for training in (False, True):
            for module in (plain, rewritten):
                without_dropout(module.train(training))
            expected = seeded(lambda: formulas_of(plain, plan, config, new).run(*copies(inputs)))
            compare(
                expected,
                seeded(lambda: rewritten(*copies(inputs))),
                f"moved, {'train' if training else 'eval'} mode: ",
                MOVED,
            )


def check_transformed(net: Network) -> None:
    """All checks on `transform`, which captures with Dynamo, train mode included."""
    torch.compiler.reset()
    model, inputs = build(net)
    without_dropout(model)  # before the capture, which takes probabilities as constants
    options = {"connection": net.connection, "reduce": net.reduce}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingToTransformWarning)
        transformed = mhc_compile.transform(model, n=net.n, example_inputs=copies(inputs), **options)
    plan = getattr(transformed, "mhc_plan", None) or mhc_compile.plan(model, example_inputs=copies(inputs))
    check_plan(net, plan, plan.float_adds)
    check_preserved(model, transformed, inputs)
    check_training(model, transformed, inputs, plan)


def check_left_out(net: Network, model: Model, inputs: Sequence[Tensor], plan: Plan) -> None:
    """Sites keep their keys where a layer is left out.

    More uses of the same weights than before are another level: what a long skip was around is converted then, for the
    chain that it was in has become shorter.
    """
    if len(net.body) < 2:
        return
    left_out = net.seed % len(net.body)
    model.body.left_out = left_out
    gm = fx.symbolic_trace(model)
    model.body.left_out = -1
    with torch.no_grad():
        Values(gm).run(*copies(inputs))
    keys = _keys(plan)
    for weights, found in _keys(make_plan(gm, Config(n=net.n))).items():
        known = keys.get(weights, found)
        if not found <= known and len(found) <= len(known):
            raise FuzzError(f"without layer {left_out}: {found} instead of {keys[weights]}")


def _keys(plan: Plan) -> dict[tuple[str, ...], set[str]]:
    """Weights of a branch -> the keys of all sites that have them."""
    keys: dict[tuple[str, ...], set[str]] = {}
    for site in plan.sites:
        keys.setdefault(site.weights, set()).add(site.key)
    return keys


def check_plan(net: Network, plan: Plan, float_adds: int) -> None:
    """As many sites as there are by construction, over the channels, and every float add is decided exactly once."""
    expected = expected_sites(net)
    if len(plan.sites) != expected:
        raise FuzzError(f"found {len(plan.sites)} sites, there are {expected}\n{plan}")
    wrong = [f"{s.key}: axis {s.channel_axis} of {s.shape}" for s in plan.sites if s.channels != net.channels]
    if wrong:
        raise FuzzError(f"not the channels: {', '.join(wrong)}\n{plan}")
    decided = list(chain.from_iterable(part.adds for part in (*plan.sites, *plan.rejected)))
    if len(set(decided)) != len(decided):
        twice = sorted({name for name in decided if decided.count(name) > 1})
        raise FuzzError(f"decided twice: {', '.join(twice)}\n{plan}")
    if not len(decided) == plan.float_adds == float_adds:
        raise FuzzError(f"{len(decided)} adds decided, the plan says {plan.float_adds}, there are {float_adds}\n{plan}")


def check_preserved(model: Model, rewritten: nn.Module, inputs: Sequence[Tensor]) -> None:
    """The rewritten model computes what the model does, in the mode both are in."""
    with torch.no_grad():
        before, after = (seeded(lambda m=m: tuple(m(*copies(inputs)))) for m in (model, rewritten))
    compare(before, after)


def compare(before: Sequence[Tensor], after: Sequence[Tensor], what: str = "", bound: float = BOUND) -> None:
    """Raise if outputs differ, relative to the size of the first ones."""
    if len(before) != len(after):
        raise FuzzError(f"{what}{len(after)} outputs instead of {len(before)}")
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        if a.shape != b.shape:
            raise FuzzError(f"{what}output {i} has shape {tuple(b.shape)} instead of {tuple(a.shape)}")
        error, rms = (a - b).abs().max().item(), a.square().mean().sqrt().item()
        if not error <= bound * rms:
            raise FuzzError(f"{what}output {i} is off by {error:.1e} at an rms of {rms:.1e}")


def check_training(model: Model, rewritten: nn.Module, inputs: Sequence[Tensor], plan: Plan) -> None:
    """The function is kept in train mode too, and every new parameter tensor gets a gradient within two steps."""
    without_dropout(model)  # which element a number is drawn for depends on how it lies in memory
    without_dropout(rewritten)
    check_preserved(model.train(), rewritten.train(), inputs)
    if not plan.sites:
        return
    new = dict(rewritten.get_submodule("hyper_connections").named_parameters())
    silent = set(new)
    for _ in range(_STEPS):
        rewritten.zero_grad()
        _loss(rewritten(*copies(inputs))).backward()
        silent -= {name for name in silent if _has_gradient(new[name])}
        _step(rewritten)
    if silent:
        raise FuzzError(f"no gradient in {_STEPS} steps: {', '.join(sorted(silent))}\n{plan}")


def _step(model: nn.Module) -> None:
    """A step of SGD. One of `torch.optim` would look through the process for all that it does not train."""
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(_RATE * parameter.grad)


def without_dropout(model: nn.Module) -> None:
    """Set all probabilities to zero."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _loss(outputs: Sequence[Tensor]) -> Tensor:
    torch.manual_seed(0)
    return torch.stack([(o * torch.randn_like(o)).sum() for o in outputs]).sum()


def _has_gradient(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.count_nonzero())


def copies(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Models may write into their inputs."""
    return tuple(x.clone() for x in inputs)


def _float_adds(gm: fx.GraphModule) -> int:
    """Float adds of rank >= 2 of a graph that was run, counted without the passes."""
    counted = [n for n in gm.graph.nodes if isinstance(v := n.meta.get("val"), Tensor) and v.is_floating_point()]
    return sum(_adds_of(n) for n in counted if n.meta["val"].dim() >= 2)


def _adds_of(node: fx.Node) -> int:
    if node.op not in ("call_function", "call_method"):
        return 0
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    source = node.args[0] if node.args else None
    if name in ("sum", "mean") and isinstance(source, fx.Node) and "stack" in str(source.target):
        return len(source.args[0]) - 1
    return _ADDS.get(name.removesuffix("_"), 0)
