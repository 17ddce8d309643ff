from __future__ import annotations

import builtins
import math
import xml.etree.ElementTree as ET

import pytest

from mhc_compile.diagnostics.plots import MOST_MAPS, draw_gain, draw_mixing, draw_streams, write_plots
from mhc_compile.errors import MissingPackageError
from tests.diagnostics.figures_by_hand import diagnosis, site


def chain(count, **changes):
    return [site(f"blocks.{i}.mlp", f"blocks.{i - 1}.mlp" if i else "", **changes) for i in range(count)]


def test_three_drawings_are_written_as_png_and_svg(tmp_path):
    pytest.importorskip("matplotlib")
    paths = write_plots(diagnosis(*chain(3), site("other", segment=1)), tmp_path / "figures")
    assert sorted(p.name for p in paths) == [
        "gain.png",
        "gain.svg",
        "mixing.png",
        "mixing.svg",
        "streams.png",
        "streams.svg",
    ]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths if p.suffix == ".png")
    assert all(ET.parse(p).getroot().tag.endswith("svg") for p in paths if p.suffix == ".svg")


def test_a_row_for_each_segment_and_a_logarithm_where_gains_explode():
    pytest.importorskip("matplotlib")
    grown = [site(f"b.{i}", composite_forward=10.0**i, composite_backward=1.0) for i in range(4)]
    axes = draw_gain(diagnosis(*grown, site("x", segment=1))).axes
    assert [ax.get_yscale() for ax in axes] == ["log", "linear"]
    assert [t.get_text() for t in axes[0].get_xticklabels()] == [s.key for s in grown]
    low, high = axes[1].get_ylim()
    assert low < 1 < high


def test_of_many_sites_names_and_maps_are_chosen_evenly():
    pytest.importorskip("matplotlib")
    many = diagnosis(*chain(100))
    names = [t.get_text() for t in draw_gain(many).axes[0].get_xticklabels()]
    assert len(names) == 12 and names[0] == "blocks.0.mlp" and names[-1] == "blocks.99.mlp"
    titles = [ax.get_title() for ax in draw_mixing(many).axes if ax.images]
    assert len(titles) == MOST_MAPS and titles[0] == "blocks.0.mlp" and titles[-1] == "blocks.99.mlp"


def test_a_matrix_with_signs_has_zero_in_the_middle_of_its_colours():
    pytest.importorskip("matplotlib")
    image = draw_mixing(diagnosis(site("a", mixing=((1.0, -3.0), (0.0, 1.0))))).axes[0].images[0]
    assert image.get_clim() == (-3.0, 3.0)
    assert draw_mixing(diagnosis(site("a"))).axes[0].images[0].get_clim() == (0.0, 1.0)


def test_streams_and_their_shares_have_a_line_each():
    pytest.importorskip("matplotlib")
    left, right = draw_streams(diagnosis(*chain(3))).axes
    assert [len(ax.lines) for ax in (left, right)] == [2, 3]  # and the spread


def test_towers_on_one_trunk_are_not_joined():
    pytest.importorskip("matplotlib")
    sites = site("trunk"), site("left", "trunk"), site("right", "trunk")
    line = draw_gain(diagnosis(*sites)).axes[0].lines[1]
    assert list(line.get_xdata()) == [1, 2, 2.5, 3]
    assert [math.isnan(y) for y in line.get_ydata()] == [False, False, True, False]


def test_what_is_not_finite_does_not_break_a_drawing(tmp_path):
    pytest.importorskip("matplotlib")
    bad = {name: float("nan") for name in ("composite_forward", "composite_backward", "gain_forward", "spread")}
    write_plots(diagnosis(*chain(2), site("bad", trouble="branch", **bad)), tmp_path, ("svg",))


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError("No module named 'matplotlib'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackageError, match=r"pip install 'mhc-compile\[plots\]'"):
        write_plots(diagnosis(site("a")), tmp_path)
