"""Stable names of sites: they follow the weights of their branches, never their order in a trace.

The key is the path of the module that holds all weights of the branch. Where that is the model itself, or holds weights
of another branch too, it is the last weight, or, where others end in that, the last that is the branch's own. Where a
block is shared and each turn has a norm or a scale of its own, it is the module of that.

A trace of another kind of call, with a layer left out or an adapter switched off, takes the keys that its weights have.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

ROOT_KEY = "site"
"""The key of a site of the model itself, rather than of one of its modules."""

_PARAMETRIZED = re.compile(r"(^|\.)parametrizations(\..*)?$")
_NOT_IDENTIFIER = re.compile(r"\W")


def module_of(weight: str, is_module: bool = False) -> str:
    """Path of the module that owns a parameter: `layers.0.fc.weight` is owned by `layers.0.fc`.

    So is `layers.0.fc.parametrizations.weight.original`: parametrizations come and go, and keys stay.
    """
    return _PARAMETRIZED.sub("", weight if is_module else weight.rpartition(".")[0])


def common_path(paths: Iterable[str]) -> str:
    """The deepest module path that all paths lie in: `a.b.c` and `a.b.d` give `a.b`."""
    split = [p.split(".") for p in paths]
    if not split:
        return ""
    shared = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


@dataclass(frozen=True)
class Owner:
    """What a key is made from.

    Attributes:
        weights: names of the weights of a branch, in the order it uses them.
        modules: the module that owns each of them.
        caller: path of the module that computes the sum.
        vectors: names of the other parameters that the branch reads, such as scales and biases.
    """

    weights: tuple[str, ...]
    modules: tuple[str, ...]
    caller: str
    vectors: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The deepest module that holds every weight."""
        return common_path(self.modules)


Known = Sequence[tuple[str, tuple[str, ...]]]
"""Keys that were given before, each with the weights of its branch, and what tells it from others with the same."""

_ALIKE = 0.5  # share of weights that two branches have in common if they are one, with an adapter or without


def keys_of(owners: Sequence[Owner], taken: Collection[str] = (), known: Known = ()) -> list[str]:
    """The keys of sites in graph order; `taken` are those of other graphs of the same model."""
    holders: dict[str, set[frozenset[str]]] = {}
    marks = told_apart(owners)
    uses: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    distinct = {(owner.path, frozenset(owner.weights)): owner for owner in owners}
    for (path, weights), owner in distinct.items():
        holders.setdefault(path, set()).add(weights)
        uses.update(weights)
        ends.update(owner.weights[-1:])
    own = [_own(o, len(holders[o.path]) == 1, uses, ends) for o in owners]
    modules = Counter(module_of(mark) for mark in marks if mark)
    places = [_place_of(mark, modules) if mark else key for mark, key in zip(marks, own, strict=True)]
    return unique([_known(o, known) or key for o, key in zip(owners, places, strict=True)], taken)


def told_apart(owners: Sequence[Owner]) -> list[str]:
    """For branches with equal weights, a block that is shared, the parameter that each has and the others do not.

    Such as the norm of each turn. "" where the weights are those of no other branch, or one of them has no such mark.
    """
    groups: dict[frozenset[str], list[int]] = {}
    for i, owner in enumerate(owners):
        groups.setdefault(frozenset(owner.weights), []).append(i)
    marks = [""] * len(owners)
    for group in (g for weights, g in groups.items() if weights and len(g) > 1):
        uses = Counter(vector for i in group for vector in set(owners[i].vectors))
        own = [next((v for v in owners[i].vectors if uses[v] == 1), "") for i in group]
        if all(own):
            for i, mark in zip(group, own, strict=True):
                marks[i] = mark
    return marks


def _place_of(mark: str, modules: Mapping[str, int]) -> str:
    """The module of a mark, or the mark itself where others lie in the same module; `modules` counts them."""
    module = module_of(mark)
    return module if module and modules[module] == 1 else mark


def former_keys(owners: Sequence[Owner]) -> list[str]:
    """The keys that the sites had before keys belonged to weights, for checkpoints from then."""
    return unique([owner.path or owner.caller or ROOT_KEY for owner in owners])


def _own(owner: Owner, alone: bool, uses: Mapping[str, int], ends: Mapping[str, int]) -> str:
    """The key of a branch; `alone` if no other one has the same path.

    `uses` says how many branches have a weight, `ends` how many have it last. Where each branch reads what the one
    before has made, as two streams in turn do, its last weight is its own, and the next one's first.
    """
    if not owner.weights:
        return owner.caller or ROOT_KEY
    if owner.path and alone:
        return owner.path
    both = list(zip(owner.weights, owner.modules, strict=True))
    weight, module = both[-1]
    if ends[weight] > 1:
        weight, module = next((pair for pair in reversed(both) if uses[pair[0]] == 1), both[-1])
    return weight if module == owner.path else module


def _known(owner: Owner, known: Known) -> str:
    """The key, without a number, that most of these weights have; "" if there is none."""
    own, best, found = set(owner.weights), _ALIKE, ""
    for key, names in known:
        weights, mine = set(names), own | (set(owner.vectors) & set(names))
        alike = len(mine & weights) / len(mine | weights) if own else 0.0
        if alike > best or (alike == best and not found):
            best, found = alike, key.partition("#")[0]
    return found


def unique(keys: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """Number repeated keys in order: a layer used twice gives `layer` and `layer#2`, behind those already taken."""
    seen = Counter(key.partition("#")[0] for key in taken)
    names = []
    for key in keys:
        seen[key] += 1
        names.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    return names


def identifier(key: str) -> str:
    """The key as a Python identifier, for children and state dicts: `layers.0.mlp#2` is `layers__0__mlp_use2`."""
    name = _NOT_IDENTIFIER.sub("_", key.replace(".", "__").replace("#", "_use"))
    return f"_{name}" if name[:1].isdigit() else name
