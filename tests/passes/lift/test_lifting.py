from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.lift.lifting import can_lift, is_linear, lift
from tests.passes.graphs import build, traced
from tests.passes.layers import Net, Net2, tokens

N = 3
X = tokens(2, 3, 4)


def lift_all(gm: fx.GraphModule, stream: fx.Node) -> fx.GraphModule:
    """Every op that depends on the placeholder `stream` is lifted, which now gets `[N, *shape]`."""
    graph = Ancestry(gm)
    streams = {stream: stream}
    output = next(n for n in gm.graph.nodes if n.op == "output")
    for i, node in enumerate(graph.nodes):
        if node.op.startswith("call") and any(n in streams for n in node.all_input_nodes):
            assert can_lift(graph, i, [graph.index[n] for n in streams]), node
            with gm.graph.inserting_before(output):
                streams[node] = lift(node, dict(streams))
    output.replace_input_with(output.args[0], streams[output.args[0]])
    gm.graph.eliminate_dead_code()
    gm.recompile()
    return gm


def check(model: nn.Module, x: Tensor, *others: Tensor, aten: bool = False) -> None:
    """Lifted ops do to each stream what the model does to a tensor."""
    gm = make_fx(model)(x, *others) if aten else traced(model, x, *others)
    X = torch.stack([x * (1 + i) + i for i in range(N)])
    expected = torch.stack([model(X[i], *others) for i in range(N)])
    stream = next(n for n in gm.graph.nodes if n.op == "placeholder")
    result = lift_all(gm, stream)(X, *others)
    assert result.shape == expected.shape
    assert torch.allclose(result, expected, rtol=1e-12, atol=1e-12)


OPS = {
    "view": lambda m, x: x.view(2, 12),
    "view of a list": lambda m, x: x.view([2, 12]),
    "view with an inferred size": lambda m, x: x.view(-1, 4),
    "view with keyword": lambda m, x: x.view(size=(6, 4)),
    "reshape": lambda m, x: x.reshape((3, -1)),
    "reshape function": lambda m, x: torch.reshape(x, (3, -1)),
    "reshape with keywords": lambda m, x: torch.reshape(input=x, shape=(3, -1)),
    "transpose": lambda m, x: x.transpose(1, 2),
    "transpose negative": lambda m, x: x.transpose(-1, 0),
    "transpose with keywords": lambda m, x: x.transpose(dim0=1, dim1=-1),
    "transpose function": lambda m, x: torch.transpose(x, 0, -2),
    "swapaxes": lambda m, x: x.swapaxes(0, 1),
    "swapdims": lambda m, x: torch.swapdims(x, -3, 2),
    "permute": lambda m, x: x.permute(2, 0, 1),
    "permute of a tuple": lambda m, x: x.permute((0, -1, 1)),
    "permute with keyword": lambda m, x: torch.permute(x, dims=(-1, -2, -3)),
    "movedim": lambda m, x: x.movedim(0, -1),
    "movedim with keywords": lambda m, x: torch.movedim(x, source=-1, destination=0),
    "movedim of tuples": lambda m, x: torch.movedim(x, (0, 1), (-1, 0)),
    "flatten": lambda m, x: x.flatten(),
    "flatten from": lambda m, x: x.flatten(1),
    "flatten from and to": lambda m, x: x.flatten(0, 1),
    "flatten negative": lambda m, x: torch.flatten(x, -2, -1),
    "flatten with keywords": lambda m, x: x.flatten(start_dim=0, end_dim=-2),
    "flatten with one keyword": lambda m, x: x.flatten(end_dim=1),
    "unflatten": lambda m, x: x.unflatten(2, (2, 2)),
    "unflatten negative": lambda m, x: x.unflatten(-1, (2, -1)),
    "unflatten with keywords": lambda m, x: x.unflatten(dim=2, sizes=(2, 2)),
    "unsqueeze": lambda m, x: x.unsqueeze(0),
    "unsqueeze negative": lambda m, x: x.unsqueeze(-1),
    "unsqueeze with keyword": lambda m, x: torch.unsqueeze(x, dim=1),
    "squeeze": lambda m, x: x.unsqueeze(1).squeeze(1),
    "squeeze of several": lambda m, x: x.unsqueeze(0).unsqueeze(-1).squeeze((0, -1)),
    "t": lambda m, x: x.view(6, 4).t(),
    "mean": lambda m, x: x - x.mean(-1, keepdim=True),
    "mean from the front": lambda m, x: x - x.mean(1, True),
    "mean over a tuple": lambda m, x: x * x.mean(dim=(0, -1), keepdim=True),
    "mean with an empty tuple of axes": lambda m, x: x.sum((1, 2), keepdim=True) * x,
    "amax": lambda m, x: x / x.abs().amax(dim=2, keepdim=True),
    "rms norm spelled out": lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * m.weight,
    "layer norm": lambda m, x: F.layer_norm(x, (4,), m.weight),
    "layer norm over two axes": lambda m, x: F.layer_norm(x, (3, 4)),
    "layer norm with keywords": lambda m, x: F.layer_norm(input=x, normalized_shape=(4,), weight=m.weight),
    "layer norm module": lambda m, x: m.norm(x),
    "rms norm": lambda m, x: F.rms_norm(x, (4,), m.weight),
    "group norm": lambda m, x: F.group_norm(x, 3),
    "group norm module": lambda m, x: m.group(x),
    "instance norm": lambda m, x: F.instance_norm(x),
    "dropout in evaluation": lambda m, x: F.dropout(x, 0.5, False),
    "dropout2d in evaluation": lambda m, x: F.dropout2d(x.unsqueeze(-1), 0.5, False).squeeze(-1),
    "activations": lambda m, x: F.gelu(x).relu() + torch.sigmoid(x) * F.silu(x),
    "clamp": lambda m, x: x.clamp(min=-0.5, max=2.0),
    "cast": lambda m, x: x.float().to(torch.float64),
    "learned scale": lambda m, x: x * m.weight,
    "division": lambda m, x: x / 2.0,
    "negation": lambda m, x: -x,
    "copies": lambda m, x: x.clone().contiguous().detach(),
    "where": lambda m, x: torch.where(m.mask, x, 0.1 * x),
    "masked fill": lambda m, x: x.masked_fill(m.mask, 0.0),
    "slice": lambda m, x: x[:, 1:],
    "slices and a number": lambda m, x: x[1:, -1, None, ::2],
    "ellipsis": lambda m, x: x[..., None, 1],
    "a row": lambda m, x: x[0],
    "list of positions": lambda m, x: x[:, [2, 0, 0]],
    "tensor of positions": lambda m, x: x[:, m.order],
    "narrow": lambda m, x: x.narrow(1, 0, 2) - torch.narrow(x, dim=1, start=1, length=2),
    "select": lambda m, x: x.select(1, 2) + x.select(dim=-2, index=0),
    "index_select": lambda m, x: torch.index_select(x, 1, m.order),
    "concatenation": lambda m, x: torch.cat((x, x[:, :1]), 1),
    "concatenation with what is no stream": lambda m, x: torch.cat([m.token.expand(2, -1, -1), x], dim=1),
    "pad": lambda m, x: F.pad(x, (0, 0, 1, 0)),
    "flip": lambda m, x: x.flip(0) + x.flip(0, -1) + torch.flip(x, (1,)),
    "roll": lambda m, x: x.roll(1, 1) + torch.roll(x, shifts=(1, -1), dims=(0, 2)),
    "softmax": lambda m, x: torch.softmax(x, 1) + F.softmax(x, dim=-1) + x.log_softmax(0),
    "cumsum": lambda m, x: x.cumsum(1),
    "normalize": lambda m, x: F.normalize(x) + F.normalize(x, dim=-1) + F.normalize(x, 1.0, 2),
    "standard deviation": lambda m, x: x / x.std(-1, keepdim=True) / torch.var(x, 1, False, True),
    "norm of a vector": lambda m, x: x / x.norm(dim=-1, keepdim=True) / torch.linalg.vector_norm(x, 2, 1, True),
    "reduction that drops its axis": lambda m, x: x - x.mean(-1)[..., None] - x.amax(1).unsqueeze(1),
    "masked fill of a column": lambda m, x: x.masked_fill(m.column, 1.0),
}


@pytest.mark.parametrize("name", OPS)
def test_lifted_op_does_to_each_stream_what_it_did_to_the_tensor(name):
    torch.manual_seed(0)
    model = Net(
        OPS[name], norm=nn.LayerNorm(4), group=nn.GroupNorm(3, 3), weight=nn.Parameter(torch.rand(4)),
        mask=nn.Buffer(torch.rand(3, 4) > 0.5),
        order=nn.Buffer(torch.tensor([2, 0])), token=nn.Parameter(torch.rand(1, 1, 4)),
        column=nn.Buffer(torch.rand(2, 3, 1) > 0.5),
    ).double()  # fmt: skip
    check(model, X)


ATEN = ("view", "transpose negative", "permute", "flatten from and to", "unsqueeze negative", "mean over a tuple",
        "rms norm spelled out", "activations", "cast", "learned scale", "masked fill", "t", "copies")  # fmt: skip


@pytest.mark.parametrize("name", ATEN)
def test_the_aten_dialect_lifts_alike(name):
    torch.manual_seed(0)
    model = Net(OPS[name], weight=torch.rand(4, dtype=torch.float64), mask=torch.rand(3, 4) > 0.5)
    check(model, X, aten=True)


def test_two_streamed_operands_and_one_of_the_side():
    check(Net2(lambda m, x, y: torch.minimum(x, x.mean(1, keepdim=True)) * y), X, X.flip(0))


def test_view_as_takes_the_sizes_of_the_other_or_its_streams():
    check(Net2(lambda m, x, y: x.view_as(y)), X, X.view(6, 4))
    check(Net2(lambda m, x, y: x.view_as(x.flatten(1))), X, X)


def op_alone(fn, *inputs):
    """`(graph, position of the last op)` of a function of the stream `x`."""
    model = {1: Net, 2: Net2}[len(inputs)](lambda m, *args: fn(*args))
    graph = Ancestry(traced(model, *inputs))
    return graph, len(graph.nodes) - 2


REFUSED = {
    "softmax over no axis in particular": lambda x: torch.nn.functional.softmax(x, None),
    "standard deviation of everything": lambda x: x.std(False),
    "two lists as index": lambda x: x[torch.tensor([0, 1]), :, torch.tensor([1, 2])],
    "padding with what is there": lambda x: F.pad(x, (1, 1), mode="reflect"),
    "squeeze of whatever there is": lambda x: x[:1].squeeze(),
    "several values": lambda x: x.chunk(2, -1)[0],
    "matrix product": lambda x: x @ torch.eye(4, dtype=x.dtype),
    "pooling": lambda x: F.avg_pool1d(x, 2),
    "reduction of everything": lambda x: x.mean(),
    "batch norm": lambda x: F.batch_norm(x, torch.zeros(3), torch.ones(3)),
    "broadcast to more axes": lambda x: x * torch.ones(2, 2, 3, 4, dtype=x.dtype),
    "bytes": lambda x: x.view(torch.int64),
    "bytes with keyword": lambda x: x.view(dtype=torch.int64),
}


@pytest.mark.parametrize("name", REFUSED)
def test_can_lift_rejects_what_mixes_tokens_or_changes_axes(name):
    graph, last = op_alone(REFUSED[name], X)
    assert not can_lift(graph, last, [0])


def test_can_lift_rejects_what_depends_on_an_unknown_rank():
    gm = fx.symbolic_trace(Net2(lambda m, x, y: (x * 2.0, torch.relu(x), x * y, x.view(-1), x.mean(-1, keepdim=True))))
    graph = Ancestry(gm)
    calls = [i for i, n in enumerate(graph.nodes) if n.op.startswith("call")]
    assert [can_lift(graph, i, [0]) for i in calls] == [True, True, False, False, False]


LINEAR_OPS = {
    "scale": (lambda x: x * 2.0, True),
    "quotient": (lambda x: x / 2.0, True),
    "reciprocal": (lambda x: torch.div(2.0 * torch.ones_like(x), x), False),
    "cast": (lambda x: x.float(), True),
    "transposition": (lambda x: x.transpose(0, 1), True),
    "shift": (lambda x: x + torch.ones(4, dtype=x.dtype), True),
    "dropout": (lambda x: F.dropout(x, 0.0), True),
    "mask": (lambda x: torch.where(torch.ones(4).bool(), x, 0.0), True),
    "cut": (lambda x: x[:, 1:], True),
    "softmax": (lambda x: torch.softmax(x, -1), False),
    "square": (lambda x: x * x, False),
    "activation": (lambda x: torch.relu(x), False),
    "norm": (lambda x: F.layer_norm(x, (4,)), False),
}


@pytest.mark.parametrize("name", LINEAR_OPS)
def test_is_linear_tells_case_a_from_case_b(name):
    fn, expected = LINEAR_OPS[name]
    graph, last = op_alone(fn, X)
    assert is_linear(graph, last, [0]) is expected


def test_a_gate_computed_from_the_stream_is_not_linear():
    gm = build(lambda g, x: g.call_function(torch.mul, (x, g.call_function(torch.sigmoid, (x,)))), x=X)
    graph = Ancestry(gm)
    assert not is_linear(graph, 2, [0, 1])


def test_lifting_drops_a_memory_format_that_has_no_meaning_with_one_more_axis():
    images = tokens(2, 3, 4, 4)
    check(Net(lambda m, x: x.contiguous(memory_format=torch.channels_last)), images)
    check(Net(lambda m, x: x.clone(memory_format=torch.channels_last) * 1.0), images)


DRAWS = {
    "dropout": lambda m, x: F.dropout(x, 0.5, m.training),
    "keywords": lambda m, x: F.dropout(input=x, p=0.5, training=True),
    "module": lambda m, x: m.drop(x),
    "whole channels": lambda m, x: F.dropout1d(x, 0.5, True),
    "whole channels, module": lambda m, x: m.drop2d(x[..., None])[..., 0],
    "alpha": lambda m, x: F.alpha_dropout(x, 0.3, True),
    "alpha of whole channels": lambda m, x: F.feature_alpha_dropout(x, 0.4, True),
    "alpha module": lambda m, x: m.alpha(x),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("training", [True, False])
def test_random_operators_draw_once_for_all_streams_and_as_the_plain_model_does(name, training):
    layers = {"drop": nn.Dropout(0.5), "drop2d": nn.Dropout2d(0.5), "alpha": nn.AlphaDropout(0.3)}
    model = Net(DRAWS[name], **layers).double().train(training)
    x = torch.randn(8, 16, 4, dtype=torch.float64)
    X = torch.stack([x * (1 + i) for i in range(N)])
    torch.manual_seed(1)
    expected = []
    for i in range(N):
        torch.manual_seed(1)
        expected.append(model(X[i]))
    gm = traced(model, x)
    lifted = lift_all(gm, next(n for n in gm.graph.nodes if n.op == "placeholder"))
    torch.manual_seed(1)
    assert torch.allclose(lifted(X), torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_alpha_dropout_that_drops_everything_is_refused():
    graph, last = op_alone(lambda x: F.alpha_dropout(x, 1.0, True), X)
    assert not can_lift(graph, last, [0])
