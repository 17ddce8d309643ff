"""Which tensor has which dtype, and that the function survives it; `docs/training.md` shows the table checked here."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mhc_compile
from tests.copies import copied
from tests.tables import also
from tests.toy_models import WIDTH, Block

X = torch.randn(4, 3, WIDTH, generator=torch.Generator().manual_seed(0))
DTYPES = [torch.bfloat16, torch.float16]
CONNECTIONS = ["hc", "hc-static", "mhc", "mhc-single-pass", "mhc-lite", "identity"]
ERRORS = {torch.bfloat16: 0.2, torch.float16: 0.03}  # of a gradient, relative to its norm
DOCUMENT = Path(__file__).parents[1] / "docs" / "training.md"


class Net(nn.Module):
    """Three blocks between linear layers: under autocast the stem gives the half dtype, and so the streams have it."""

    def __init__(self, stem=True):
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH) if stem else nn.Identity()
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


@copied
def pair(dtype=torch.float32, stem=True, **options):
    torch.manual_seed(0)
    model = Net(stem).to(dtype)
    options = {"n": 4, "example_inputs": (X.to(dtype),), "modes": ("train",), **options}
    return model, mhc_compile.transform(model, **options)


def distance(a, b):
    """Largest error in units of the rms of `b`, both as fp32."""
    a, b = a.detach().float(), b.detach().float()
    return float((a - b).abs().max() / b.square().mean().sqrt())


def dtypes(module):
    return {p.dtype for p in module.parameters()}


class Steps(TorchDispatchMode):
    """Notes the dtypes that one fused step in the middle of the model takes and gives, forward and backward."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.mhc.boundary.default:
            self.seen |= {"streams X": out[0], "branch input u": out[1], "branch output y": args[1]}
            self.seen |= {"coefficients pre, post, R": out[2]}
        elif func is torch.ops.mhc.boundary_backward.default:
            self.seen |= {"gradient of streams": out[0]}
        return out


def observed(model_dtype, autocast, stem):
    """The dtype of each tensor of the table in one training step."""
    _, twin = pair(model_dtype, stem)
    own = [p for n, p in twin.named_parameters() if not n.startswith("hyper_connections")]
    new = list(twin.hyper_connections.parameters())
    optimizer = torch.optim.AdamW(new)
    with Steps() as steps:
        half_step(twin, X.to(model_dtype), autocast or torch.bfloat16, autocast is not None)
    optimizer.step()
    return {name: {tensor.dtype} for name, tensor in steps.seen.items()} | {
        "parameters of the model": {p.dtype for p in own},
        "parameters of hyper-connections": {p.dtype for p in new},
        "gradients of the model's parameters": {p.grad.dtype for p in own},
        "gradients of hyper-connections": {p.grad.dtype for p in new},
        "Adam's moments of hyper-connections": {optimizer.state[p]["exp_avg"].dtype for p in new},
    }


def documented():
    """Column -> tensor -> dtype, as the table in the document has it."""
    lines = [line.strip("|").split("|") for line in DOCUMENT.read_text().splitlines() if line.count("|") == 6]
    head, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return {column: {row[0]: row[i] for row in rows} for i, column in enumerate(head) if i}


SITUATIONS = {
    "fp32 model": lambda half: (torch.float32, None, True),
    "autocast": lambda half: (torch.float32, half, True),
    "autocast, fp32 stream": lambda half: (torch.float32, half, False),
    "half model": lambda half: (half, None, True),
}


# The document says "half": no line asks which one. The values in fp16 are those of the test of gradients.
@pytest.mark.parametrize(
    ("situation", "half"),
    [
        *((situation, torch.bfloat16) for situation in SITUATIONS),
        ("half model", torch.float16),
        *also(("autocast", torch.float16), ("autocast, fp32 stream", torch.float16)),
    ],
)
def test_every_tensor_has_the_dtype_in_the_document(situation, half):
    named = {"fp32": torch.float32, "half": half}
    expected = {tensor: {named[name]} for tensor, name in documented()[situation].items()}
    assert observed(*SITUATIONS[situation](half)) == expected


def test_the_document_has_these_columns():
    assert documented().keys() == SITUATIONS.keys()


@pytest.mark.parametrize(
    ("connection", "dtype"),
    [
        *((connection, torch.bfloat16) for connection in CONNECTIONS),
        ("mhc", torch.float16),
        *also(*((connection, torch.float16) for connection in CONNECTIONS if connection != "mhc")),
    ],
)
def test_autocast_keeps_the_function(dtype, connection):
    model, twin = pair(connection=connection)
    with torch.autocast("cpu", dtype):
        expected, out = model(X), twin(X)
    assert out.dtype == expected.dtype == dtype
    assert distance(out, expected) <= 5e-2


@pytest.mark.parametrize(
    ("dtype", "mode"),
    [(torch.bfloat16, "eval"), (torch.float16, "train"), *also((torch.bfloat16, "train"), (torch.float16, "eval"))],
)
def test_models_in_a_half_dtype_keep_the_function_and_fp32_hyper_connections(dtype, mode):
    model, twin = pair(dtype) if mode == "train" else pair(dtype, modes=(mode,))
    getattr(model, mode)(), getattr(twin, mode)()
    assert dtypes(twin.hyper_connections) == {torch.float32} and dtypes(twin.blocks) == {dtype}
    out = twin(X.to(dtype))
    assert out.dtype == dtype and distance(out, model(X.to(dtype))) <= 5e-2


def test_fp32_stays_within_its_own_bound():
    model, twin = pair()
    assert distance(twin(X), model(X)) <= 1e-4


@pytest.mark.parametrize("cast", ["bfloat16", "half"])
def test_casting_a_transformed_model_leaves_hyper_connections_in_fp32_bit_for_bit(cast):
    _, twin = pair()
    with torch.no_grad():
        for parameter in twin.hyper_connections.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    before = copy.deepcopy(twin.hyper_connections.state_dict())
    getattr(twin, cast)()
    assert dtypes(twin.blocks) != {torch.float32} and dtypes(twin.hyper_connections) == {torch.float32}
    twin.float()
    assert all(torch.equal(v, before[k]) for k, v in twin.hyper_connections.state_dict().items())


def test_casting_to_fp64_and_moving_work_as_in_any_module():
    _, twin = pair()
    assert dtypes(twin.double().hyper_connections) == {torch.float64}
    assert dtypes(twin.to(torch.bfloat16).hyper_connections) == {torch.float32}
    moved = twin.to("meta", torch.bfloat16).hyper_connections
    assert {p.device.type for p in moved.parameters()} == {"meta"} and dtypes(moved) == {torch.float32}


def half_step(twin, x, dtype, autocast):
    with torch.autocast("cpu", dtype, enabled=autocast):
        loss = twin(x).float().square().mean()
    loss.backward()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "pure"])
def test_gradients_are_near_those_of_fp32_and_in_the_dtype_of_their_parameters(dtype, autocast):
    _, reference = pair()
    half_step(reference, X, dtype, autocast=False)
    _, twin = pair() if autocast else pair(dtype)
    half_step(twin, X if autocast else X.to(dtype), dtype, autocast)
    expected = dict(reference.named_parameters())
    for name, parameter in twin.named_parameters():
        assert parameter.grad.dtype == parameter.dtype, name
        error = (parameter.grad.float() - expected[name].grad).norm()
        assert error <= ERRORS[dtype] * expected[name].grad.norm() + 1e-5, name


@pytest.mark.parametrize("dtype", DTYPES)
def test_training_with_a_gradient_scaler_skips_overflows_and_learns(dtype):
    _, twin = pair()
    optimizer = torch.optim.SGD(mhc_compile.parameter_groups(twin, weight_decay=0.0), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    losses = []
    for step in range(12):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype):
            loss = (twin(X) - X.flip(-1)).float().square().mean()
        scaler.scale(loss).backward()
        before = {n: p.clone() for n, p in twin.named_parameters()}
        if step == 3:
            next(iter(twin.hyper_connections.parameters())).grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        moved = [n for n, p in twin.named_parameters() if not torch.equal(p, before[n])]
        assert bool(moved) == (step != 3), step
        losses.append(loss.item())
    assert scaler.get_scale() == 2.0**13, "one overflow halves the scale"
    assert losses[-1] < losses[0]


def test_small_steps_of_a_pure_bf16_model_move_its_hyper_connections():
    _, twin = pair(torch.bfloat16)
    bias = twin.hyper_connections[twin.mhc_plan.sites[1].key].bias
    before = bias.detach().clone()
    half_step(twin, X.bfloat16(), torch.bfloat16, autocast=False)
    torch.optim.AdamW(twin.hyper_connections.parameters(), lr=1e-5).step()
    moved = (bias != before) & (before != 0)
    assert moved.any()
    assert torch.equal(bias.bfloat16()[moved], before.bfloat16()[moved]), "in bf16 these steps would have been kept"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, *also(torch.float16)])
def test_compiled_models_agree_under_autocast(dtype):
    torch.compiler.reset()
    _, twin = pair()
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        assert distance(compiled(X), twin(X)) <= 5e-2
