"""Results for fake tensors of open sizes: each is what PyTorch derives, with the guards that it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn import functional as F

from mhc_compile.capture import quick_shapes as rules
from mhc_compile.capture.quick_shapes import quick_shapes
from mhc_compile.capture.trace import capture


@dataclass(frozen=True)
class Case:
    """A computation on values of open sizes, and whether a rule is to give its result."""

    compute: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    ruled: bool
    dtype: torch.dtype = torch.float32


CASES = {
    "layer norm": Case(lambda x, w, b: torch.native_layer_norm(x, (6,), w, b, 1e-5), ((4, 5, 6), (6,), (6,)), True),
    "without weights": Case(lambda x: torch.native_layer_norm(x, (6,), None, None, 1e-5), ((4, 5, 6),), True),
    "two axes": Case(lambda x: torch.native_layer_norm(x, x.shape[1:], None, None, 1e-5), ((4, 5, 6),), True),
    "an open axis": Case(lambda x, w: torch.native_layer_norm(x, (5, 6), w, None, 1e-5), ((4, 5, 6), (5, 6)), False),
    "in half precision": Case(
        lambda x: torch.native_layer_norm(x, (6,), None, None, 1e-5), ((4, 5, 6),), False, torch.bfloat16
    ),
    "of transposed values": Case(
        lambda x: torch.native_layer_norm(x.transpose(0, 1), (6,), None, None, 1e-5), ((4, 5, 6),), False
    ),
    "linear": Case(lambda x, w, b: torch.addmm(b, x, w.t()), ((4, 6), (8, 6), (8,)), True),
    "linear, whose bias is one number": Case(lambda x, w, b: torch.addmm(b, x, w.t()), ((4, 6), (8, 6), (1,)), False),
    "linear, scaled": Case(lambda x, w, b: torch.addmm(b, x, w.t(), alpha=2), ((4, 6), (8, 6), (8,)), False),
    "relu": Case(torch.relu, ((4, 5, 6),), True, torch.float16),
    "relu of transposed values": Case(lambda x: torch.relu(x.transpose(0, 1)), ((4, 5, 6),), False),
    "relu of whole numbers": Case(torch.relu, ((4, 5),), False, torch.int64),
    "gelu": Case(lambda x: F.gelu(x, approximate="tanh"), ((4, 5, 6),), True),
    "view": Case(lambda x: x.view(x.shape[0] * x.shape[1], x.shape[2]), ((4, 5, 6),), True),
    "view apart": Case(lambda x: x.view(x.shape[0], x.shape[1], 2, 3), ((4, 5, 6),), True),
    "view with a size left to find": Case(lambda x: x.view(-1, 6), ((4, 5, 6),), False),
    "view of a part": Case(lambda x: x[:, :, :2].view(x.shape[0], x.shape[1], 1, 2), ((4, 5, 6),), False),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_result_is_what_pytorch_derives_and_asks_for_no_other_guard(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[bool] = []
    for name in ("_layer_norm", "_addmm", "_elementwise", "_view"):
        monkeypatch.setattr(rules, name, _noted(getattr(rules, name), answers))
    expected, guards = _derived(case)
    with quick_shapes():
        found, more = _derived(case)
    assert answers == [case.ruled] and found == expected and more == guards


def _noted(rule: Callable[..., Any], answers: list[bool]) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        found = rule(*args, **kwargs)
        answers.append(found is not None)
        return found

    return noted


def _derived(case: Case) -> tuple[list[Any], list[str]]:
    """Sizes, strides, dtypes and places of the results, and the guards that were asked for."""
    env = ShapeEnv()
    mode = FakeTensorMode(shape_env=env)
    values = [_fake(mode, shape, case.dtype, weight=i > 0) for i, shape in enumerate(case.shapes)]
    with mode:
        results = torch.utils._pytree.tree_leaves(case.compute(*values))
    return [_described(result, values) for result in results], [str(guard.expr) for guard in env.guards]


def _fake(mode: FakeTensorMode, shape: tuple[int, ...], dtype: torch.dtype, *, weight: bool) -> Tensor:
    """A fake tensor of constant sizes, or one whose sizes but the last are open, as those of activations are."""
    opened = 0 if weight else min(2, len(shape) - 1)
    kinds = [DimDynamic.DYNAMIC if i < opened else DimDynamic.STATIC for i in range(len(shape))]
    context = StatelessSymbolicContext(dynamic_sizes=kinds)
    return mode.from_tensor(torch.zeros(shape, dtype=dtype), symbolic_context=context)


def _described(result: Tensor, values: list[Tensor]) -> tuple[Any, ...]:
    shares = [result.untyped_storage()._cdata == value.untyped_storage()._cdata for value in values]
    return (str(result.shape), str(result.stride()), result.dtype, result.device, result._is_view(), shares)


def test_what_the_operators_raise_is_what_they_raise_without() -> None:
    def message(inside: bool) -> str:
        mode = FakeTensorMode(shape_env=ShapeEnv())
        x = _fake(mode, (4, 6), torch.float32, weight=False)
        weight, bias = (_fake(mode, shape, torch.float32, weight=True) for shape in ((8, 5), (8,)))
        with mode, pytest.raises(RuntimeError) as raised:
            if inside:
                with quick_shapes():
                    torch.addmm(bias, x, weight.t())
            else:
                torch.addmm(bias, x, weight.t())
        return str(raised.value)

    assert message(inside=True) == message(inside=False)


def test_nothing_stays_behind() -> None:
    table = dict(rules.compat.fast_op_impls())
    capture(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.LayerNorm(4)), (torch.randn(2, 3, 4),))
    assert rules.compat.fast_op_impls() == table
