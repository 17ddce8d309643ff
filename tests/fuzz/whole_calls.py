"""Random calls of a whole network, and what is done to it in between, beside the oracle of a fresh trace.

A second, plain network gets the same changes. It is traced anew for each comparison, by `symbolic_trace`, and the plan
of that trace is computed in plain PyTorch with the new parameters of the transformed one: nothing of it can be stale.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import mhc_compile
from mhc_compile.config import Config
from mhc_compile.passes.graph.normalise import normalise
from mhc_compile.passes.order import make_plan
from mhc_compile.verification.formulas import formulas_of
from tests.fuzz.checks import FuzzError, Values, compare, copies, without_dropout
from tests.fuzz.generator import networks
from tests.fuzz.network import build
from tests.fuzz.spec import Network, expected_sites
from tests.seeded import seeded
from tests.zoo.doors import parameters_inside, whole_doors

BOUND, RATE, NOISE = 1e-8, 1e-2, 0.3
MOST_ACTIONS = 4

Action = tuple[str, int, float]
"""Name of an action of `ACTIONS`, number of the module it is about, and a value for it."""


def cases() -> st.SearchStrategy[tuple[Network, tuple[Action, ...]]]:
    """A network with sites and parameters, and what is done to it."""
    drawn = networks().filter(lambda net: net.n > 1 and net.connection != "identity" and expected_sites(net) > 0)
    action = st.tuples(st.sampled_from([*ACTIONS]), st.integers(0, 20), st.sampled_from([0.0, 0.5, 1.0]))
    return st.tuples(drawn, st.lists(action, min_size=1, max_size=MOST_ACTIONS).map(tuple))


def check_whole_calls(net: Network, actions: tuple[Action, ...]) -> None:
    """All checks on one case."""
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pair = Pair(net)
        pair.check("transform")
        for name, index, value in actions:
            ACTIONS[name](pair, index, value)
            pair.check(f"{name}({index}, {value})")


class Pair:
    """A transformed network and an equal plain one.

    Attributes:
        model: the transformed one.
        plain: the other.
        inputs: of both.
        called: names of the modules that a call reaches.
    """

    def __init__(self, net: Network) -> None:
        self.net = net
        model, self.inputs = build(net)
        self.plain = build(net)[0]
        for each in (model, self.plain):
            without_dropout(each)
        options = {"n": net.n, "connection": net.connection, "reduce": net.reduce}
        self.config = Config(**options)
        self.model = mhc_compile.transform(model, example_inputs=copies(self.inputs), modes=("eval",), **options)
        self.initial = copy.deepcopy(dict(self.model.hyper_connections))
        self.called = _called(self.plain, self.inputs)
        move(self.model.hyper_connections.parameters(), net.seed)

    def modules(self, kind: type[nn.Module] | tuple[type[nn.Module], ...], index: int) -> tuple[Any, ...]:
        """A module that is called of the one, and the same of the other; () if there is none of this kind."""
        names = [name for name in self.called if isinstance(self.plain.get_submodule(name), kind)]
        if not names:
            return ()
        name = names[index % len(names)]
        return self.model.get_submodule(name), self.plain.get_submodule(name)

    def expected(self, parameters: Any) -> tuple[Tensor, ...]:
        """What the plan of a fresh trace of the plain network says."""
        gm = fx.symbolic_trace(self.plain)
        with torch.no_grad(), _buffers_kept(self.plain):
            Values(gm).run(*copies(self.inputs))
        gm = normalise(gm)
        plan = make_plan(gm, self.config)
        return seeded(lambda: formulas_of(gm, plan, self.config, parameters).run(*copies(self.inputs)))

    def check(self, what: str) -> None:
        """Call both. Statistics stay as they are: the oracle takes those of each stream one by one."""
        with _buffers_kept(self.model, self.plain):
            expected = self.expected(self.model.hyper_connections)
            compare(expected, seeded(lambda: self.model(*copies(self.inputs))), f"after {what}: ", BOUND)


def _called(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[str, ...]:
    """Names of the modules that a call reaches, in the order of the model: what is done to others has no effect."""
    reached: set[str] = set()
    hooks = [m.register_forward_pre_hook(lambda *_, n=n: reached.add(n)) for n, m in model.named_modules()]
    with torch.no_grad(), _buffers_kept(model):
        model(*copies(inputs))
    for hook in hooks:
        hook.remove()
    return tuple(name for name, _ in model.named_modules() if name in reached)


@contextmanager
def _buffers_kept(*models: nn.Module) -> Iterator[None]:
    before = [(buffer, buffer.clone()) for model in models for buffer in model.buffers()]
    yield
    for buffer, value in before:
        buffer.copy_(value)


def move(parameters: Iterator[nn.Parameter], seed: int) -> None:
    """Add noise, which stands for training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parameters:
            p.add_(NOISE * torch.randn(p.shape, dtype=p.dtype, generator=generator))


def _call_part(pair: Pair, index: int, value: float) -> None:
    """A module that holds whole segments, in the plain model: its sites, and only those, are what they are."""
    paths = whole_doors(pair.model)
    if not paths or pair.net.reduce == "learned":  # whose parameters belong to no site
        return
    path = paths[index % len(paths)]
    outer = mhc_compile.revert(pair.model)
    outer.set_submodule(path, pair.model.get_submodule(path))
    moved = {id(p) for p in parameters_inside(pair.model, path)}
    new = pair.model.hyper_connections
    chosen = {key: new[key] if {id(p) for p in new[key].parameters()} <= moved else pair.initial[key] for key in new}
    with _buffers_kept(outer, pair.plain):
        compare(pair.expected(chosen), seeded(lambda: outer(*copies(pair.inputs))), f"{path} from outside: ", BOUND)


def _without_gradients(pair: Pair, index: int, value: float) -> None:
    with torch.no_grad():
        pair.check("a call without gradients")


def _switch_mode(pair: Pair, index: int, value: float) -> None:
    for model in (pair.model, pair.plain):
        model.train(not model.training)


def _set_eps(pair: Pair, index: int, value: float) -> None:
    for norm in pair.modules((nn.LayerNorm, nn.GroupNorm), index):
        norm.eps = 1e-5 + value


def _set_dropout(pair: Pair, index: int, value: float) -> None:
    for drop in pair.modules(nn.Dropout, index):
        drop.p = float(value > 0.5)


def _swap(pair: Pair, index: int, value: float) -> None:
    """Another layer of the same class, with other weights."""
    for model in (pair.model, pair.plain):
        names = [n for n in pair.called if isinstance(pair.plain.get_submodule(n), (nn.Linear, nn.Conv2d))]
        name = names[index % len(names)]
        other = copy.deepcopy(model.get_submodule(name))
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(0.5 + value)
        model.set_submodule(name, other)


def _change_by_hook(pair: Pair, index: int, value: float) -> None:
    for layer in pair.modules((nn.Linear, nn.Conv2d), index):
        layer.register_forward_hook(lambda module, args, out: out * 0.5 if isinstance(out, Tensor) else None)  # unused


def _copy(pair: Pair, index: int, value: float) -> None:
    pair.model = copy.deepcopy(pair.model)


def _reload(pair: Pair, index: int, value: float) -> None:
    saved = {k: v.clone() if isinstance(v, Tensor) else v for k, v in pair.model.state_dict().items()}
    with torch.no_grad():
        for parameter in pair.model.parameters():
            parameter.add_(1.0)
    pair.model.load_state_dict(saved)


def _step(pair: Pair, index: int, value: float) -> None:
    """A step of SGD on what both have; new parameters have one object, of which the gradients are compared."""
    new = list(pair.model.hyper_connections.parameters())
    with _buffers_kept(pair.model, pair.plain):
        results = pair.model(*copies(pair.inputs)), pair.expected(pair.model.hyper_connections)
        gradients = [torch.autograd.grad(sum(o.square().mean() for o in r), new, allow_unused=True) for r in results]
    for mine, other in zip(*gradients, strict=True):
        if mine is not None or other is not None:
            _same_gradient(mine, other)
    with torch.no_grad():
        for parameter, gradient in zip(new, gradients[0], strict=True):
            parameter.sub_(RATE * (torch.zeros_like(parameter) if gradient is None else gradient.clamp(-1, 1)))


def _same_gradient(mine: Tensor | None, other: Tensor | None) -> None:
    known = mine if mine is not None else other
    assert known is not None
    a, b = (torch.zeros_like(known) if g is None else g for g in (mine, other))
    error, scale = (a - b).abs().max().item(), max(1.0, b.abs().max().item())
    if not error <= BOUND * scale:
        raise FuzzError(f"in a step, a gradient is off by {error:.1e}")


ACTIONS: dict[str, Callable[[Pair, int, float], None]] = {
    "call_part": _call_part,
    "without_gradients": _without_gradients,
    "switch_mode": _switch_mode,
    "set_eps": _set_eps,
    "set_dropout": _set_dropout,
    "swap": _swap,
    "change_by_hook": _change_by_hook,
    "copy": _copy,
    "reload": _reload,
    "step": _step,
}
