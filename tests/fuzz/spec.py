"""The drawn description of a network, as plain data, and the number of sites it has by construction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from tests.fuzz.branches import FREE_SITES
from tests.fuzz.residuals import ENDS_CHAIN, SITES
from tests.fuzz.steps import END, MAYBE, USES_BRANCH


@dataclass(frozen=True)
class Res:
    """A residual add. With `uses` > 1 the same layer is called again: a site per use."""

    kind: str
    branch: str = "mlp"
    uses: int = 1


@dataclass(frozen=True)
class Op:
    """Something on the stream that is no residual add."""

    kind: str
    branch: str = "mlp"


@dataclass(frozen=True)
class Collect:
    """The stream is kept as a hidden state and returned."""


@dataclass(frozen=True)
class Recall:
    """The stream is multiplied by the last hidden state kept, if there is one."""


@dataclass(frozen=True)
class Long:
    """A residual add around a chain: `x + tail(inner(head(x)))`."""

    inner: tuple[Element, ...]
    head: bool = False
    tail: bool = True


@dataclass(frozen=True)
class UNet:
    """A chain on another level that comes back by concatenation."""

    inner: tuple[Element, ...]


@dataclass(frozen=True)
class Exchange:
    """Two towers that read each other, nodes and edges: the stream, and one that is made from it and joins it again.

    With one layer the second would be no tower, but a value that one branch hands to the next.
    """

    layers: int = 2


Element = Res | Op | Collect | Recall | Long | UNet | Exchange


@dataclass(frozen=True)
class Network:
    """A whole model and how it is transformed.

    Attributes:
        images: `[B, C, H, W]` instead of `[B, T, C]`.
        channels: C.
        start: a `stem` layer, the `input` itself, or an input that is `written` in place.
        body: the chain every input goes through.
        towers: two more chains on what the body returns, or none.
        encoder: the chain that makes the memory cross-attention looks at, or none.
        join: how towers meet: `cat`, `sum` (of two heads) or `both` (are returned).
        head: whether a norm and a layer follow the chain.
        n: number of streams.
        connection: connection of each site.
        reduce: how streams are read out.
        seed: seed of weights and inputs.
        injects: whether the first value of the body is added to the stream before each of its layers but the first.
    """

    images: bool
    channels: int
    start: str
    body: tuple[Element, ...]
    towers: tuple[tuple[Element, ...], ...] = ()
    encoder: tuple[Element, ...] = ()
    join: str = "cat"
    head: bool = True
    n: int = 4
    connection: str = "mhc"
    reduce: str = "mean"
    seed: int = 0
    injects: bool = False


def expected_sites(net: Network) -> int:
    """Number of sites of a settled network."""
    return sum(count(chain) for chain in (net.body, net.encoder, *net.towers))


def count(chain: Sequence[Element]) -> int:
    """Number of sites of a settled chain that lies in no branch."""
    return sum(_sites(chain, i) for i in range(len(chain)))


def _sites(chain: Sequence[Element], i: int) -> int:
    element = chain[i]
    if isinstance(element, Res):
        return element.uses * SITES.get(element.kind, 1)
    if isinstance(element, Exchange):
        return 2 * element.layers
    if isinstance(element, Op):
        is_free = element.kind in USES_BRANCH and element.kind != "dead"
        return FREE_SITES.get(element.branch, 0) if is_free else 0
    if isinstance(element, Long):
        return 1 if _outer_wins(chain, i) else count(element.inner)
    return count(element.inner) if isinstance(element, UNet) else 0


def settle(chain: Sequence[Element], owned: bool, after: int = 0) -> tuple[Element, ...]:
    """Make every claim about the chain certain.

    A write into the skip becomes a write into the branch where someone else still holds the skip, and a long skip whose
    winner depends on what counts as one chain is replaced by its inside.

    Args:
        chain: the elements.
        owned: whether nobody else holds the value at the start.
        after: the most sites that may join the chain from elsewhere: towers behind it, an encoder it recalls.
    """
    found: list[Element] = []
    for element in chain:
        found.append(_settle_element(element, owned, after))
        owned = _owned_after(element, owned)
    unsure = next(
        (i for i, e in enumerate(found) if isinstance(e, Long) and _outer_wins(found, i, after) is None), None
    )
    if unsure is None:
        return tuple(found)
    inner = found[unsure]
    assert isinstance(inner, Long)
    return settle((*found[:unsure], *inner.inner, *found[unsure + 1 :]), False, after)


def _settle_element(element: Element, owned: bool, after: int) -> Element:
    if isinstance(element, Res) and element.kind == "onto_skip" and not owned:
        return replace(element, kind="onto_fresh")
    if isinstance(element, Long):
        # Without a tail the chain must end in a residual: `x + (f(x) - x)` is no skip.
        tail = element.tail or not isinstance(element.inner[-1], Res)
        inner = settle(element.inner, element.head, after)
        return replace(element, inner=inner if element.head or tail else _first_without_inner(inner), tail=tail)
    return replace(element, inner=settle(element.inner, True, after)) if isinstance(element, UNet) else element


def _first_without_inner(chain: tuple[Element, ...]) -> tuple[Element, ...]:
    """`x + (h + g(h))` and a long skip from the same x are two levels, or a value injected twice into the stream h."""
    first = chain[0]
    is_open = isinstance(first, Res) and first.branch in FREE_SITES
    return (replace(first, branch="mlp"), *chain[1:]) if is_open else chain


def _owned_after(element: Element, owned: bool) -> bool:
    """Whether the value after an element is held by nobody else."""
    if isinstance(element, Collect | Recall):  # nothing may have been recalled
        return owned and isinstance(element, Recall)
    keeps = isinstance(element, Op) and element.kind in ("dropout", "cast", "dead")  # may return their operand itself
    return owned if keeps else True


def _outer_wins(chain: Sequence[Element], i: int, after: int = 0) -> bool | None:
    """Whether the long skip is longer than, or as long as, the chain inside it; None if that is open to debate.

    Without a layer in front, the inner chain begins where the outer one passes: then the sites before may be counted
    for both or for none, so the outer one must win, or lose, either way. What it recalls may go on in it: then it has
    the sites of that chain besides. Without a layer behind, too, it adds up two states of one stream, and loses.
    """
    element = chain[i]
    assert isinstance(element, Long)
    if not (element.head or element.tail):
        return False if all(isinstance(e, Res) and e.kind == "plain" for e in element.inner) else None
    joined = after if _recalls(element.inner) else 0
    inner = [max(lengths, default=0) for lengths in (_run_lengths(element.inner, s) for s in (True, False))]
    shortest, longest = sorted((_run_around(chain, i, sure) for sure in (True, False)), key=lambda run: run[0] + run[1])
    run = sum(shortest) if element.head else shortest[1]
    most = max(inner) + joined
    if most < run or (most == run and count(element.inner) + joined <= run):
        return True
    return False if min(inner) > sum(longest) + after else None


def _recalls(chain: Sequence[Element]) -> bool:
    """Whether a chain, or one inside it, multiplies its stream by a hidden state."""
    return any(isinstance(e, Recall) or (isinstance(e, Long | UNet) and _recalls(e.inner)) for e in chain)


def _run_around(chain: Sequence[Element], i: int, sure: bool) -> tuple[int, int]:
    """Number of sites of the run that element `i` belongs to: before it, and from it on."""
    marks = list(_marks(chain, sure))
    run = marks[i][0]
    before = sum(sites for j, (r, sites) in enumerate(marks) if r == run and j < i)
    return before, sum(sites for j, (r, sites) in enumerate(marks) if r == run and j >= i)


def _run_lengths(chain: Sequence[Element], sure: bool) -> list[int]:
    """Lengths of all runs of a chain, those on other levels included."""
    runs = groupby(sorted(_marks(chain, sure)), key=lambda mark: mark[0])
    lengths = [sum(sites for _, sites in run) for _, run in runs]
    for i, element in enumerate(chain):
        if isinstance(element, UNet):
            lengths += _run_lengths(element.inner, sure)
        elif isinstance(element, Op):
            lengths.append(_sites(chain, i))
        elif isinstance(element, Exchange):
            lengths.append(element.layers)
    return lengths


def _marks(chain: Sequence[Element], sure: bool) -> Iterator[tuple[int, int]]:
    """For each element, the run it belongs to and its sites there; `sure` ends runs wherever they might end.

    The site in the branch of an operator may begin the run that follows.
    """
    run, begun = 0, 0
    for i, element in enumerate(chain):
        kind = element.kind if isinstance(element, Res | Op) else ""
        ends = (
            isinstance(element, UNet | Exchange)
            or kind in END
            or kind in ENDS_CHAIN
            or (sure and (kind in MAYBE or isinstance(element, Recall)))
        )
        # Where a kind ends its chain, every further use is a run of one site: never the longest alone.
        several = isinstance(element, Res) and not ends
        sites = element.layers if isinstance(element, Exchange) else int(isinstance(element, Res | Long))
        yield run, begun + (element.uses if several else sites)
        begun = _sites(chain, i) if isinstance(element, Op) and not sure else 0
        run += ends
