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
from mhc_compile.kernels.formulas.connections import find
from mhc_compile.kernels.operators import streams as kernels
from mhc_compile.passes.plan.data import Plan, Site
from mhc_compile.programs.unsharded import own_part
from mhc_compile.twin.hyper_connections import HyperConnections

_GATES = ("coefficients", "gate")
_WRITES = ("write", "write_packed", "leave")
_BOTH = ("boundary",)
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
        return {function: self._looking(name, function) for name in names if (function := getattr(kernels, name))}

    def _looking(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        plain, entry = name.removeprefix("entry_"), name.startswith("entry_")

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if not compat.functorch_active():
                with torch.no_grad(), kernels.full_precision(args[0]):
                    self._look(plain, entry, args, kwargs, result)
            return result

        return call

    def _look(self, name: str, entry: bool, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
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
                self._note_gate(result[0], args[3], "mhc", n, kwargs["axis"], result[2])

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
            "parameters": _all(map(all_finite, params), X),
            "coefficients": _all(map(all_finite, (pre, post, R, mix)), X),
        }
        self.seen[key] = seen
        self._on_site(key)

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


def coefficients_of(rows: Tensor, params: Sequence[Tensor], connection: str, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """`pre [n, T]`, `post [n, T]`, `R [n, n, T]` by the formulas, from streams `[n, T, C]`, or `[1, T, C]` if equal."""
    if rows.shape[0] == n:
        found = kernels.coefficients(rows, params, connection=connection, axis=-1)
    else:
        found = kernels.entry_coefficients(rows[0], params, connection=connection, n=n, axis=-1)
    # Copied: static coefficients are views of parameters, which FSDP2 frees behind the block.
    pre, post, R = (value.squeeze(-1).clone() for value in found)
    T = rows.shape[1]
    return pre.expand(n, T), post.expand(n, T), R.expand(n, n, T)


def pick(V: Tensor, tokens: int) -> Tensor:
    """`[m, *token dims, C]` as `[m, T, C]`: all tokens, or so many of them, evenly spaced."""
    count = math.prod(V.shape[1:-1])
    if count <= tokens:
        return V.reshape(V.shape[0], count, V.shape[-1])
    index = torch.arange(tokens, device=V.device) * count // tokens
    place: tuple[Any, ...] = (slice(None), *torch.unravel_index(index, V.shape[1:-1]))
    return V[place]


def all_finite(tensor: Tensor) -> Tensor:
    """A scalar that says whether all values are finite, in one pass without a copy."""
    tensor = own_part(tensor.detach())
    if not tensor.numel():
        return torch.ones((), dtype=torch.bool, device=tensor.device)
    low, high = torch.aminmax(tensor)  # NaN comes through
    return torch.isfinite(low) & torch.isfinite(high)


def _all(flags: Iterable[Tensor], like: Tensor) -> Tensor:
    found = list(flags)
    return torch.stack(found).all() if found else torch.ones((), dtype=torch.bool, device=like.device)


def alikeness(rows: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """`gram`, `apart` and `centre` of streams `[n, T, C]`, or `[1, T, C]` if all are equal."""
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    gram = torch.einsum("itc,jtc->ijt", wide, wide) / rows.shape[-1]
    mean = wide.mean(0)
    return gram.expand(n, n, -1), (wide - mean).square().mean((0, 2)), mean.square().mean(1)


def _order_of_running(sites: Sequence[Site]) -> list[str]:
    """Keys in the order in which sites are gated: right behind the write of the site before."""
    place = {site.key: i for i, site in enumerate(sites)}
    return [s.key for s in sorted(sites, key=lambda s: (place.get(s.before, place[s.key] - 1), place[s.key]))]
