"""The connections a user can choose: their parameters, initial values and coefficients, in one table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels.formulas import gated, hyper, reference, released, sources
from mhc_compile.kernels.formulas import initial_values as initial
from mhc_compile.kernels.formulas.about import NEVER, About, Options
from mhc_compile.kernels.formulas.initial_values import Start
from mhc_compile.kernels.formulas.manifolds import Manifold
from mhc_compile.kernels.formulas.projections import MAX_STREAMS, PROJECTIONS
from mhc_compile.kernels.formulas.released import Release
from mhc_compile.kernels.formulas.sources import Sources

Shapes = dict[str, tuple[int, ...]]
MOST_EPS = 0.05  # below 0.5 / n, the smallest read weight of a start


@dataclass(frozen=True)
class Connection:
    """One kind of connection.

    Attributes:
        name: what the user writes.
        shapes: n and C to the shapes of the parameters by name, in the order `coefficients` takes them.
        values: a start to the initial values by name, in the same order, any float dtype and device.
        coefficients: `(X, params, *, n, axis)` to `(pre, post, R)`; X is `[n, *x.shape]`, or `x[None]` at an entry.
        max_streams: the largest n it takes.
        powers: n must be a power of two.
        single_pass: a site is read with the read weights of the site before (see `passes/decide/single_pass.py`).
        manifold: what the fused steps compute; None where there are none for it.
        operands: parameters and n to the phi, alpha and bias which these take; None where they are the parameters.
        about: its row in the table for users.
        options: those it takes, with their values.
        paper: as `values`, where a release starts; None where no start was published.
        release: what `paper` and a learned readout start from, for a manifold.
        streams: how many streams it has whatever n is; None for n.
        sources: how a site reads a list of sources, where that is the state instead of streams: n of `shapes`, `values`
            and `paper` is then the number of sources, and `coefficients` are those of one stream.
        codes: along which streams are written and read at the start, where their paths are linear.
    """

    name: str
    shapes: Callable[[int, int], Shapes]
    values: Callable[[Start], dict[str, Tensor]]
    coefficients: Callable[..., reference.Coefficients]
    max_streams: int = MAX_STREAMS
    powers: bool = False
    single_pass: bool = False
    manifold: Manifold | None = None
    operands: Callable[[Sequence[Tensor], int], Sequence[Tensor]] | None = None
    about: About = field(default_factory=lambda: About(""))
    options: Options = field(default_factory=dict)
    paper: Callable[[Start], dict[str, Tensor]] | None = None
    release: Release | None = None
    streams: int | None = None
    sources: Sources | None = None
    codes: Callable[[int], initial.Codes] = initial.halved_codes


def _manifold_shapes(manifold: Manifold, n: int, channels: int) -> Shapes:
    columns = manifold.columns(n)
    return {"phi": (n * channels, columns), "alpha": (len(manifold.parts(n)),), "bias": (columns,)}


def _manifold_values(manifold: Manifold, start: Start) -> dict[str, Tensor]:
    shapes = _manifold_shapes(manifold, start.n, start.channels)
    row = manifold.row
    pre, post = initial.gate_biases(
        start.n,
        position=start.position,
        linear=start.linear,
        codes=row.codes(start.n),
        magnitude=manifold.magnitude,
        eps=manifold.eps,
    )
    return {
        "phi": initial.projection_weights(shapes["phi"], init=start.init, generator=start.generator),
        "alpha": torch.full(shapes["alpha"], initial.ALPHA, dtype=torch.float64),
        "bias": torch.cat((pre, post, row.start(start.n))),
    }


def _manifold(name: str, manifold: Manifold, about: About, options: Options | None = None) -> Connection:
    row, release = manifold.row, _RELEASES.get(manifold.projection)
    coefficients = partial(
        reference.manifold_coefficients, matrix=row.matrix, magnitude=manifold.magnitude, eps=manifold.eps
    )
    return Connection(
        name,
        partial(_manifold_shapes, manifold),
        partial(_manifold_values, manifold),
        coefficients,
        row.max_streams,
        row.powers,
        manifold.single_pass,
        manifold if row.backward is not None else None,
        about=about,
        options=options or {},
        paper=None if release is None else partial(released.site_values, release, manifold),
        release=release,
        codes=row.codes,
    )


_RELEASES: Mapping[str, Release] = MappingProxyType({"sinkhorn": released.DEEPSEEK, "identity": released.HUNYUAN})
"""Projection -> the release it was published with."""


def _identity(magnitude: float = 2.0, eps: float = 0.0) -> Connection:
    """As Hy-V4 has it: `pre = sigmoid + eps`, `post = magnitude * sigmoid + eps`."""
    if not (magnitude > 0 and 0 <= eps <= MOST_EPS):
        raise InvalidOptionError(
            f"connection='identity:magnitude={magnitude},eps={eps}': write a positive magnitude and an eps from 0 to "
            f"{MOST_EPS}, for example connection='identity:magnitude=2.0,eps=1e-06'"
        )
    about = PROJECTIONS["identity"].about
    assert about is not None
    return _manifold("identity", Manifold("identity", magnitude, eps), about, {"magnitude": magnitude, "eps": eps})


def _gated(rank: int = gated.RANK) -> Connection:
    """As Qwen4-exp has it."""
    if rank < 1:
        raise InvalidOptionError(f"connection='gated:rank={rank}': write a rank of at least 1")
    about = About(
        "identity",
        "sigmoid per channel of normed streams, through `rank` numbers; 2 sigmoid",
        "Qwen4-exp",
        "Qwen4-exp (rank=320)",
        "where every branch begins with a norm of its channels",
        forward=(6, 2),
        backward=(13, 3),
    )
    return Connection(
        "gated",
        partial(gated.shapes, rank),
        partial(gated.values, rank),
        gated.coefficients,
        about=about,
        options={"rank": rank},
        paper=partial(gated.values, rank),
    )


def _attention(layers: int = 1) -> Connection:
    """As Inkling2 has it."""
    if layers < 1:
        raise InvalidOptionError(f"connection='attention:layers={layers}': write a number of layers of at least 1")
    about = About(
        "none: n sources, each the sum of `layers` layers",
        "softmax(q . N(s) / sqrt(C)) over normed sources",
        "Kimi, arXiv 2603.15031",
        "Inkling2 (layers=6)",
        NEVER,
        forward=(2, 4),
        backward=(5, 5),
    )
    state = Sources(sources.attention_weights, layers, restarts=True)
    options = {"layers": layers}
    return _over_sources("attention", sources.attention_shapes, sources.attention_values, state, about, options)


def _dense(rank: int = 0, layers: int = 0) -> Connection:
    """As DenseFormer has it, with `rank` as MUDD."""
    if rank < 0 or layers < 0:
        raise InvalidOptionError(f"connection='dense:rank={rank},layers={layers}': write numbers of at least 0")
    about = About(
        "none: n sources, what the stream was before each site (or every `layers` layers)",
        "learned numbers, with `rank` also of the token",
        "DenseFormer, arXiv 2402.02622; MUDD, arXiv 2502.12170",
        forward=(1, 4),
        backward=(4, 4),
    )
    state = Sources(sources.dense_weights, layers, restarts=False)
    shapes, values = partial(sources.dense_shapes, rank), partial(sources.dense_values, rank)
    return _over_sources("dense", shapes, values, state, about, {"rank": rank, "layers": layers})


def _over_sources(
    name: str,
    shapes: Callable[[int, int], Shapes],
    values: Callable[[Start], dict[str, Tensor]],
    state: Sources,
    about: About,
    options: Options,
) -> Connection:
    row = Connection(name, shapes, values, _one_stream, sys.maxsize, about=about, options=options)
    return replace(row, paper=values, streams=1, sources=state)


def _one_stream(X: Tensor, params: Sequence[Tensor], *, n: int, axis: int) -> reference.Coefficients:
    return reference.plain_coefficients(X)


RESIDUAL = Connection(
    "residual",
    lambda n, channels: {},
    lambda start: {},
    _one_stream,
    streams=1,
    paper=lambda start: {},
    about=About("identity, one stream", "1, 1", "He et al. 2015", "nearly all", forward=(0, 3), backward=(0, 3)),
)
_LEARNED = "learned matrix and a part that depends on the token; nothing bounds the gain over depth"
_HYPER = About(_LEARNED, "learned vectors and such a part", "Zhu et al., arXiv 2409.19606")


def _rows() -> Iterator[Connection]:
    yield RESIDUAL
    yield Connection(
        "hc",
        hyper.hyper_shapes,
        hyper.hyper_values,
        reference.hyper_coefficients,
        manifold=Manifold("unconstrained", magnitude=1.0, hyper=True),
        operands=hyper.operands,
        about=_HYPER,
        paper=hyper.paper_values,
    )
    about = About("learned matrix", "learned vectors", _HYPER.source, forward=(3, 2), backward=(6, 3))
    shapes, values, coefficients = hyper.static_shapes, hyper.static_values, hyper.static_coefficients
    static = Connection("hc-static", shapes, values, coefficients, about=about, paper=values)
    mixing, gates = "as hc-static, of 2 streams whatever n is", "as hc-static: sites read them in turn"
    lanes = replace(about, mixing=mixing, gates=gates)
    yield from (static, replace(static, name="parallel-lanes", streams=2, about=lanes))
    for projection, row in PROJECTIONS.items():
        if row.connection and row.about and row.connection not in BUILDERS:
            yield _manifold(row.connection, Manifold(projection), row.about)
    about = About("as mhc", "as mhc, but a site is read with pre of the site before", "DeepSeek", "DeepSeek-V4.1")
    yield _manifold("mhc-single-pass", Manifold("sinkhorn", single_pass=True), about)
    yield from (build() for build in BUILDERS.values())


# Plain dicts, which nobody changes: Dynamo breaks a graph at a proxy behind any change of a dict.
BUILDERS: Mapping[str, Callable[..., Connection]] = {
    "identity": _identity, "gated": _gated, "attention": _attention, "dense": _dense
}  # fmt: skip
"""Connections that take options."""
CONNECTIONS: Mapping[str, Connection] = {row.name: row for row in _rows()}
