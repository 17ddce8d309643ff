"""`torch.jit` makes tensors of the numbers of a step, and cannot read generated code: it is refused."""

from __future__ import annotations

import pytest
import torch

import mhc_compile
from mhc_compile.errors import SymbolicTraceError, TorchScriptError
from tests.moved import Net, X, move


@pytest.fixture(scope="module")
def net():
    return move(mhc_compile.transform(Net(), n=2, example_inputs=(X,), modes=("eval",)).eval())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "convert",
    [
        torch.jit.script,
        lambda model: torch.jit.trace(model, (X,), check_trace=False),
        lambda model: torch.jit.trace(model.blocks[0], (torch.randn(2, 3, 8),)),
        lambda model: torch.jit.script(model.blocks[0]),
        lambda model: torch.jit.script(torch.nn.Sequential(model)),
    ],
    ids=["script", "trace", "a block traced", "a block scripted", "inside another"],
)
def test_torchscript_is_refused_with_what_to_write(net, convert):
    with pytest.raises(TorchScriptError, match=r"torch\.export\.export\(model, inputs\)"):
        convert(net)
    assert torch.isfinite(net(X)).all()


def test_a_stage_of_a_pipeline_is_refused_as_the_model(net):
    stages = mhc_compile.pipeline.split(net, at=["blocks.1"], example_inputs=(X,), modes=("eval",))
    for convert in (torch.jit.script, lambda stage: torch.jit.trace(stage, (X,), check_trace=False)):
        with pytest.raises(TorchScriptError):
            convert(stages[0])


@pytest.mark.filterwarnings("ignore")
def test_the_plain_model_goes_through_it(net):
    plain = mhc_compile.revert(net)
    assert torch.equal(torch.jit.trace(plain, (X,))(X), plain(X))


@pytest.mark.parametrize("around", [lambda model: model, torch.nn.Sequential], ids=["alone", "inside another"])
def test_a_symbolic_trace_is_refused_with_what_to_write(net, around):
    with pytest.raises(SymbolicTraceError, match=r"torch\.export\.export\(model, inputs\)"):
        torch.fx.symbolic_trace(around(net))
    assert torch.isfinite(net(X)).all()
