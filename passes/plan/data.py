"""The plan: what would be rewritten and why the rest would not, as frozen data.

The command line, the JSON output, the tests and the rewrite all read this one object. Nodes are named, not held, so a
plan can be pickled, compared and kept after its graph is gone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from mhc_compile.passes.plan.reasons import Reason
from mhc_compile.passes.plan.steps import Step

SCHEMA_VERSION = 1
OWNER = "hyper_connections"
"""Name of the child of a model under which every new parameter lives."""
Dim = int | str  # a symbolic size is written as its expression, for example "s0"


@dataclass(frozen=True)
class Site:
    """One residual add that becomes a hyper-connection.

    Attributes:
        key: stable name, derived from the weights of the branch; the key into `model.hyper_connections`.
        add: name of the outermost add node.
        adds: every add node folded into this sum, in graph order, `add` last.
        skip: operand of the sum that carries the identity path.
        base: value at which the branch leaves the stream: `skip`, or the value it was lifted from.
        lifts: linear ops from `base` to `skip`, in order, `skip` last; empty where they are the same.
        moves_axes: whether a view, permutation or cut is among `lifts`.
        branches: the other operands of the sum.
        negated: those of `branches` that are subtracted.
        kind: `prenorm`, `postnorm`, `postact`, `parallel` or `scaled`; for the reader only.
        shape: shape of the add, channels included.
        dtype: dtype of the add.
        channel_axis: index of the channel axis in `shape`.
        base_axis: index of the channel axis at `base`; another one where a permutation lies between.
        channels: number of channels C.
        branch_nodes: every node between `base` and the branches, the branches included.
        size_users: nodes that ask the sum for its size only, and are given the branch's.
        branch_summary: the branch in a few words, for example `layer_norm, linear x4, sdpa`.
        weights: names of the learnable weights of rank >= 2 in the branch.
        module: path of the module whose code holds the add, "" for the model itself.
        location: `file:line` of the add, or "" where it is not known.
        parameters: number of new scalars this site learns.
        former: the key of checkpoints from before keys belonged to weights; "" where it is `key`.
        before: key of the site whose streams it takes, "" at the entry of a segment.
        moves_tokens: whether tokens change places between that site and this one.
        sources: under connections over sources, the values whose weighted sum its branch reads, the newest last; a
            single one is read as it is.
        begins_block: under these, the sum in front of it is kept as a source.
        told_by: where other sites have the same weights, the parameter or part of one that tells it from these.
    """

    key: str
    add: str
    adds: tuple[str, ...]
    skip: str
    base: str
    lifts: tuple[str, ...]
    moves_axes: bool
    branches: tuple[str, ...]
    negated: tuple[str, ...]
    kind: str
    shape: tuple[Dim, ...]
    dtype: str
    channel_axis: int
    base_axis: int
    channels: int
    branch_nodes: frozenset[str]
    size_users: tuple[str, ...]
    branch_summary: str
    weights: tuple[str, ...]
    module: str
    location: str
    parameters: int
    former: str = ""
    before: str = ""
    moves_tokens: bool = False
    sources: tuple[str, ...] = ()
    begins_block: bool = False
    told_by: str = ""


@dataclass(frozen=True)
class Rejection:
    """One float add (with the single-use adds folded into it) that is left alone."""

    add: str
    adds: tuple[str, ...]
    reason: Reason
    detail: str
    shape: tuple[Dim, ...]
    module: str
    location: str


@dataclass(frozen=True)
class Readout:
    """A place where streams become one tensor: `node` is used by `users`, which are no part of the stream.

    `key` names its parameters (`parameters` scalars) under `reduce="learned"` and over sources, else it is informative.
    The channels of the value lie on `channel_axis`. `former` and `sources` are as for a site.
    """

    key: str
    node: str
    users: tuple[str, ...]
    channel_axis: int
    channels: int
    parameters: int
    former: str = ""
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Segment:
    """A maximal chain (or tree) of sites joined by stream paths.

    Attributes:
        index: position in the plan.
        entry: node whose value is expanded to n equal streams.
        behind: the operator that ends the chain before it, "" where none does.
        sites: keys of its sites, in graph order.
        lifts: nodes between sites that are applied to every stream.
        readouts: where its streams are reduced.
        linear: only linear ops lie on its stream paths, so streams may differ from the start (case A of maths.md).
        sides: pairs of a lift and an operand of it that is a stream value too, but off the path: it is read out.
    """

    index: int
    entry: str
    sites: tuple[str, ...]
    lifts: tuple[str, ...]
    readouts: tuple[Readout, ...]
    linear: bool
    sides: tuple[tuple[str, str], ...] = ()
    behind: str = ""


@dataclass(frozen=True)
class Plan:
    """Everything `transform` would do to one graph. `str(plan)` is a plain text report."""

    n: int
    connection: str
    init: str
    reduce: str
    sites: tuple[Site, ...]
    rejected: tuple[Rejection, ...]
    segments: tuple[Segment, ...]
    float_adds: int
    nodes: int
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of new learnable scalars."""
        readouts = sum(r.parameters for s in self.segments for r in s.readouts)
        return sum(s.parameters for s in self.sites) + readouts

    @property
    def over_sources(self) -> bool:
        """Whether the state is a list of sources instead of streams."""
        return any(site.sources for site in self.sites)

    def longest_list(self, segment: Segment) -> int:
        """The most sources that are read at once in a segment; 0 where the state is streams."""
        lists = [*(self.site(key).sources for key in segment.sites), *(r.sources for r in segment.readouts)]
        return max(map(len, lists), default=0)

    def site(self, key: str) -> Site:
        """The site called `key`; KeyError if there is none."""
        return self._by_key[key]

    @cached_property
    def _by_key(self) -> dict[str, Site]:
        return {s.key: s for s in self.sites}

    def to_json(self, indent: int | None = 2) -> str:
        """The plan as JSON; the schema is described in docs/plan_schema.md and versioned by `schema_version`."""
        return json.dumps(self.to_dict(), indent=indent)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain dicts, lists, strings and numbers."""
        out = asdict(self)
        for site in out["sites"]:
            site["branch_nodes"] = sorted(site["branch_nodes"])
        for rejection in out["rejected"]:
            rejection["sentence"] = rejection["reason"].value
            rejection["reason"] = rejection["reason"].name
        for step in out["steps"]:
            step["kind"] = step["kind"].name
            step["sentence"] = step["reason"].value if step["reason"] else ""
            step["reason"] = step["reason"].name if step["reason"] else ""
        totals = {
            "sites": len(self.sites),
            "rejected": len(self.rejected),
            "float_adds": self.float_adds,
            "segments": len(self.segments),
            "parameters": self.parameters,
            "nodes": self.nodes,
        }
        return {"schema_version": SCHEMA_VERSION, **out, "totals": totals}

    def __str__(self) -> str:
        head = (
            f"{len(self.sites)} sites in {len(self.segments)} segments, {len(self.rejected)} other adds, "
            f"{self.parameters:,} new parameters (n={self.n}, {self.connection})"
        )
        lines = [head]
        for segment in self.segments:
            behind = f", behind {segment.behind}, which is not applied to every stream" if segment.behind else ""
            lines.append(f"segment {segment.index}: entry {segment.entry}, {len(segment.readouts)} readouts{behind}")
            lines += [f"  {s.key}  {s.kind}  {list(s.shape)}  {s.location}" for s in map(self.site, segment.sites)]
        lines += [
            f"rejected {r.add}: {'; '.join(filter(None, (r.reason.value, r.detail)))}  {r.location}"
            for r in self.rejected
        ]
        return "\n".join([*lines, *self.notes])
