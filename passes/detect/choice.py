"""Which candidates become sites, and what they are called: look-alikes, channels, nesting, options and mixers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mhc_compile.config import Config
from mhc_compile.errors import PatternError
from mhc_compile.passes.detect.chains import company, resolve_nesting
from mhc_compile.passes.detect.channels import Channels, find_channels
from mhc_compile.passes.detect.look_alikes import (
    find_biases,
    find_collections,
    find_constants,
    find_injections,
    find_merges,
)
from mhc_compile.passes.detect.parts import part_of
from mhc_compile.passes.detect.residuals import Candidate, Rejected, find_mixers, find_residuals
from mhc_compile.passes.detect.towers import find_crossings, find_exchanges, find_own_streams
from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.values import module_path_of
from mhc_compile.passes.plan.keys import Known, Owner, former_keys, keys_of, module_of, told_apart, unique
from mhc_compile.passes.plan.patterns import is_chosen, unmatched
from mhc_compile.passes.plan.reasons import Reason


@dataclass(frozen=True)
class Choice:
    """The sites of a graph before they are chained.

    Attributes:
        sites: in graph order.
        rejected: every other float add.
        keys: by the position of the add.
        former: the keys they had before keys belonged to weights; mixers had none.
        told_by: of sites that share all their weights with others, the parameter that tells each from these.
        channels: of each site.
    """

    sites: list[Candidate]
    rejected: list[Rejected]
    keys: Mapping[int, str]
    former: Mapping[int, str]
    told_by: Mapping[int, str]
    channels: Mapping[int, Channels]

    def former_key(self, add: int) -> str:
        """The former key, "" where it is still the same."""
        former = self.former.get(add, "")
        return "" if former == self.keys[add] else former


def choose(graph: Ancestry, config: Config, taken: Collection[str] = (), known: Known = ()) -> Choice:
    """Decide on every float add of a graph.

    Keys in `taken` belong to other graphs of the same model, those in `known` to the same weights in other traces.

    Raises:
        PatternError: an `include` or `exclude` glob matches no site.
    """
    found, rejected = find_residuals(graph)
    found, foreign = _without_look_alikes(graph, found)
    channels, unclear = _split_by_channels(graph, found)
    without_weight = find_mixers(graph, rejected)
    sized = [c for c in found if c.add in channels]
    chooser = _Chooser(graph, config, taken, known, sized, channels, without_weight)
    kept, keys, left_out = chooser.levels()
    mixers = chooser.mixers(kept, keys)
    problem = unmatched(config, [*keys.values(), *(key for _, _, key in mixers)])
    if problem and not known:  # another kind of call need not have what a glob is about
        raise PatternError(problem)
    joined = {m.add: (m, sizes, key) for m, sizes, key in mixers if is_chosen(key, config)}
    rest = [r for r in rejected if r.add not in joined]
    return Choice(
        sites=sorted([*kept, *(m for m, _, _ in joined.values())], key=lambda c: c.add),
        rejected=[*rest, *foreign, *unclear, *left_out],
        keys={**keys, **{add: key for add, (_, _, key) in joined.items()}},
        former=chooser.former(keys),
        told_by=chooser.told_apart(keys),
        channels={**channels, **{add: sizes for add, (_, sizes, _) in joined.items()}},
    )


def weights_of(graph: Ancestry, candidate: Candidate) -> list[tuple[int, str]]:
    """The weights of the branch with the positions of the nodes that contract with them."""
    stream = candidate.branch_nodes | {candidate.skip.base}
    return [(i, w) for i in sorted(candidate.branch_nodes) for w in graph.weights_beside(i, stream)]


def vectors_of(graph: Ancestry, candidate: Candidate) -> tuple[str, ...]:
    """The parameters that the branch reads and contracts nothing with: scales, biases, norms, or parts of them."""
    stream = candidate.branch_nodes | {candidate.skip.base}
    matrices = {weight for i in candidate.branch_nodes for weight in graph.weights[i]}
    read = ((i, name) for i in sorted(candidate.branch_nodes) for name in graph.parameters_at(i))
    return tuple(dict.fromkeys(part_of(graph, i, name, stream) for i, name in read if name not in matrices))


def _without_look_alikes(graph: Ancestry, found: list[Candidate]) -> tuple[list[Candidate], list[Rejected]]:
    """Drop what would swallow sites without being one, step by step.

    Each changes what follows what: first what is told by its own operands, then what is told by the others around.
    """
    dropped: list[Rejected] = []
    looks = (
        find_collections,
        find_merges,
        find_own_streams,
        find_biases,
        find_injections,
        find_constants,
        _exchanges,
        find_crossings,
    )
    for look in looks:
        rejected = list(look(graph, found))
        dropped += rejected
        gone = {r.add for r in rejected}
        found = [c for c in found if c.add not in gone]
    return found, dropped


def _exchanges(graph: Ancestry, found: Sequence[Candidate]) -> Iterator[Rejected]:
    partners = find_exchanges(graph, found)
    for c in found:
        if c.add in partners:
            detail = f"exchanges values with the one of {graph.names[partners[c.add]]}"
            yield Rejected(c.total.adds, Reason.MULTI_STREAM, detail)


def _split_by_channels(graph: Ancestry, found: Sequence[Candidate]) -> tuple[dict[int, Channels], list[Rejected]]:
    """What has no channels is no candidate, so it displaces none either."""
    channels = find_channels(graph, found)
    sized = {add: sizes for add, sizes in channels.items() if isinstance(sizes, Channels)}
    return sized, [r for r in channels.values() if isinstance(r, Rejected)]


@dataclass(frozen=True)
class _Chooser:
    graph: Ancestry
    config: Config
    taken: Collection[str]
    known: Known
    found: Sequence[Candidate]
    channels: Mapping[int, Channels]
    without_weight: Sequence[Candidate]

    def levels(self) -> tuple[list[Candidate], dict[int, str], list[Rejected]]:
        """Resolve nesting and carry out `include` and `exclude`; what a site left out displaced comes back."""
        axes = {add: sizes.axis for add, sizes in self.channels.items()}
        left_out: dict[int, Candidate] = {}
        while True:
            rest = [c for c in self.found if c.add not in left_out]
            kept, nested = resolve_nesting(self.graph, rest, self.config.nested, axes, self.without_weight)
            keys = self.named([*kept, *left_out.values()])
            unwanted = {c.add: c for c in kept if not is_chosen(keys[c.add], self.config)}
            if not unwanted:
                break
            left_out |= unwanted
        excluded = [Rejected(c.total.adds, Reason.EXCLUDED, keys[c.add]) for c in left_out.values()]
        by_add = {c.add: c for c in self.found}
        return kept, keys, excluded + [self._nested(by_add[loser], winner) for loser, winner in nested.items()]

    def _nested(self, loser: Candidate, winner: Candidate) -> Rejected:
        detail = f"conflicts with the site at {self.graph.names[winner.add]}"
        return Rejected(loser.total.adds, Reason.NESTED, detail)

    def named(self, candidates: Sequence[Candidate]) -> dict[int, str]:
        """The key of each by the position of its add."""
        ordered = sorted(candidates, key=lambda c: c.add)
        keys = keys_of([self._owner(c) for c in ordered], self.taken, self.known)
        return {c.add: key for c, key in zip(ordered, keys, strict=True)}

    def former(self, keys: Mapping[int, str]) -> dict[int, str]:
        """The former key of each site that has a key."""
        ordered = [c for c in self.found if c.add in keys]
        names = former_keys([self._owner(c) for c in ordered])
        return {c.add: name for c, name in zip(ordered, names, strict=True)}

    @cached_property
    def _owners(self) -> dict[int, Owner]:
        """Those that were made, by the position of the add: each is asked for several times."""
        return {}

    def _owner(self, candidate: Candidate) -> Owner:
        if candidate.add not in self._owners:
            self._owners[candidate.add] = self._made_owner(candidate)
        return self._owners[candidate.add]

    def _made_owner(self, candidate: Candidate) -> Owner:
        weights: dict[str, str] = {}
        stream = candidate.branch_nodes | {candidate.skip.base}
        for i, weight in weights_of(self.graph, candidate):
            module = module_of(weight, is_module=self.graph.nodes[i].op == "call_module")
            weights.setdefault(part_of(self.graph, i, weight, stream), module)
        caller = module_path_of(self.graph.nodes[candidate.add])
        return Owner(tuple(weights), tuple(weights.values()), caller, vectors_of(self.graph, candidate))

    def told_apart(self, keys: Mapping[int, str]) -> dict[int, str]:
        """For a site whose weights are those of others too, the parameter that is its own."""
        ordered = [c for c in self.found if c.add in keys]
        marks = told_apart([self._owner(c) for c in ordered])
        return {c.add: mark for c, mark in zip(ordered, marks, strict=True) if mark}

    def mixers(self, kept: Sequence[Candidate], keys: Mapping[int, str]) -> list[tuple[Candidate, Channels, str]]:
        """The sums without a weight that lie on a stream between sites, named after the site they lie beside."""
        mixers = self.without_weight
        beside = company(self.graph, kept, mixers)
        both = [*kept, *(m for m in mixers if m.add in beside)]
        sizes, _ = _split_by_channels(self.graph, both) if beside else ({}, [])
        joined = [m for m in mixers if m.add in beside and m.add in sizes]
        paths = [module_path_of(self.graph.nodes[m.add]) or keys[beside[m.add]] for m in joined]
        names = unique([f"{path}.mixer" for path in paths], self.taken)
        return [(m, sizes[m.add], name) for m, name in zip(joined, names, strict=True)]
