"""`init="paper"` against the initial values that Transformers gives the layers of the releases."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from mhc_compile.config import Config
from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels.formulas import connections

n, C = 4, 64


def ours(connection: str, **options: object) -> dict[str, Tensor]:
    given = {"position": 1, "linear": True, "init": "paper", "dtype": torch.float32, "device": "cpu"} | options
    return connections.initial_values(connection, n, C, **given)


def head(connection: str) -> dict[str, Tensor]:
    given = {"linear": True, "init": "paper", "dtype": torch.float32, "device": "cpu"}
    return connections.readout_values("learned", n, C, connection=connection, **given)


def released(model: type[nn.Module], layer: type[nn.Module], **options: object) -> nn.Module:
    """A layer with the initial values of its model."""
    config = SimpleNamespace(
        hc_mult=n, hc_sinkhorn_iters=20, hc_eps=1e-6, hidden_size=C, rms_norm_eps=1e-6, hc_magnitude=2.0, hc_count=n,
        hc_lowrank=8, initializer_range=0.02,
    )  # fmt: skip
    made = layer(config, **options)
    pretrained = model.__new__(model)
    nn.Module.__init__(pretrained)
    pretrained.config = config
    for module in made.modules():
        pretrained._init_weights(module)
    return made


def assert_drawn_alike(mine: Tensor, other: Tensor) -> None:
    """Normal numbers of the same spread."""
    assert mine.numel() == other.numel()
    for values in (mine, other):
        assert values.std().item() == pytest.approx(0.02, rel=0.15) and abs(values.mean()) < 2e-3


@pytest.mark.parametrize("connection", ["mhc", "mhc-single-pass"])
def test_mhc_starts_as_deepseek_v4_does(connection):
    from transformers.models.deepseek_v4 import modeling_deepseek_v4 as deepseek

    layer = released(deepseek.DeepseekV4PreTrainedModel, deepseek.DeepseekV4HyperConnection)
    mine = ours(connection)
    assert_drawn_alike(mine["phi"], layer.fn)
    assert torch.equal(mine["alpha"], layer.scale) and torch.equal(mine["bias"], layer.base)
    last, readout = released(deepseek.DeepseekV4PreTrainedModel, deepseek.DeepseekV4HyperHead), head(connection)
    assert_drawn_alike(readout["phi"], last.hc_fn)
    assert torch.equal(readout["alpha"], last.hc_scale) and torch.equal(readout["bias"], last.hc_base)


def test_identity_starts_as_hy_v4_does():
    from transformers.models.hy_v4 import modeling_hy_v4 as hy

    layer, mine = released(hy.HYV4PreTrainedModel, hy.HYV4HyperConnection), ours("identity")
    assert_drawn_alike(mine["phi"], layer.fn)
    assert torch.equal(mine["alpha"], layer.scale)
    torch.testing.assert_close(mine["bias"], layer.base.detach())
    last, readout = released(hy.HYV4PreTrainedModel, hy.HYV4HyperHead), head("identity")
    torch.testing.assert_close(readout["bias"], last.hc_base.detach())
    assert torch.equal(readout["alpha"], last.hc_scale)


def test_gated_starts_as_qwen4_exp_does():
    from transformers.models.qwen4_exp import modeling_qwen4_exp as qwen

    layer = released(qwen.Qwen4ExpPreTrainedModel, qwen.Qwen4ExpTextGatedResidual)
    mine = ours("gated:rank=8")
    assert torch.equal(mine["norm"], 1 + layer.hc_norm.weight)
    for name, module in (
        ("down", "input_mix_weight_down"),
        ("up", "input_mix_weight_up"),
        ("inject", "block_inject_weight"),
    ):
        assert_drawn_alike(mine[name], layer.get_submodule(module).weight)


@pytest.mark.parametrize("connection", ["hc", "hc-static"])
def test_hyper_connections_start_as_their_paper_does_anyway(connection):
    start, paper = ours(connection, init="preserve"), ours(connection)
    assert all(torch.equal(paper[name], value) for name, value in start.items())
    n = len(start["static_post"])
    assert torch.equal(start["static_res"], torch.eye(n)) and torch.equal(start["static_post"], torch.ones(n))
    assert start["static_pre"].tolist().count(1) == 1 and start["static_pre"].sum() == 1


@pytest.mark.parametrize("connection", ["mhc-lite", "kronecker", "circulant"])
def test_where_no_start_was_published_it_is_said(connection):
    with pytest.raises(InvalidOptionError, match=r"no published start.*'mhc'.*write init='random'"):
        Config(connection=connection, init="paper")
