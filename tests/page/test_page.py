from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mhc_compile.errors import InvalidOptionError
from mhc_compile.page.page import Page, check_output, to_html, write_page
from tests import hand_plans as hand
from tests.page.pages import large_page, small_page

_VOID = {"input", "br", "meta", "link", "wbr", "!doctype"}


class Reader(HTMLParser):
    """Checks that every element is closed, and collects identifiers, references and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    def of(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and attributes.items() <= a.items()]


@pytest.fixture(scope="module")
def page() -> Reader:
    return Reader(to_html(small_page()))


def test_every_section_is_linked_and_every_identifier_is_there_once(page: Reader) -> None:
    names = [a["id"] for _, a in page.tags if "id" in a]
    assert len(names) == len(set(names))
    links = [str(a["href"]) for a in page.of("a")]
    assert links == ["#main", "#advice", "#streams", "#sites", "#alone", "#cost", "#diagnostics", "#code"]
    assert {link[1:] for link in links} <= set(names)
    assert {a["for"] for a in page.of("label")} <= set(names)
    assert {a["aria-labelledby"] for a in page.of("section")} <= set(names)


def test_every_site_is_drawn_once_and_is_a_row(page: Reader) -> None:
    keys = [site.key for site in small_page().plan.sites]
    assert [a["data-key"] for a in page.of("li", **{"class": "site"})] == keys
    assert len([a for a in page.of("tr") if "data-segment" in a]) == len(keys)


def test_a_repeated_block_is_folded(page: Reader) -> None:
    (block,) = page.of("details", **{"class": "block"})
    assert "open" not in block and "open" in page.of("details", **{"class": "segment"})[0]
    assert "\u00d7 12" in page.words


def test_reasons_stand_with_their_adds(page: Reader) -> None:
    text = " ".join(page.words)
    assert "BROADCAST" in text and "the operands have different shapes" in text
    assert "mask" in page.words  # the add itself, and not the sentence of the reason, which says mask too
    assert "nested=" in text  # what to do about it


def test_names_are_escaped(page: Reader) -> None:
    assert "timm:vit_tiny <b>" in page.words


def test_attributes_are_escaped() -> None:
    key = 'a" onclick="x'
    page = Reader(to_html(Page("m", hand.plan([[hand.site(key, "x"), hand.site("b", "y")]]))))
    assert page.of("li", **{"class": "site"})[0]["data-key"] == key


def test_nothing_is_fetched_from_anywhere() -> None:
    html = to_html(small_page())
    assert not re.search(r"""(src|href)=["'](?!#)|url\(|@import|https?://(?!arxiv)""", html)


def test_cost_and_code_and_diagnostics_are_left_out_where_there_are_none() -> None:
    reader = Reader(to_html(Page("m", hand.plan([hand.transformer()]), remarks=("There is no estimate: because",))))
    assert [a["id"] for a in reader.of("section")] == ["advice", "streams", "sites", "alone"]
    assert "There is no estimate: because" in reader.words


def test_diagnostics_are_drawn_and_listed(page: Reader) -> None:
    text = " ".join(page.words)
    assert "the gain is above 2" in text and "Composite gain, forward" in text
    assert [a["aria-label"] for a in page.of("svg")] == ["Composite gain over depth"]
    assert len([a for a in page.of("path") if "curve" in str(a.get("class"))]) == 2


def test_a_model_without_sites_still_has_its_reasons() -> None:
    reader = Reader(to_html(Page("m", hand.plan([], (hand.rejection("mask"),)))))
    assert [a["id"] for a in reader.of("section")] == ["advice", "alone"]


def test_every_figure_of_cost_stands_there_with_its_formula(page: Reader) -> None:
    text = " ".join(page.words)
    for wanted in ("estimate", "16,384 tokens", "T C b", "one kernel per formula", "62 ms", "+ 32.0 %"):
        assert wanted in text


def test_a_thousand_sites_are_less_than_two_megabytes() -> None:
    html = to_html(large_page(1000))
    assert len(html.encode()) < 2_000_000
    assert len(Reader(html).of("li", **{"class": "site"})) == 1000


def test_segments_are_folded_where_there_are_many() -> None:
    chains = [[replace(site, key=f"{i}.{site.key}", add=f"{i}_{site.add}", adds=(f"{i}_{site.add}",)) for site in
               hand.transformer(1)] for i in range(9)]  # fmt: skip
    reader = Reader(to_html(Page("m", hand.plan(chains))))
    assert not [a for a in reader.of("details", **{"class": "segment"}) if "open" in a]


def test_a_path_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    for path, told in (("page.txt", "suffix"), ("no/such/page.html", "does not exist")):
        with pytest.raises(InvalidOptionError, match=told):
            check_output(tmp_path / path)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(InvalidOptionError, match="is a directory"):
        check_output(tmp_path / "folder.html")
    write_page(small_page(), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
