from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from mhc_compile.errors import PatternError
from mhc_compile.passes.plan.reasons import Reason
from tests.passes.graphs import plan_of, reasons
from tests.passes.layers import Mlp, Net, PreNorm, conv, images, mlps, tokens
from tests.passes.residual_blocks import pre_norm
from tests.passes.shapes import SHAPES

X = tokens()
KEYS = ["0.attn", "0.mlp", "1.attn", "1.mlp"]


def plan(**options):
    return plan_of(pre_norm().double(), X, **options)


def keys(found):
    return [s.key for s in found.sites]


def test_a_site_says_everything_the_rewrite_needs():
    site = plan().site("1.mlp")
    assert (site.skip, site.base, site.lifts, site.moves_axes) == ("add_2", "add_2", (), False)
    assert (site.add, site.adds, site.branches, site.negated) == ("add_3", ("add_3",), ("_1_mlp_2",), ())
    assert site.branch_nodes == {"_1_norm2", "_1_mlp_0", "_1_mlp_1", "_1_mlp_2"}
    assert (site.shape, site.dtype, site.channels, site.channel_axis) == ((2, 6, 8), "float64", 8, 2)
    assert site.weights == ("1.mlp.0", "1.mlp.2") and site.kind == "prenorm"


def test_a_site_names_the_one_whose_streams_it_takes():
    assert [s.before for s in plan().sites] == ["", *KEYS[:3]]
    assert not any(s.moves_tokens for s in plan().sites)


def test_weights_are_those_of_the_branch_under_every_front_end():
    for front_end in ("dynamo", "export"):
        found = plan_of(pre_norm().double(), X, front_end=front_end)
        assert found.site("1.mlp").weights == ("1.mlp.0.weight", "1.mlp.2.weight")


def test_locations_name_the_file_and_line_of_the_add():
    site = plan_of(pre_norm().double(), X, front_end="dynamo").site("0.attn")
    path, _, line = site.location.rpartition(":")
    assert path.endswith("layers.py") and "x + self.attn" in Path(path).read_text().splitlines()[int(line) - 1]


@pytest.mark.parametrize(("options", "left"), [
    ({"include": "*.mlp"}, ["0.mlp", "1.mlp"]), ({"exclude": ["*.mlp"]}, ["0.attn", "1.attn"]),
    ({"include": "0.*", "exclude": "*.attn"}, ["0.mlp"]), ({"include": ["0.mlp", "1.attn"]}, ["0.mlp", "1.attn"]),
    ({"exclude": "*"}, []), ({}, KEYS),
])  # fmt: skip
def test_include_and_exclude_choose_by_key(options, left):
    found = plan(**options)
    assert keys(found) == left
    assert reasons(found) == ["EXCLUDED"] * (4 - len(left))
    assert {r.detail for r in found.rejected} == set(KEYS) - set(left)


@pytest.mark.parametrize("name", ["include", "exclude"])
def test_a_glob_that_matches_nothing_is_an_error_that_lists_the_keys(name):
    with pytest.raises(PatternError, match=rf"{name}='\*.ffn' matches no site: the sites are 0.attn, 0.mlp"):
        plan(**{name: ["*.mlp", "*.ffn"]})


def test_a_glob_on_a_model_without_sites_is_an_error():
    with pytest.raises(PatternError, match="no sites"):
        plan_of(nn.Linear(8, 8).double(), X, include="*")


def test_keys_do_not_depend_on_what_is_left_out():
    model, inputs = SHAPES["shared layers"].make()
    assert keys(plan_of(model, *inputs, exclude="layer.attn")) == [
        "layer.mlp", "layer.attn#2", "layer.mlp#2", "layer.attn#3", "layer.mlp#3"
    ]  # fmt: skip


def test_an_excluded_site_cuts_the_segment():
    found = plan(exclude="0.mlp")
    assert [s.sites for s in found.segments] == [("0.attn",), ("1.attn", "1.mlp")]


def cut(m, x):
    """Segments of one, then of two sites."""
    x = (x + m.f0(x)).sort(-1)[0]
    x = x + m.f1(x)
    return x + m.f2(x)


@pytest.mark.parametrize(("least", "left"), [(1, ["f0", "f1", "f2"]), (2, ["f1", "f2"]), (3, [])])
def test_min_sites_leaves_short_segments_alone(least, left):
    found = plan_of(Net(cut, **mlps(3)).double(), X, min_sites=least)
    assert keys(found) == left
    assert {r.reason for r in found.rejected} == ({Reason.MIN_SITES} if least > 1 else set())


@pytest.mark.parametrize(("how", "left"), [("longest", ["f0", "f1"]), ("outer", ["end"]), ("inner", ["f0", "f1"])])
def test_nested_chooses_the_level(how, left):
    model, inputs = SHAPES["long skip"].make()
    found = plan_of(model, *inputs, nested=how)
    assert keys(found) == left and set(reasons(found)) == {"NESTED"}


@pytest.mark.parametrize(("options", "per_site"), [
    ({"n": 4}, 4 * 8 * 24 + 3 + 24), ({"n": 2}, 2 * 8 * 8 + 3 + 8), ({"n": 1}, 0), ({"connection": "residual"}, 0),
    ({"connection": "hc-static"}, 4 + 4 + 16), ({"connection": "identity"}, 4 * 8 * 8 + 2 + 8),
])  # fmt: skip
def test_parameters_are_counted(options, per_site):
    found = plan(**options)
    assert {s.parameters for s in found.sites} == {per_site} and found.parameters == 4 * per_site


def test_a_learned_readout_has_parameters_and_a_key_of_its_own():
    (readout,) = plan(reduce="learned").segments[0].readouts
    assert readout.key == "1.mlp.readout" and readout.parameters == 4 * 8 * 4 + 1 + 4
    assert plan().segments[0].readouts[0].parameters == 0


def test_readouts_of_one_site_are_numbered():
    def body(m, x):
        u = x + m.f0(x)
        h = u * 2.0
        return h + m.f1(h), u, h

    readouts = plan_of(Net(body, **mlps(2)).double(), X).segments[0].readouts
    assert [r.key for r in readouts] == ["f0.readout", "f0.readout#2", "f1.readout"]


def test_a_readout_behind_a_permutation_has_its_channels_elsewhere():
    def body(m, x):
        u = (x + m.c0(x)).permute(0, 2, 3, 1)
        return u + m.f(u), u

    found = plan_of(Net(body, c0=conv(), f=Mlp()).double().eval(), images())
    assert [(r.channel_axis, r.channels) for r in found.segments[0].readouts] == [(3, 8), (3, 8)]


def test_keys_of_branches_without_a_common_module_are_those_of_their_last_weight():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return x + self.b(self.a(x))

    assert keys(plan_of(nn.Sequential(Block(), Block()).double(), X)) == ["0", "1"]
    assert keys(plan_of(Block().double(), X)) == ["b"]


def test_counts():
    found = plan()
    assert (found.n, found.connection, found.float_adds) == (4, "mhc", 4)
    assert found.nodes > 20 and len(found.segments) == 1


def test_a_model_without_adds_has_an_empty_plan():
    found = plan_of(nn.Linear(8, 8).double(), X)
    assert (found.sites, found.rejected, found.segments, found.parameters) == ((), (), (), 0)


def test_layers_of_another_width_have_parameters_of_theirs():
    model = nn.Sequential(PreNorm(), nn.Linear(8, 4), PreNorm(4)).double()
    assert [s.channels for s in plan_of(model, X).sites] == [8, 8, 4, 4]
