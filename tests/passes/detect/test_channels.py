from __future__ import annotations

import pytest
import torch
from torch import nn

from mhc_compile.passes.detect.channels import axis_of_size
from tests.passes.graphs import graph_of, plan_of, reasons
from tests.passes.layers import Mlp, Net, conv, images, mlps, tokens
from tests.tables import also

X = tokens()


def axes(body, x, front_end="symbolic", **layers):
    """`(channel_axis, base_axis, channels)` of every site."""
    plan = plan_of(Net(body, **layers).double().eval(), x, front_end=front_end)
    return [(s.channel_axis, s.base_axis, s.channels) for s in plan.sites]


def flat(m, x):
    return x.flatten(2).transpose(1, 2)


# Dynamo differs by its open sizes, which have a test of their own below.
FRONT_ENDS = pytest.mark.parametrize("front_end", ["symbolic", "export", *also("dynamo")])


@FRONT_ENDS
@pytest.mark.parametrize(("shape", "expected"), [((6, 8), 1), ((2, 6, 8), 2), ((2, 4, 4, 8), 3), ((8, 8, 8), 2)])
def test_a_linear_layer_shows_its_last_axis(shape, expected, front_end):
    assert axes(lambda m, x: x + m.f(x), tokens(*shape), front_end, f=Mlp()) == [(expected, expected, 8)]


@FRONT_ENDS
@pytest.mark.parametrize(("layer", "shape"), [
    (nn.Conv1d(8, 8, 1), (2, 8, 8)), (nn.Conv2d(8, 8, 1), (2, 8, 8, 8)), (nn.Conv3d(8, 8, 1), (2, 8, 2, 2, 8)),
])  # fmt: skip
def test_a_convolution_shows_its_second_axis(layer, shape, front_end):
    assert axes(lambda m, x: x + m.f(x), tokens(*shape), front_end, f=layer) == [(1, 1, 8)]


@FRONT_ENDS
@pytest.mark.parametrize(("body", "expected"), [
    (lambda m, x: x + m.f(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), (1, 1, 8)),
    (lambda m, x: x + m.f(x.transpose(1, -1)).transpose(-1, 1), (1, 1, 8)),
    (lambda m, x: x + m.f(x.flatten(2).transpose(1, 2)).transpose(1, 2).view(2, 8, 4, 4), (1, 1, 8)),
    (lambda m, x: x + m.f(torch.relu(x).permute((0, 2, 3, 1))).permute((0, 3, 1, 2)), (1, 1, 8)),
])  # fmt: skip
def test_permutations_inside_the_branch_are_followed(body, expected, front_end):
    assert axes(body, images(), front_end, f=Mlp()) == [expected]


@FRONT_ENDS
def test_base_and_add_may_have_their_channels_on_different_axes(front_end):
    body = lambda m, x: flat(m, x) + flat(m, m.c(x))
    assert axes(body, images(), front_end, c=conv()) == [(2, 1, 8)]
    body = lambda m, x: x.transpose(1, 2) + m.f(x).transpose(1, 2)
    assert axes(body, X, front_end, f=Mlp()) == [(1, 2, 8)]


def test_a_branch_that_mixes_tokens_follows_the_others():
    """MLP-Mixer: the first linear layer of each block contracts the tokens."""

    def body(m, x):
        x = x + m.mix(x.transpose(1, 2)).transpose(1, 2)
        x = x + m.f0(x)
        return x + m.f1(x)

    assert axes(body, X, mix=nn.Linear(6, 6), **mlps(2)) == [(2, 2, 8)] * 3


def test_open_sizes_are_no_channels():
    """A branch that shows an axis whose size is open does not make it the channel axis."""
    body = lambda m, x: x + m.f(torch.nn.functional.instance_norm(x))  # over the tokens
    assert axes(body, X, "dynamo", f=Mlp()) == [(2, 2, 8)]


def test_a_view_of_the_tokens_leaves_the_channels_where_they_are():
    assert axes(lambda m, x: x.reshape(12, 8) + m.f(x).reshape(12, 8), X, f=Mlp()) == [(1, 2, 8)]


def test_a_view_that_breaks_up_the_channels_is_rejected():
    body = lambda m, x: x.reshape(2, 48) + m.f(x).reshape(2, 48)
    plan = plan_of(Net(body, f=Mlp()).double(), X)
    assert not plan.sites and reasons(plan) == ["RESHAPED_SKIP"]


SKIPS = {
    "transpose": lambda x: x.transpose(1, 2),
    "transpose by name": lambda x: torch.transpose(x, dim0=1, dim1=2),
    "permute": lambda x: x.permute(0, 2, 1),
    "permute by name": lambda x: torch.permute(x, dims=(0, 2, 1)),
    "movedim": lambda x: x.movedim(-1, 1),
    "adjoint": lambda x: x.adjoint(),
    "movedim of tuples": lambda x: torch.movedim(x, source=(1, 2), destination=(2, 1)),
    "contiguous": lambda x: x.transpose(-1, -2).contiguous(),
}


@pytest.mark.parametrize("name", SKIPS)
@pytest.mark.parametrize("length", [6, 8])
def test_axes_do_not_depend_on_the_number_of_tokens(name, length):
    """With as many tokens as channels, sizes do not tell which axis is which."""
    move = SKIPS[name]
    assert axes(lambda m, x: move(x) + move(m.f(x)), tokens(2, length, 8), f=Mlp()) == [(1, 2, 8)]


@pytest.mark.parametrize("name", SKIPS)
@pytest.mark.parametrize("length", [6, 8])
def test_a_readout_behind_a_permutation_follows_its_channels(name, length):
    def body(m, x):
        u = SKIPS[name](x + m.f(x))
        return u + m.g(u.transpose(1, 2)).transpose(1, 2), u

    plan = plan_of(Net(body, f=Mlp(), g=Mlp()).double().eval(), tokens(2, length, 8))
    first = plan.segments[0].readouts[0]
    assert first.users == ("output",) and (first.channel_axis, first.channels) == (1, 8)


def test_of_two_axes_of_its_size_the_one_of_the_site_has_the_channels():
    graph = graph_of(Net(lambda m, x: (x * 1.0, x.mean(-1))).double(), tokens(2, 8, 8))
    square, gone = (graph.index[n] for n in graph.nodes[-1].all_input_nodes)
    assert axis_of_size(graph, square, 1, 8) == (1, 8) and axis_of_size(graph, square, 2, 8) == (2, 8)
    assert axis_of_size(graph, gone, 2, 8) == (1, 8)


def test_a_value_of_other_axes_has_the_channels_where_their_number_is():
    graph = graph_of(Net(lambda m, x: (x * 1.0, x.transpose(1, 2), x.mean(-1))).double(), tokens(2, 8, 6))
    one, moved, gone = (graph.index[n] for n in graph.nodes[-1].all_input_nodes)
    assert axis_of_size(graph, one, 1, 8) == (1, 8)
    assert axis_of_size(graph, moved, 1, 8) == (2, 8)
    assert axis_of_size(graph, gone, 2, 6) == (1, 8)  # the last one, where no axis has this size


def test_a_stream_whose_length_depends_on_the_data_has_channels():
    def body(m, x):
        x = x.flatten(0, 1)
        x = x[x[:, 0] > 0]  # as many as there are
        return x + m.f0(x)

    plan = plan_of(Net(body, **mlps(1)), tokens().float(), front_end="dynamo")
    assert [(site.channels, site.channel_axis) for site in plan.sites] == [(8, 1)]


def test_a_layer_of_a_segment_of_its_own_is_not_overruled_by_others_of_its_shape():
    def body(m, x):
        for f in (m.c0, m.c1, m.c2):
            x = x + f(x)
        x = m.between(x.mT)
        for f in (m.f0, m.f1):
            x = x + f(x)
        return x

    layers = {"between": nn.Linear(8, 8), **mlps(2), **{f"c{i}": nn.Conv1d(8, 8, 1) for i in range(3)}}
    assert axes(body, tokens(2, 8, 8), **layers) == [(1, 1, 8)] * 3 + [(2, 2, 8)] * 2


def test_channels_on_the_first_axis_are_no_reason_to_take_the_other():
    weights = {f"w{i}": nn.Parameter(torch.randn(8, 8)) for i in range(2)}
    plan = plan_of(Net(lambda m, x: x + m.w0 @ x, **weights).double().eval(), torch.randn(8, 5).double())
    assert not plan.sites and "UNKNOWN_CHANNELS" in reasons(plan)


def test_a_branch_that_shows_both_axes_follows_what_others_were_decided_to_be():
    """The outer layer's own operators are of two minds, and so is its neighbour's branch, whose norm decides."""
    mix = lambda m, x: x + m.tokens @ (m.norm(x) @ m.channels)

    def body(m, x):
        x = mix(m, m.stem(x))
        return x + mix(m, mix(m, m.head(x)))

    square = {"tokens": nn.Parameter(torch.randn(3, 3)), "channels": nn.Parameter(torch.randn(4, 4))}
    layers = {"stem": nn.Linear(4, 4), "head": nn.Linear(4, 4), "norm": nn.LayerNorm(4), **square}
    assert axes(body, tokens(2, 3, 4), **layers) == [(2, 2, 4)] * 2


def test_a_mixer_follows_a_neighbour_whose_norm_decided():
    def body(m, x):
        x = m.norm(m.stem(x))
        x = m.norm(x + torch.fft.fft(x, dim=1).real)
        return m.norm(x + m.tokens @ (m.norm(x) @ m.channels))

    square = {"tokens": nn.Parameter(torch.randn(3, 3)), "channels": nn.Parameter(torch.randn(4, 4))}
    layers = {"stem": nn.Linear(4, 4), "norm": nn.LayerNorm(4), **square}
    assert axes(body, tokens(2, 3, 4), **layers) == [(2, 2, 4)] * 2
