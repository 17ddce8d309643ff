"""Stages of a pipeline against the whole model: in one process, and in two under PyTorch's own schedules."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

import mhc_compile
from benchmarks.timing import saved_bytes
from mhc_compile import errors, pipeline
from tests.copies import copied
from tests.ranks import run_ranks
from tests.tables import also
from tests.toy_models import WIDTH, Block, Tower

STEPS, BATCH, MICRO, LENGTH, WORDS = 8, 8, 4, 6, 16
SCHEDULES = [ScheduleGPipe, Schedule1F1B]


class Attention(nn.Module):
    """Causal attention with a learned bias and a mask of constants that the model made for all layers."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, bias, causal, keep):
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.mT / WIDTH**0.5 + bias + causal).masked_fill(~keep[:, None], -1e9)
        return self.out(scores.softmax(-1) @ v)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.mlp = Attention(), Block()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x, *masks):
        return self.mlp(x + self.attn(self.norm(x), *masks))


class Decoder(nn.Module):
    """A learned bias that every layer adds, a causal mask made of constants, and a mask of the padding."""

    def __init__(self, depth=4):
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.distance = nn.Embedding(LENGTH, 1)
        self.blocks = nn.ModuleList(Layer() for _ in range(depth))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, ids, keep):
        place = torch.arange(ids.shape[1], device=ids.device)
        back = place[:, None] - place
        bias = self.distance(back.clamp(min=0)).squeeze(-1)
        causal = torch.where(back < 0, -1e9, 0.0)
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, bias, causal, keep)
        return self.head(self.norm(x))


def batch(step=0, size=BATCH):
    generator = torch.Generator().manual_seed(step)
    ids = (torch.randint(WORDS, (size, 1), generator=generator) + torch.arange(LENGTH + 1)) % WORDS
    keep = torch.ones(size, LENGTH, dtype=torch.bool)
    keep[::2, 0] = step % 2 == 0
    keep[:, 0] |= True
    keep[::3, 1] = False
    return ids[:, :-1], keep, ids[:, 1:]


@copied
def decoder(seed=0, **options):
    torch.manual_seed(seed)
    ids, keep, _ = batch()
    return mhc_compile.transform(Decoder(), **{"example_inputs": (ids, keep), "modes": ("train",), **options})


def cut(model, *at, **options):
    return pipeline.split(model, at, **{"example_inputs": batch()[:2], "modes": ("train",), **options})


def run(stages, *inputs, **kwargs):
    """The stages one after another; also what crossed each border."""
    value, borders = stages[0](*inputs, **kwargs), []
    for stage in stages[1:]:
        borders.append(value if isinstance(value, tuple) else (value,))
        value = stage(*borders[-1])
    return value, borders


def loss_of(logits, labels):
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


# --- two processes -----------------------------------------------------------------------------------------------


def trained_in_a_pipeline(rank, folder, cases):
    for connection, kinds in cases:
        model = decoder(connection=connection, init="random")
        single, start = copy.deepcopy(model), copy.deepcopy(model.state_dict())
        stage = cut(model, "blocks.2")[rank]
        for kind in kinds:
            single.load_state_dict(start)
            stage.load_state_dict(start)
            compare(rank, stage, kind(wrapped(stage, rank), BATCH // MICRO, loss_fn=loss_of), single)
        other_batch_sizes(rank, stage)


def wrapped(stage, rank):
    return PipelineStage(stage, rank, 2, torch.device("cpu"))


def compare(rank, stage, schedule, single):
    """Loss and every gradient of every step; then an evaluation through the same schedule."""
    first = None
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9) for module in (stage, single)]
    for step in range(STEPS):
        ids, keep, labels = batch(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = loss_of(single(ids, keep), labels)
        loss.backward()
        losses = []
        schedule.step(*((ids, keep) if rank == 0 else ()), target=labels if rank else None, losses=losses)
        if rank:
            torch.testing.assert_close(torch.stack(losses).mean(), loss, rtol=0, atol=1e-5)
        check_gradients(stage, single, step)
        for optimizer in optimizers:
            optimizer.step()
        first = first or float(loss)
    assert float(loss) < first - 0.1, "nothing was learned, so gradients were hardly compared"
    ids, keep, labels = batch(100)
    output = schedule.eval(*((ids, keep) if rank == 0 else ()), target=labels if rank else None, losses=[])
    if rank:
        torch.testing.assert_close(output, single(ids, keep), rtol=0, atol=1e-5)


def check_gradients(stage, single, step):
    whole = dict(single.named_parameters())
    for name, parameter in stage.named_parameters():
        difference = (parameter.grad - whole[name].grad).abs().max()
        assert difference <= 1e-5, f"step {step}: {name} differs by {difference}"


# Schedules know nothing of connections: the other one and "hc", which sends streams as well, are for `make exhaustive`.
@pytest.mark.slow
@pytest.mark.parametrize(
    "cases",
    [
        pytest.param([("mhc", [Schedule1F1B])], id="few"),
        pytest.param(
            [("mhc", [ScheduleGPipe]), ("hc", SCHEDULES), ("mhc-single-pass", SCHEDULES)],
            id="more",
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_two_processes_compute_losses_and_gradients_of_one_and_a_new_schedule_takes_another_batch_size(cases, tmp_path):
    run_ranks(trained_in_a_pipeline, tmp_path, cases)


def other_batch_sizes(rank, stage):
    """PyTorch fixes the sizes at the first step of a schedule; a stage itself takes any batch."""
    for size in (4, 6):
        schedule = ScheduleGPipe(wrapped(stage, rank), 2, loss_fn=loss_of)
        ids, keep, labels = batch(size=size)
        logits = schedule.step(*((ids, keep) if rank == 0 else ()), target=labels if rank else None, losses=[])
        assert rank == 0 or logits.shape == (size, LENGTH, WORDS)


# --- one process -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["mhc", *also("hc")])  # "hc" has other coefficients and crosses the same borders
def parts(request):
    """A transformed model in both modes and its three stages."""
    model = decoder(connection=request.param, init="random", modes=("train", "eval"))
    return model, cut(model, "blocks.1", "blocks.3", modes=("train", "eval"))


@pytest.mark.parametrize("training", [True, False])
def test_three_stages_compute_what_the_model_does(parts, training):
    model, stages = parts
    ids, keep, _ = batch(size=3)
    for module in (model, *stages):
        module.train(training)
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(run(stages, ids, keep)[0], model(ids, keep), rtol=0, atol=0)


def test_gradients_through_three_stages_are_those_of_the_model(parts):
    model, stages = parts
    ids, keep, labels = batch()
    gradients = []
    for call in (model, lambda *inputs: run(stages, *inputs)[0]):
        model.zero_grad()
        loss_of(call(ids, keep), labels).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name in gradients[0]:  # that of the bias is summed in another order
        torch.testing.assert_close(gradients[0][name], gradients[1][name], rtol=1e-5, atol=1e-6, msg=name)


def test_read_weights_of_single_pass_cross_with_the_streams():
    """The first site of a stage is read with the weights of the last site of the stage before."""
    model = decoder(connection="mhc-single-pass", init="random")
    stages = cut(model, "blocks.1", "blocks.3")
    ids, keep, labels = batch()
    logits, borders = run(stages, ids, keep)
    torch.testing.assert_close(logits, model(ids, keep), rtol=0, atol=1e-5)
    for border in borders:
        assert [tuple(t.shape) for t in border[:1]] == [(4, BATCH, LENGTH, WIDTH)]
        assert (4, BATCH, LENGTH, 1) in [tuple(t.shape) for t in border]
    gradients = []
    for output in (model(ids, keep), logits):
        model.zero_grad()
        loss_of(output, labels).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, whole in gradients[0].items():
        torch.testing.assert_close(whole, gradients[1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_streams_cross_as_one_tensor_and_constants_do_not(parts):
    """Beside the streams travel the learned bias and the input `keep`; the causal mask is made in each stage."""
    _, stages = parts
    _, borders = run(stages, *batch()[:2])
    for stage, border in zip(stages[1:], borders, strict=True):
        assert [tuple(t.shape) for t in border] == [
            (4, BATCH, LENGTH, WIDTH), (BATCH, LENGTH), (LENGTH, LENGTH),
        ]  # fmt: skip
        assert [c.streams for c in stage.mhc_stage.receives] == [True, False, False]
        assert [c.dtype for c in stage.mhc_stage.receives] == [torch.float32, torch.bool, torch.float32]
    assert stages[0].mhc_stage.sends == stages[1].mhc_stage.receives and stages[-1].mhc_stage.sends == ()


def test_the_residual_stream_crosses_alone_where_there_is_nothing_else():
    torch.manual_seed(0)
    x = torch.randn(2, 3, WIDTH)
    given = {"example_inputs": (x,), "modes": ("train",)}
    model = mhc_compile.transform(nn.Sequential(Block(), Block(), Block()), **given)
    stages = pipeline.split(model, "1", **given)
    assert isinstance(stages[0](x), torch.Tensor) and stages[0](x).shape == (4, 2, 3, WIDTH)
    assert torch.equal(run(stages, x)[0], model(x))


class Sideways(nn.Module):
    """Every block adds what is computed once, and transposed."""

    def __init__(self):
        super().__init__()
        self.side = nn.Linear(3, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x):
        side = self.side(x.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x) * side
        return x


def test_what_crosses_a_border_is_contiguous_whatever_it_is_in_the_model():
    """PyTorch sends the memory of a tensor as it lies there."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, WIDTH)
    model = mhc_compile.transform(Sideways(), example_inputs=(x,), modes=("train",))
    assert not model.side(x.transpose(1, 2)).transpose(1, 2).is_contiguous()
    result, borders = run(pipeline.split(model, ["blocks.1", "blocks.2"], example_inputs=(x,), modes=("train",)), x)
    assert [len(border) for border in borders] == [2, 2]
    assert all(t.is_contiguous() for border in borders for t in border)
    torch.testing.assert_close(result, model(x), rtol=0, atol=0)


def test_each_stage_restores_its_streams():
    x, kept, gradients = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0)), [], []
    for recompute in (None, 4):
        torch.manual_seed(0)
        model = nn.Sequential(*(Block(32) for _ in range(8)))
        given = {"example_inputs": x, "modes": ("train",)}
        model = mhc_compile.transform(model, init="random", recompute=recompute, **given)
        stages = nn.ModuleList(pipeline.split(model, "4", **given))
        kept.append(saved_bytes(stages, lambda stages=stages: run(stages, x)[0].sum()).activations)
        run(stages, x)[0].square().sum().backward()
        gradients.append([p.grad for p in stages.parameters()])
    assert kept[1] < 0.85 * kept[0]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_cut_before_the_streams_begin_sends_the_tensor_they_stand_for():
    stages = cut(decoder(), "blocks.0")
    _, (border,) = run(stages, *batch()[:2])
    assert {tuple(t.shape) for t in border} == {(BATCH, LENGTH, WIDTH), (BATCH, LENGTH), (LENGTH, LENGTH)}
    assert not any(c.streams for c in stages[1].mhc_stage.receives)
    assert list(stages[0].hyper_connections) == []


def test_stages_together_have_the_state_of_the_model_under_its_names(parts):
    model, stages = parts
    whole = model.state_dict()
    states = [stage.state_dict() for stage in stages]
    header = "hyper_connections._extra_state"
    assert set().union(*states) == set(whole)
    for state in states:
        assert header in state
        assert all(torch.equal(value, whole[name]) for name, value in state.items())
    shared = [name for name in whole if sum(name in state for state in states) > 1]
    assert shared == [header]
    assert "blocks.3.attn.qkv.weight" in states[2] and "blocks.2.attn.qkv.weight" in states[1]
    sites = [[key for key in stage.hyper_connections] for stage in stages]
    assert sites[2] == ["blocks.3.attn", "blocks.3.mlp"]
    assert [key for of_stage in sites for key in of_stage] == list(model.hyper_connections)


def test_a_state_dict_of_the_whole_model_loads_into_each_stage():
    source, target = decoder(), decoder()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    stages = cut(target, "blocks.1", "blocks.3")
    for stage in stages:
        assert stage.load_state_dict(source.state_dict()) == ([], [])
    ids, keep, _ = batch()
    assert torch.equal(run(stages, ids, keep)[0], source(ids, keep))
    lacking = {k: v for k, v in source.state_dict().items() if k != "blocks.0.norm.weight"}
    with pytest.raises(RuntimeError, match=r"blocks\.0\.norm\.weight"):
        stages[0].load_state_dict(lacking)
    stages[1].load_state_dict(lacking)


@pytest.fixture(scope="module")
def made_halves():
    model = decoder()
    return model, cut(model, "blocks.2"), copy.deepcopy(model.state_dict())


@pytest.fixture
def halves(made_halves):
    """A decoder and its two stages, which share its parameters, as they were made."""
    model, stages, start = made_halves
    yield model, stages
    model.load_state_dict(start)


def test_a_plain_checkpoint_loads_into_each_stage(halves):
    torch.manual_seed(5)
    plain = Decoder()
    _, stages = halves
    for stage in stages:
        stage.load_state_dict(plain.state_dict())
    ids, keep, _ = batch()
    torch.testing.assert_close(run(stages, ids, keep)[0], plain(ids, keep), rtol=0, atol=1e-5)


def test_a_plain_checkpoint_beside_trained_connections_is_warned_of(halves):
    model, (_, stage) = halves
    with torch.no_grad():
        model.hyper_connections["blocks.0.attn"].phi.fill_(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stage.load_state_dict(Decoder().state_dict())  # it was another stage that moved
    with torch.no_grad():
        stage.hyper_connections["blocks.3.attn"].phi.fill_(1)
    with pytest.warns(errors.NotPreservingWarning, match=r"original Decoder .*blocks\.3\.attn"):
        stage.load_state_dict(Decoder().state_dict())


def test_a_checkpoint_of_another_connection_is_refused(halves):
    _, (_, stage) = halves
    with pytest.raises(errors.CheckpointMismatchError, match="'hc'"):
        stage.load_state_dict(decoder(connection="hc").state_dict())


def test_unused_parameters_are_in_exactly_one_stage():
    torch.manual_seed(0)
    tower = Tower()
    tower.head.weight = nn.Parameter(tower.head.weight.detach().clone())
    tower.blocks[2].spare = nn.Linear(2, 2)
    x = torch.randn(2, 3, WIDTH)
    given = {"example_inputs": (x,), "modes": ("train",)}
    model = mhc_compile.transform(tower, **given)
    stages = pipeline.split(model, ["blocks.1", "blocks.2"], **given)
    states = [set(stage.state_dict()) for stage in stages]
    assert set().union(*states) == set(model.state_dict())
    assert [("unused.weight" in s, "blocks.2.spare.bias" in s) for s in states] == [
        (True, False), (False, False), (False, True),
    ]  # fmt: skip


def test_a_weight_tied_within_one_stage_stays_tied():
    torch.manual_seed(0)
    x = torch.randn(2, 3, WIDTH)
    given = {"example_inputs": (x,), "modes": ("train",)}
    model = mhc_compile.transform(TiedAtTheEnd(), **given)
    last = pipeline.split(model, "blocks.2", **given)[1]
    assert last.head.weight is last.get_submodule("blocks.2").down.weight
    assert {"head.weight", "blocks.2.down.weight"} <= set(last.state_dict())


class TiedAtTheEnd(Tower):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2 * WIDTH, WIDTH)
        self.blocks[2].down.weight = self.head.weight

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(torch.cat((x, x), -1))


class Returns(nn.Module):
    def __init__(self, structure):
        super().__init__()
        self.structure = structure
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x):
        return self.structure(self.blocks(x))


def split_with_output(structure):
    x = torch.randn(2, 3, WIDTH)
    model = mhc_compile.transform(Returns(structure), example_inputs=(x,), modes=("train",))
    return run(pipeline.split(model, "blocks.1", example_inputs=(x,), modes=("train",)), x)[0]


def test_a_model_that_returns_something_else_than_tensors_is_refused():
    with pytest.raises(errors.StageOutputError, match=r"Returns returns a dict .*return self.model\(ids\).logits"):
        split_with_output(lambda x: {"logits": x})
    with pytest.raises(errors.StageOutputError, match=r"a tuple of its outputs"):
        split_with_output(lambda x: (x, (x, x)))


def test_a_model_may_return_several_tensors():
    assert [type(value) for value in split_with_output(lambda x: (x, x + 1))] == [torch.Tensor, torch.Tensor]
