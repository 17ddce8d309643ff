"""Fold repeated sites for a reader: eighty equal layers are one row `model.layers.{0..79}.mlp`."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from mhc_compile.passes.plan.data import Site

_NUMBER = re.compile(r"\d+")
_FIRST_USE = "#1"  # a key without a use number is its module's first use
_LONGEST_PERIOD = 6  # sites per repeated block; more would not fit in one line of a drawing


@dataclass(frozen=True)
class Group:
    """Sites that differ only in the numbers of their keys. `label` names them all."""

    label: str
    sites: tuple[Site, ...]

    @property
    def parameters(self) -> int:
        """New learnable scalars of all sites together."""
        return sum(site.parameters for site in self.sites)


@dataclass(frozen=True)
class Block:
    """Sites that follow each other `count` times; group `i` holds the i-th site of every repetition."""

    groups: tuple[Group, ...]
    count: int


def collapse(sites: Sequence[Site]) -> tuple[Group, ...]:
    """Group sites that look the same in a table, in the order of their first member."""
    alike: dict[Hashable, list[Site]] = {}
    for site in sites:
        alike.setdefault(_signature(site), []).append(site)
    return tuple(group for members in alike.values() for group in _split(members))


def singles(sites: Sequence[Site]) -> tuple[Group, ...]:
    """One group for each site: nothing is collapsed."""
    return tuple(Group(site.key, (site,)) for site in sites)


def fold_blocks(sites: Sequence[Site]) -> tuple[Block, ...]:
    """Fold consecutive repetitions: `attn mlp attn mlp` is the block `attn mlp` twice."""
    looks = [_signature(site) for site in sites]
    blocks, start = [], 0
    while start < len(sites):
        period, count = _best_repeat(looks, start)
        stop = start + period * count
        members = [sites[start + i : stop : period] for i in range(period)]
        blocks.append(Block(tuple(Group(label([s.key for s in m]), tuple(m)) for m in members), count))
        start = stop
    return tuple(blocks)


def label(keys: Sequence[str]) -> str:
    """One name for keys that differ in numbers only: `a.0`, `a.1` give `a.{0..1}`.

    Keys whose numbers form no grid (`0.0`, `1.1`) are named by the first and the last.
    """
    columns = _columns(keys)
    if prod(len(set(column)) for column in columns) != len(keys):
        return f"{keys[0]} … {keys[-1]}"
    names = iter(spell(sorted(set(column))) for column in columns)
    return _NUMBER.sub(lambda _: next(names), _numbered(keys[0])).removesuffix(_FIRST_USE)


def spell(numbers: Sequence[int]) -> str:
    """Sorted distinct numbers in brace notation: `7`, `{0..5}`, `{0,2,..,10}`, `{0..3,7}`."""
    if len(numbers) == 1:
        return str(numbers[0])
    steps = {b - a for a, b in pairwise(numbers)}
    if len(numbers) > 3 and len(steps) == 1 and steps != {1}:
        return f"{{{numbers[0]},{numbers[1]},..,{numbers[-1]}}}"
    return "{" + ",".join(str(a) if a == b else f"{a}..{b}" for a, b in _runs(numbers)) + "}"


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _split(members: Sequence[Site]) -> list[Group]:
    """Groups whose numbers form a grid, split at the first number that varies as often as needed."""
    keys = [site.key for site in members]
    columns = _columns(keys)
    if prod(len(set(column)) for column in columns) == len(keys):
        return [Group(label(keys), tuple(members))]
    varying = next(column for column in columns if len(set(column)) > 1)
    parts = [[s for s, number in zip(members, varying, strict=True) if number == v] for v in dict.fromkeys(varying)]
    return [group for part in parts for group in _split(part)]


def _columns(keys: Sequence[str]) -> list[tuple[int, ...]]:
    """The numbers of all keys by position; keys share one template, so each has equally many."""
    return list(zip(*([int(n) for n in _NUMBER.findall(_numbered(key))] for key in keys), strict=True))


def _numbered(key: str) -> str:
    return key if "#" in key else key + _FIRST_USE


def _signature(site: Site) -> Hashable:
    """Everything a reader sees of a site, its numbers aside."""
    template = _NUMBER.sub("*", _numbered(site.key))
    return template, site.kind, site.shape, site.dtype, site.branch_summary, site.location, site.parameters


def _best_repeat(looks: Sequence[Hashable], start: int) -> tuple[int, int]:
    """Period and count of the repetition from `start` that covers most; the shortest period on a tie."""
    best = (1, 1)
    for period in range(1, _LONGEST_PERIOD + 1):
        count = 1
        while _repeats(looks, start, period, count):
            count += 1
        if count > 1 and period * count > best[0] * best[1]:
            best = (period, count)
    return best


def _repeats(looks: Sequence[Hashable], start: int, period: int, count: int) -> bool:
    here = start + period * count
    return here + period <= len(looks) and looks[start : start + period] == looks[here : here + period]
