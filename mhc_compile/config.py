"""The options of a transformation, validated once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels.formulas.about import EXACTLY
from mhc_compile.kernels.formulas.connections import (
    canonical,
    find,
    fixed_streams,
    why_no_paper,
    why_not_kept,
)
from mhc_compile.kernels.formulas.projections import MAX_STREAMS
from mhc_compile.versions import check_versions

Init = Literal["preserve", "random", "paper"]
Reduce = Literal["mean", "sum", "learned"]
Recompute = Literal["auto"] | int | None
Nested = Literal["longest", "outer", "inner"]

MODES = ("train", "eval")


@dataclass(frozen=True)
class Config:
    """How residual connections are rewritten.

    Attributes:
        n: number of residual streams, 1 to 8. `n=1` is the plain residual connection. `attention` and `dense` have
            sources in place of streams, as many as the model has blocks, and take no notice of n; nor does
            `parallel-lanes`, which has two.
        connection: what one site computes, a name from `mhc-compile connections` (`mhc` by default), with options as in
            `identity:magnitude=1.5,eps=1e-6`.
        init: `preserve` keeps the function of the model, `random` starts `phi` from N(0, 0.02), `paper` starts as
            the released model does, both to train from scratch. `gated` reads normed streams, and keeps the function
            only where every branch begins with a norm of its channels; `attention` never does. The plan says so.
        reduce: how streams become one tensor again at a readout. Of `mhc-single-pass`, `mean` stands for the read
            weights of the last site, as published; of `attention` and `dense` for a read like that of a site.
        include: globs over site keys; only matching sites are rewritten. Empty means all.
        exclude: globs over site keys that are left alone.
        nested: which level wins where one residual connection lies inside the branch of another.
        min_sites: segments with fewer sites than this are left alone.
        strict: raise instead of warn when nothing is left to rewrite, at a graph break, and when the branch of a
            residual connection is called past the model.
        recompute: number of neighbouring sites of which only the first keeps its streams for the backward; the others
            restore them (connections with fused steps). "auto" takes `group_size`; None, like 1, keeps all streams.

    Raises:
        InvalidOptionError: a value is outside its domain.
    """

    n: int = 4
    connection: str = "mhc"
    init: Init = "preserve"
    reduce: Reduce = "mean"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    nested: Nested = "longest"
    min_sites: int = 1
    strict: bool = False
    recompute: Recompute = None

    def __post_init__(self) -> None:
        _check_int("n", self.n, 1, MAX_STREAMS)
        _check_int("min_sites", self.min_sites, 1, None)
        object.__setattr__(self, "connection", canonical(self.connection))
        _check_choice("init", self.init, get_args(Init))
        _check_choice("reduce", self.reduce, get_args(Reduce))
        _check_choice("nested", self.nested, get_args(Nested))
        if isinstance(self.recompute, str):
            _check_choice("recompute", self.recompute, ("auto",))
        elif self.recompute is not None:
            _check_int("recompute", self.recompute, 1, None)
        if not isinstance(self.strict, bool):
            raise InvalidOptionError(f"strict={self.strict!r} is not a bool: write strict=True or strict=False")
        for name in ("include", "exclude"):
            object.__setattr__(self, name, _globs(name, getattr(self, name)))
        find(self.connection, self.streams)
        self._check_start()

    def _check_start(self) -> None:
        if self.over_sources and self.reduce != "mean":
            raise InvalidOptionError(
                f"reduce={self.reduce!r}: connection={self.connection!r} reads its sources out as a site reads them, "
                "with weights of their own: leave reduce out"
            )
        if self.init == "paper" and (missing := why_no_paper(self.connection)):
            raise InvalidOptionError(missing)
        if self.init != "preserve" or self.streams == 1:
            return
        if self.reduce == "sum":
            raise InvalidOptionError(
                "reduce='sum' multiplies the output by n, so init='preserve' cannot keep the function: "
                "write reduce='mean' or reduce='learned', or init='random' to train from scratch"
            )
        reason = why_not_kept(self.connection, self.streams)
        if find(self.connection, self.streams).about.keeps == EXACTLY and reason:
            raise InvalidOptionError(f"{reason}: write such a number, or init='random' to train from scratch")

    @property
    def chooses(self) -> bool:
        """Whether the name of a module decides if it is rewritten."""
        return bool(self.include or self.exclude)

    @property
    def over_sources(self) -> bool:
        """Whether the state is a list of sources instead of streams."""
        return find(self.connection, 1).sources is not None

    @property
    def streams(self) -> int:
        """The number of streams really made: 1 for `connection="residual"` and over sources, else mostly `n`."""
        return fixed_streams(self.connection) or self.n

    @property
    def effective_connection(self) -> str:
        """`residual` when there is one stream (every connection reduces to it exactly), else `connection`."""
        return "residual" if self.streams == 1 and not self.over_sources else self.connection

    def group_size(self, sites: int) -> int:
        """How many neighbouring sites of a segment with this many keep streams together.

        "auto" is `sqrt(n L / (n + 2))`, to the nearest, for L sites of n streams; see Xie et al., arXiv 2512.24880, on
        recomputation.
        """
        if self.recompute == "auto":
            return max(1, round(math.sqrt(self.streams * sites / (self.streams + 2))))
        return self.recompute or 1


def _check_int(name: str, value: object, low: int, high: int | None) -> None:
    domain = f"an int from {low} to {high}" if high is not None else f"an int of at least {low}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidOptionError(
            f"{name}={value!r} is a {type(value).__name__}: write {domain}, for example {name}={max(low, 4)}"
        )
    if value < low or (high is not None and value > high):
        raise InvalidOptionError(f"{name}={value} is out of range: write {domain}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidOptionError(f"{name}={value!r} is not known: write one of {', '.join(map(repr, choices))}")


def _globs(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, (list, tuple, set, frozenset)) and all(isinstance(v, str) for v in value):
        return tuple(value)
    raise InvalidOptionError(f"{name}={value!r} is not a glob or a list of globs: write {name}=['*.mlp']")


def make_config(n: int, options: Mapping[str, Any]) -> Config:
    """Validate options by name and value; every way in comes by here.

    Raises:
        InvalidOptionError: an option is unknown or out of its domain.
    """
    check_versions()
    valid = [f.name for f in fields(Config)]
    unknown = [name for name in options if name not in valid]
    if unknown:
        raise InvalidOptionError(f"unknown option {', '.join(unknown)}: the options are {', '.join(valid)}")
    return Config(n=n, **options)


def check_modes(modes: Sequence[str]) -> tuple[str, ...]:
    """The modes in a tuple, without repetitions.

    Raises:
        InvalidOptionError: there is none, or another than `train` and `eval`.
    """
    chosen = (modes,) if isinstance(modes, str) else tuple(modes)
    if not chosen or any(mode not in MODES for mode in chosen):
        raise InvalidOptionError(f"modes={modes!r}: write ('train', 'eval'), ('train',) or ('eval',)")
    return tuple(dict.fromkeys(chosen))
