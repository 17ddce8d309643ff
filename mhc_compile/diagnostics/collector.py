"""What is looked at while a rewritten model runs: streams in front of each site, coefficients, branch outputs.

Coefficients are computed again from the observed streams and the parameters, by the formulas that every kernel is held
against, for some of the tokens: that costs the same whichever kernels run, and a fused step gives away no read weights.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mhc_compile import _torch_compat as compat
from mhc_compile.diagnostics.tokens import alikeness, all_finite, all_of, coefficients_of, pick
from mhc_compile.kernels.formulas.connections import find
from mhc_compile.kernels.operators import single_pass
from mhc_compile.kernels.operators import streams as kernels
from mhc_compile.kernels.operators.sources import read_sources
from mhc_compile.passes.plan.data import Plan, Site
from mhc_compile.programs.unsharded import own_part
from mhc_compile.twin.hyper_connections import HyperConnections

_GATES = ("coefficients", "gate", "single_gate")
_WRITES = ("write", "write_packed", "leave", "single_leave")
_BOTH = ("boundary", "single_boundary")
_READS = ("read",)


@dataclass
class Seen:
    """One site in one call; coefficients of T of its tokens, in their own dtype, on their device.

    Attributes:
        all_tokens: number of tokens.
        pre: `[n, T]`, what the site has computed; `post` likewise.
        post: see `pre`.
        R: `[n, n, T]`.
        read: `[n, T]`, the weights that its branch was read with.
        gram: `[n, n, T]`, mean over channels of products of two streams in front of the site.
        apart: `[T]`, mean square of what streams have on top of their mean; `centre [T]` is that of the mean.
        centre: see `apart`.
        finite: what was looked at -> a scalar that says whether all of it is finite.
        times: how often its coefficients were computed.
    """

    all_tokens: int
    pre: Tensor
    post: Tensor
    R: Tensor
    read: Tensor
    gram: Tensor
    apart: Tensor
    centre: Tensor
    finite: dict[str, Tensor] = field(default_factory=dict)
    times: int = 1


class Collector:
    """Observes one call. The first time that a site runs counts: a backward may run its code again.

    Attributes:
        seen: by site key, in the order in which sites ran.
    """

    def __init__(
        self,
        connections: HyperConnections,
        plans: Callable[[], Iterable[Plan]],
        tokens: int,
        on_site: Callable[[str], None] = lambda key: None,
    ) -> None:
        """Nothing is observed before the functions of `substitutes` are called.

        Args:
            connections: the new parameters.
            plans: what is rewritten in the code that runs; asked for while it runs.
            tokens: look at so many per site at most.
            on_site: told the key of each site.
        """
        self._connections, self._plans, self._tokens, self._on_site = connections, plans, tokens, on_site
        self._known: tuple[int, dict[str, Site]] = 0, {}
        self.restart()

    def restart(self) -> None:
        """Forget the last call."""
        self.seen: dict[str, Seen] = {}
        self._keys: dict[int, str] = {}
        self._nameless: Iterator[str] | None = None
        self._written: dict[int, str] = {}  # address of the coefficients of a write -> site
        self._read_from: dict[int, tuple[str, int]] = {}  # address of streams -> site and axis, if read by another's

    def substitutes(self) -> dict[Callable[..., Any], Callable[..., Any]]:
        """For each function that a rewrite puts into a graph, one that computes the same and looks."""
        names = [name for plain in (*_GATES, *_BOTH, *_WRITES, *_READS) for name in (plain, f"entry_{plain}")]
        functions = {name: getattr(single_pass if "single" in name else kernels, name) for name in names}
        functions["read_sources"] = read_sources
        return {function: self._looking(name, function) for name, function in functions.items()}

    def _looking(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        plain, entry = name.removeprefix("entry_"), name.startswith("entry_")

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if not compat.functorch_active():
                with torch.no_grad(), kernels.full_precision(args[0][-1] if plain == "read_sources" else args[0]):
                    self._look(plain, entry, args, kwargs, result)
            return result

        return call

    def _look(self, name: str, entry: bool, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        if name == "read_sources":
            self._note_sources(args[0], args[1], result, kwargs["connection"], kwargs["axis"])
            return
        X = args[0].unsqueeze(0) if entry else args[0]
        n = kwargs["n"] if "n" in kwargs else X.shape[0]
        if name in _READS:
            self._note_read(X, args[1])
        elif name in _GATES:
            connection = kwargs.get("connection", "mhc")
            mix = result[2] if name == "coefficients" else result[1]
            self._note_gate(X, args[1], connection, n, kwargs["axis"], mix)
        else:
            self._note_branch(args[1], args[3 if name == "write" else 2])
            if name in _BOTH:
                connection = kwargs.get("connection", "mhc")
                self._note_gate(result[0], args[-1], connection, n, kwargs["axis"], result[-1])
            if name == "single_boundary":
                self._note_packed_read(result[0], args[3])

    def _note_gate(self, X: Tensor, params: Sequence[Tensor], connection: str, n: int, axis: int, mix: Tensor) -> None:
        key = self._key_of(params)
        if key is None:
            return
        self._written[mix.data_ptr()] = key
        known = self.seen.get(key)
        if known is not None and not self._moves_axes(key, known):
            return
        V = own_part(X).movedim(axis % (X.ndim - 1) + 1, -1)
        rows = pick(V, self._tokens)
        pre, post, R = coefficients_of(rows, params, connection, n)
        if known is not None:  # a view lies between read and write, which has coefficients of its own
            known.post, known.R, known.times = post, R, known.times + 1
            known.all_tokens = math.prod(V.shape[1:-1])
            return
        if find(connection, n).single_pass:
            self._read_from[X.data_ptr()] = key, axis % (X.ndim - 1)
        seen = Seen(math.prod(V.shape[1:-1]), pre, post, R, pre, *alikeness(rows, n))
        seen.finite = {
            "streams": all_finite(X),
            "parameters": all_of(map(all_finite, params), X),
            "coefficients": all_of(map(all_finite, (pre, post, R, mix)), X),
        }
        self.seen[key] = seen
        self._on_site(key)

    def _note_sources(
        self, values: Sequence[Tensor], params: Sequence[Tensor], u: Tensor, connection: str, axis: int
    ) -> None:
        """A read of a list of sources: of the sum that goes on, one stream with coefficients of 1, and what is read."""
        key = self._key_of(params)
        if key in self._sites() and key not in self.seen:
            X = values[-1].unsqueeze(0)
            self._note_gate(X, params, connection, 1, axis, u)
            self.seen[key].finite["streams"] = all_of(map(all_finite, values), u)

    def _moves_axes(self, key: str, known: Seen) -> bool:
        """Whether coefficients are computed a second time, at the skip."""
        return known.times == 1 and key in self._sites() and self._sites()[key].moves_axes

    def _sites(self) -> dict[str, Site]:
        """Of the plans there are so far, by key."""
        plans = list(self._plans())
        if len(plans) != self._known[0]:
            self._known = len(plans), {site.key: site for plan in plans for site in plan.sites}
        return self._known[1]

    def _note_read(self, X: Tensor, pre: Tensor) -> None:
        """Under single-pass connections a branch is read with the weights of the site before."""
        found = self._read_from.pop(X.data_ptr(), None)
        if found is None:
            return
        key, axis = found
        tokens = [size for i, size in enumerate(X.shape[1:]) if i != axis]
        n = self.seen[key].read.shape[0]  # at an entry the weights of equal streams come as they are, or summed
        weights = pre.squeeze(axis + 1).expand(n, *tokens)
        self.seen[key].read = pick(weights.unsqueeze(-1), self._tokens).squeeze(-1)

    def _note_packed_read(self, X: Tensor, pre: Tensor) -> None:
        """The same where write, read and coefficients are one step: its weights are packed, `[T, n]`."""
        found = self._read_from.pop(X.data_ptr(), None)
        if found is not None:
            self.seen[found[0]].read = pick(pre.mT.unsqueeze(-1), self._tokens).squeeze(-1)

    def _note_branch(self, y: Tensor, mix: Tensor) -> None:
        key = self._written.get(mix.data_ptr())
        if key in self.seen and "branch" not in self.seen[key].finite:
            self.seen[key].finite["branch"] = all_finite(y)

    def _key_of(self, params: Sequence[Tensor]) -> str | None:
        if not params:  # one stream: sites have no parameters, and run in the order of the plan
            self._nameless = self._nameless or iter(_order_of_running(list(self._sites().values())))
            return next(self._nameless, None)
        if id(params[0]) not in self._keys:  # gathered for this call, or put in the place of another one
            own = self._connections.itself
            self._keys |= {id(p): key for key, module in own.items() for p in module.parameters()}
        return self._keys.get(id(params[0]))


def _order_of_running(sites: Sequence[Site]) -> list[str]:
    """Keys in the order in which sites are gated: right behind the write of the site before."""
    place = {site.key: i for i, site in enumerate(sites)}
    return [s.key for s in sorted(sites, key=lambda s: (place.get(s.before, place[s.key] - 1), place[s.key]))]
