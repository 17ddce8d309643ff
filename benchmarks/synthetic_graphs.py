"""Transformer-like traced graphs of any size, built node by node: no model and no tracer take part in the timing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from mhc_compile._torch_compat import FakeTensorMode

BATCH, LENGTH, WIDTH, HEADS = 2, 16, 64, 4
TOKENS = (BATCH, LENGTH, WIDTH)
SPLIT = (BATCH, LENGTH, HEADS, WIDTH // HEADS)
PER_HEAD = (BATCH, HEADS, LENGTH, WIDTH // HEADS)
SCORES = (BATCH, HEADS, LENGTH, LENGTH)


def deep_chain(nodes: int) -> fx.GraphModule:
    """Pre-norm layers in one chain."""
    b = _Builder()
    x = b.embed("x")
    layer = 0
    while len(b.graph.nodes) < nodes:
        x = b.feed_forward(b.attention(x, x, f"layers.{layer}.attention"), f"layers.{layer}.mlp")
        layer += 1
    return b.finish(x)


def collected(nodes: int) -> fx.GraphModule:
    """The same chain, with the hidden state behind every layer returned as well: a readout per layer."""
    b = _Builder()
    x = b.embed("x")
    states = [x]
    while len(b.graph.nodes) < nodes:
        name = f"layers.{len(states) - 1}"
        states.append(b.feed_forward(b.attention(states[-1], states[-1], f"{name}.attention"), f"{name}.mlp"))
    return b.finish(tuple(states))


def encoder_decoder(nodes: int) -> fx.GraphModule:
    """Two chains; a mask and a learned position bias are added in every layer, and the encoder is read in every other.

    The bias and the mask are computed once at the top, so each is an operand of adds that lie far below it.
    """
    b = _Builder()
    encoder, decoder, mask = b.embed("x"), b.embed("y"), b.input("mask", SCORES)
    added = (b.position_bias(), b.call(torch.mul, mask, -1e4, shape=SCORES))
    layer = 0
    while len(b.graph.nodes) < nodes // 2:
        encoder = b.attention(encoder, encoder, f"encoder.{layer}.attention", added)
        encoder = b.feed_forward(encoder, f"encoder.{layer}.mlp")
        layer += 1
    layer = 0
    while len(b.graph.nodes) < nodes:
        decoder = b.attention(decoder, decoder, f"decoder.{layer}.attention", added)
        decoder = b.attention(decoder, encoder, f"decoder.{layer}.cross", added)
        decoder = b.feed_forward(decoder, f"decoder.{layer}.mlp")
        layer += 1
    return b.finish(decoder)


GRAPHS: dict[str, Callable[[int], fx.GraphModule]] = {
    "deep chain": deep_chain,
    "collected states": collected,
    "encoder-decoder": encoder_decoder,
}


class _Builder:
    """Emits torch-level nodes with fake values of known shape, as Dynamo leaves them."""

    def __init__(self) -> None:
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.fake = FakeTensorMode()

    def input(self, name: str, shape: tuple[int, ...]) -> fx.Node:
        return self._valued(self.graph.placeholder(name), shape)

    def call(self, target: Callable[..., Any], *args: Any, shape: tuple[int, ...]) -> fx.Node:
        return self._valued(self.graph.call_function(target, args), shape)

    def method(self, name: str, *args: Any, shape: tuple[int, ...]) -> fx.Node:
        return self._valued(self.graph.call_method(name, args), shape)

    def weight(self, name: str, *shape: int) -> fx.Node:
        """A parameter of the model; all of them are on the meta device and cost no memory."""
        *path, last = name.split(".")
        module = self.root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, nn.Parameter(torch.empty(shape, device="meta")))
        return self._valued(self.graph.create_node("get_attr", name), shape)

    def embed(self, name: str) -> fx.Node:
        return self.linear(self.input(name, TOKENS), f"embed_{name}", TOKENS)

    def linear(self, x: fx.Node, name: str, shape: tuple[int, ...]) -> fx.Node:
        width = x.meta["val"].shape[-1]
        weights = self.weight(f"{name}.weight", shape[-1], width), self.weight(f"{name}.bias", shape[-1])
        return self.call(F.linear, x, *weights, shape=shape)

    def norm(self, x: fx.Node, name: str) -> fx.Node:
        weights = self.weight(f"{name}.weight", WIDTH), self.weight(f"{name}.bias", WIDTH)
        return self.call(F.layer_norm, x, (WIDTH,), *weights, shape=TOKENS)

    def position_bias(self) -> fx.Node:
        table = self.weight("position_bias.weight", HEADS, LENGTH, LENGTH)
        return self.call(torch.Tensor.expand, table, *SCORES, shape=SCORES)

    def attention(self, x: fx.Node, source: fx.Node, name: str, added: tuple[fx.Node, ...] = ()) -> fx.Node:
        """A residual attention over `source`, which is normalised if it is `x`; `added` are terms of the scores."""
        normed = self.norm(x, f"{name}.norm")
        source = normed if source is x else source
        q, k, v = (self.heads(s, f"{name}.{p}") for s, p in ((normed, "q"), (source, "k"), (source, "v")))
        transposed = self.method("transpose", k, -2, -1, shape=(BATCH, HEADS, WIDTH // HEADS, LENGTH))
        scores = self.call(torch.matmul, q, transposed, shape=SCORES)
        for term in added:
            scores = self.call(torch.add, scores, term, shape=SCORES)
        mixed = self.call(torch.matmul, self.call(F.softmax, scores, -1, shape=SCORES), v, shape=PER_HEAD)
        merged = self.method("flatten", self.method("transpose", mixed, 1, 2, shape=SPLIT), 2, shape=TOKENS)
        return self.call(torch.add, x, self.linear(merged, f"{name}.out", TOKENS), shape=TOKENS)

    def heads(self, x: fx.Node, name: str) -> fx.Node:
        split = self.method("view", self.linear(x, name, TOKENS), *SPLIT, shape=SPLIT)
        return self.method("transpose", split, 1, 2, shape=PER_HEAD)

    def feed_forward(self, x: fx.Node, name: str) -> fx.Node:
        """A residual of two linear layers with a GELU between them."""
        wide = (*TOKENS[:-1], 4 * WIDTH)
        hidden = self.linear(self.norm(x, f"{name}.norm"), f"{name}.up", wide)
        hidden = self.linear(self.call(F.gelu, hidden, shape=wide), f"{name}.down", TOKENS)
        return self.call(torch.add, x, hidden, shape=TOKENS)

    def finish(self, result: Any) -> fx.GraphModule:
        self.graph.output(result)
        return fx.GraphModule(self.root, self.graph)

    def _valued(self, node: fx.Node, shape: tuple[int, ...]) -> fx.Node:
        with self.fake:
            node.meta["val"] = torch.empty(shape)
        return node
