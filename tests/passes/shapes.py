"""One small model per shape of residual connection found in real models, look-alikes that are none included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.passes.detours import add_elsewhere, added_in_2d, sliced_branch, sliced_skip, through_2d_view, through_tuple
from tests.passes.layers import (
    images,
    tokens,
)
from tests.passes.look_alikes import (
    attention_bias,
    delta_rule,
    exchange,
    feature_pyramid,
    lora,
    loss_sum,
    mean_eps,
    position_embedding,
    positions_every_layer,
    queries_from_positions,
    repvgg,
    rotary,
    shared_expert,
    snake,
    squeeze_excite,
    state_update,
    tanh_gelu,
    unet,
)
from tests.passes.residual_blocks import (
    convnext,
    drop_path,
    in_place,
    norm_in_branch,
    parallel,
    post_norm,
    post_rms_norm,
    pre_norm,
    resnet,
    scaled_branch,
    scaled_skip,
    wide_residual,
)
from tests.passes.topologies import (
    Checkpointed,
    checkpointed,
    cross_attention,
    hyper_connected,
    long_skip,
    mixture,
    reversible,
    shared_layers,
    token_shift,
)


@dataclass(frozen=True)
class Shape:
    """A model, and what has to come of each of its adds.

    Attributes:
        build: makes the model, fp32.
        keys: keys of its sites, in graph order.
        reasons: names of the reasons of its rejected sums, in graph order.
        segments: number of segments.
        inputs: makes its inputs, fp64.
    """

    build: Callable[[], nn.Module]
    keys: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    segments: int = 1
    inputs: Callable[[], tuple[Tensor, ...]] = lambda: (tokens(),)

    def make(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """The model, fp64 and always the same, and its inputs."""
        torch.manual_seed(0)
        return self.build().double(), self.inputs()


def pictures() -> tuple[Tensor, ...]:
    return (images(),)


def two_inputs() -> tuple[Tensor, ...]:
    return tokens(), tokens().flip(1)


SHAPES: dict[str, Shape] = {
    "pre-norm": Shape(pre_norm, ("0.attn", "0.mlp", "1.attn", "1.mlp")),
    "convnext": Shape(convnext, ("b0", "b1"), inputs=pictures),
    "post-norm": Shape(post_norm, ("f1", "f2")),
    "post-norm, RMSNorm spelled out": Shape(post_rms_norm, ("f0", "f1"), ("SCALAR",) * 2),
    "norm in the branch": Shape(norm_in_branch, ("f0", "f1")),
    "resnet stage": Shape(resnet, ("f1.0", "f2.0"), ("PROJECTED_SHORTCUT",), inputs=pictures),
    "parallel": Shape(parallel, ("l0", "l1")),
    "scaled skip": Shape(scaled_skip, ("f0", "f1")),
    "scaled branch": Shape(scaled_branch, ("f0", "f1")),
    "drop path": Shape(drop_path, ("f0", "f1")),
    "in place": Shape(in_place, ("f0", "f1", "f2", "f3")),
    "wide residual": Shape(wide_residual, ("f0", "f1")),
    "add in another module": Shape(add_elsewhere, ("a.f", "b.f")),
    "through a tuple": Shape(through_tuple, ("a.f", "b.f")),
    "through a 2-D view": Shape(through_2d_view, ("f0", "f1", "f2")),
    "added in 2-D": Shape(added_in_2d, ("f0", "f1")),
    "sliced branch": Shape(sliced_branch, ("f0",)),
    "sliced skip": Shape(sliced_skip, ("f0",)),
    "multi-stream": Shape(hyper_connected, (), ("MULTI_STREAM",) * 2, 0),
    "long skip": Shape(long_skip, ("f0", "f1"), ("NESTED",)),
    "token shift": Shape(token_shift, ("f0", "f1"), ("NO_WEIGHT",) * 4),
    "cross-attention": Shape(cross_attention, ("self_attn", "cross_attn", "f0"), inputs=two_inputs),
    "mixture of experts": Shape(mixture, ("moe", "f0")),
    "checkpointed": Shape(checkpointed, ("0.f", "1.f")),
    "checkpointed whole": Shape(Checkpointed, ("layers.0.attn", "layers.0.mlp", "layers.1.attn", "layers.1.mlp")),
    "reversible": Shape(reversible, (), ("MULTI_STREAM",) * 4, 0),
    "shared layers": Shape(
        shared_layers, tuple(f"layer.{part}{use}" for use in ("", "#2", "#3") for part in ("attn", "mlp"))
    ),
    "rotary": Shape(rotary, (), ("NO_WEIGHT",), 0),
    "tanh GELU": Shape(tanh_gelu, (), ("NO_WEIGHT", "SCALAR"), 0),
    "attention bias": Shape(attention_bias, (), ("NOT_ANCESTOR",), 0, two_inputs),
    "position embedding": Shape(position_embedding, ("f0",), ("BROADCAST", "NOT_ANCESTOR")),
    "mean plus eps": Shape(mean_eps, (), ("SCALAR",), 0),
    "state update": Shape(state_update, (), ("NO_WEIGHT",) * 2, 0),
    "delta rule": Shape(delta_rule, (), ("NO_WEIGHT",) * 4, 0),
    "LoRA": Shape(lora, (), ("PROJECTED_SHORTCUT",), 0),
    "feature pyramid": Shape(feature_pyramid, (), ("PROJECTED_SHORTCUT",), 0, pictures),
    "exchange of resolutions": Shape(exchange, (), ("PROJECTED_SHORTCUT",) * 2, 0, pictures),
    "loss sum": Shape(loss_sum, (), ("NOT_ANCESTOR", "PROJECTED_SHORTCUT"), 0, two_inputs),
    "U-Net": Shape(unet, (), (), 0, pictures),
    "squeeze-excite": Shape(squeeze_excite, (), ("SCALAR",), 0, pictures),
    "shared expert": Shape(shared_expert, (), ("PROJECTED_SHORTCUT",), 0),
    "snake": Shape(snake, (), ("NO_WEIGHT",), 0),
    "RepVGG": Shape(repvgg, (), ("RESHAPED_SKIP",), 0, pictures),
    "positions in every layer": Shape(positions_every_layer, ("attn0", "f0", "attn1", "f1"), ("NOT_ANCESTOR",) * 2),
    "queries from positions": Shape(queries_from_positions, ("attn0", "f0", "attn1", "f1"), ("INPUT_INDEPENDENT",) * 2),
}
