from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import saved_bytes
from mhc_compile.cost.count import Counted, count_step
from tests.toy_models import WIDTH, Tower

FP32 = 4


def counted(model: nn.Module, *inputs: Tensor, dtype: torch.dtype | None = None) -> Counted:
    return count_step(model, inputs, {}, dtype)


def test_flops_of_products_forward_and_backward() -> None:
    """Backward: the gradient of the weight of both, that of the input of the second only."""
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Linear(16, 4, bias=False))
    first, second = 2 * 5 * 8 * 16, 2 * 5 * 16 * 4
    assert counted(model, torch.randn(5, 8)).flops == 2 * first + 3 * second


def test_neighbours_without_products_are_one_kernel_that_moves_what_lies_outside() -> None:
    class Chain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x * 2 + 1).sin()

    (kernel,) = counted(Chain(), torch.randn(10, 10)).kernels[:1]
    assert kernel.flops == 0 and kernel.bytes == 2 * 100 * FP32  # one read and one write, whatever lies between


def test_views_are_free_and_tables_are_read_by_row() -> None:
    class Viewing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(4, 5).transpose(0, 1)[1:]

    assert counted(Viewing(), torch.randn(20)).kernels == ()
    table = nn.Embedding(1000, 8).requires_grad_(False)
    (kernel,) = counted(table, torch.tensor([1, 2, 3])).kernels
    assert kernel.bytes <= 3 * 8 * FP32 * 2 + 2 * 3 * 8  # rows in, rows out, and the numbers of the rows


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_what_is_kept_is_what_autograd_keeps(dtype: torch.dtype | None) -> None:
    model, x = Tower(), torch.randn(4, 5, WIDTH)
    kept = counted(model, x, dtype=dtype).kept
    real, inputs = model.to(dtype or torch.float32), x.to(dtype or torch.float32)
    assert kept == saved_bytes(real, lambda: real(inputs).sum()).activations


def test_the_model_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, state = torch.randn(5, 8), torch.get_rng_state()
    counted(model, x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and torch.equal(torch.get_rng_state(), state)


def test_attributes_that_the_code_writes_stay_with_the_copy() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.seen, self.last = nn.Linear(8, 8), [], None

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(x)
            self.last = self.fc(x)
            return self.last

    model = Caching()
    assert counted(model, torch.randn(5, 8)).flops > 0
    assert model.seen == [] and model.last is None


def test_the_meta_device_gives_the_same() -> None:
    with torch.device("meta"):
        model, x = Tower(), torch.randn(4, 5, WIDTH)
    assert counted(model, x) == counted(Tower(), torch.randn(4, 5, WIDTH))


def test_flash_attention_is_one_kernel_that_stores_no_matrix_of_scores() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(16, 48)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    length = 1024
    found = counted(Attending(), torch.randn(1, length, 16))
    scores = 2 * length * length * 16
    assert found.flops == 2 * (2 * length * 16 * 48) + (2 + 5) * scores // 2  # the causal half; five products backward
    assert found.bytes < 2 * length * length * FP32  # but the scores alone would be more than that
