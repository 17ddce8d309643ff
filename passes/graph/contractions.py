"""Products that name the axes they sum over: `einsum` and `tensordot`, read as letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from mhc_compile.passes.graph.op_kinds import canonical_name
from mhc_compile.passes.graph.values import rank_of
from mhc_compile.passes.graph.wording import arguments

Terms = tuple[list[str], str, list[Any]]
"""A letter for each axis of each operand, those of the result, and the operands."""

_FREE = ord("\N{GREEK SMALL LETTER ALPHA}")  # letters that no equation has


def terms_of(node: fx.Node) -> Terms | None:
    """The letters of a contraction; None if it is none, or if they are not written out.

    Dots stand for letters, too: the last of those of the operand that has the most axes there.
    """
    read = _READ.get(canonical_name(node))
    return None if read is None else read(node)


def _of_einsum(node: fx.Node) -> Terms | None:
    equation: Any = node.args[0] if node.args else None
    operands: list[Any] = [*node.args[1:]]
    operands = list(operands[0]) if operands and isinstance(operands[0], (tuple, list)) else operands
    if not isinstance(equation, str):
        return None
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    dots = [
        _rank(operand) - len(term) + 3 if "." in term else 0 for term, operand in zip(terms, operands, strict=False)
    ]
    if len(dots) != len(terms) or min(dots) < 0:
        return None
    most = max(dots)
    right = right if arrow else _unwritten(terms)
    written = [_spelled(term, most, count) for term, count in zip(terms, dots, strict=True)]
    return written, _spelled(right, most, most), operands


def _rank(operand: Any) -> int:
    rank = rank_of(operand) if isinstance(operand, fx.Node) else None
    return -1 << 16 if rank is None else rank


def _spelled(term: str, most: int, count: int) -> str:
    """A term with letters for its dots, which stand for `count` of at most `most` axes."""
    return term.replace("...", "".join(chr(_FREE + i) for i in range(most - count, most)))


def _unwritten(terms: Sequence[str]) -> str:
    """The result where no arrow names it: what is broadcast, then letters that come once, in their order."""
    letters = Counter(letter for term in terms for letter in term if letter != ".")
    dots = "..." if any("." in term for term in terms) else ""
    return dots + "".join(sorted(letter for letter, count in letters.items() if count == 1))


def _of_tensordot(node: fx.Node) -> Terms | None:
    left, right, axes = arguments(node, "a", "b", "dims")
    ranks = (_rank(left), _rank(right))
    if min(ranks) < 0:
        return None
    if isinstance(axes, int):
        axes = ([*range(ranks[0] - axes, ranks[0])], [*range(axes)])
    if not isinstance(axes, (tuple, list)) or len(axes) != 2:
        return None
    ours, theirs = ([a] if isinstance(a, int) else [*a] for a in axes)
    first = [chr(_FREE + i) for i in range(ranks[0])]
    second = [chr(_FREE + ranks[0] + i) for i in range(ranks[1])]
    for a, b in zip(ours, theirs, strict=False):
        second[b] = first[a]
    shared = {*first} & {*second}
    result = "".join(letter for letter in (*first, *second) if letter not in shared)
    return ["".join(first), "".join(second)], result, [left, right]


_READ: dict[str, Callable[[fx.Node], Terms | None]] = {"einsum": _of_einsum, "tensordot": _of_tensordot}

Contraction = tuple[Any, int, fx.Node | None]
"""A tensor, its axis, and the vector it is contracted with there, or None for ones."""

CONTRACTIONS = frozenset({"einsum", "tensordot", "matmul"})


def with_vector(node: fx.Node) -> Contraction | None:
    """What a contraction with nothing but a vector sums over; None for any other."""
    found = _of_matmul(node) if canonical_name(node) == "matmul" else _of_terms(node)
    has_matrix = found is not None and isinstance(found[2], fx.Node) and rank_of(found[2]) != 1
    return None if has_matrix else found


def _of_terms(node: fx.Node) -> Contraction | None:
    letters, result, operands = terms_of(node) or ([], "", [])
    pairs = list(zip(operands, letters, strict=False))
    for tensor, term in pairs if len(pairs) <= 2 else ():
        gone = [letter for letter in term if letter not in result]
        rest = [(other, its) for other, its in pairs if other is not tensor]
        if len(gone) == 1 and term.replace(gone[0], "") == result and all(its == gone[0] for _, its in rest):
            return tensor, term.index(gone[0]), rest[0][0] if rest else None
    return None


def _of_matmul(node: fx.Node) -> Contraction | None:
    left, right = (*node.args, *node.kwargs.values())[:2]
    return (left, -1, right) if isinstance(right, fx.Node) and rank_of(right) == 1 else None
