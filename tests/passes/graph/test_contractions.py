"""Contractions are read as letters, whatever they are written as."""

from __future__ import annotations

import pytest
import torch

from mhc_compile.passes.graph.contractions import terms_of
from tests.passes.graphs import traced
from tests.passes.layers import Net2

X, Y = torch.randn(2, 3, 4, 5), torch.randn(5, 4, 6)

SAME = {
    "dots": (lambda m, x, y: torch.einsum("ab...d,d...e->ab...e", x, y[:, :4]), "abcd,dce->abce"),
    "dots of two axes": (lambda m, x, y: torch.einsum("a...d,dc->a...c", x, y[:, 0]), "abed,dc->abec"),
    "dots that are broadcast": (lambda m, x, y: torch.einsum("...d,...d->...", x, y[:, :, 0].T), "abcd,cd->abc"),
    "no arrow": (lambda m, x, y: torch.einsum("abcd,dce", x, y), "abcd,dce->abe"),
    "no arrow, with dots": (lambda m, x, y: torch.einsum("...d,de", x, y[:, 0]), "abcd,de->abce"),
    "operands in a list": (lambda m, x, y: torch.einsum("abcd,dce->abe", [x, y]), "abcd,dce->abe"),
    "blanks": (lambda m, x, y: torch.einsum("a b c d, d c e -> a b e", x, y), "abcd,dce->abe"),
    "tensordot": (lambda m, x, y: torch.tensordot(x, y, dims=([3, 2], [0, 1])), "abcd,dce->abe"),
    "tensordot of the last axes": (lambda m, x, y: torch.tensordot(x, y.transpose(0, 1), 2), "abcd,cde->abe"),
    "tensordot of no axis": (lambda m, x, y: torch.tensordot(x, y[0], 0), "abcd,ef->abcdef"),
}


def renamed(letters: list[str], result: str) -> str:
    """The equation with letters in the order in which they come."""
    text = ",".join(letters) + "->" + result
    order = dict.fromkeys(letter for letter in text if letter not in ",->")
    return text.translate({ord(letter): chr(ord("a") + i) for i, letter in enumerate(order)})


@pytest.mark.parametrize("name", SAME)
def test_a_contraction_is_an_einsum_with_a_letter_for_each_axis(name):
    body, equation = SAME[name]
    node = traced(Net2(body), X, Y).graph.output_node().args[0]
    letters, result, operands = terms_of(node)
    assert renamed(letters, result) == renamed(*((t := equation.split("->"))[0].split(","), t[1]))
    values = [operand.meta["val"].shape for operand in operands]
    assert [len(term) for term in letters] == [len(shape) for shape in values]


@pytest.mark.parametrize("body", [lambda m, x, y: x @ y[:, 0], lambda m, x, y: torch.bmm(x[0], x[0].mT)])
def test_what_names_no_axes_by_letters_has_none(body):
    assert terms_of(traced(Net2(body), X, Y).graph.output_node().args[0]) is None
