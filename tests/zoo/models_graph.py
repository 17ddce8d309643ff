"""Graph networks of PyTorch Geometric, tiny."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.model import Model, Part, load

NODES, WIDTH = 12, 32
_CONV = "torch_geometric.nn"


def edges() -> Tensor:
    """A ring in both directions (2, E)."""
    here = torch.arange(NODES)
    there = (here + 1) % NODES
    return torch.stack([torch.cat([here, there]), torch.cat([there, here])])


def nodes() -> Tensor:
    """Features of every node (N, C)."""
    return torch.randn(NODES, WIDTH)


def all_pairs(positions: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Edges between all atoms, for SchNet, whose own search for neighbours needs a compiled package."""
    here, there = torch.triu_indices(NODES, NODES, 1).unbind()
    return torch.stack([here, there]), (positions[here] - positions[there]).norm(dim=-1)


def perceptron() -> nn.Module:
    """What a GIN convolution is built around."""
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))


def chain(layers: list[Any]) -> nn.Module:
    """Layers one after the other, each given the edges too."""
    return load(f"{_CONV}:Sequential")("x, edge_index", [(layer, "x, edge_index -> x") for layer in layers])


def deep_gcn() -> nn.Module:
    """Three blocks of DeeperGCN."""
    layer, norm = load(f"{_CONV}:DeepGCNLayer"), load(f"{_CONV}:LayerNorm")
    convolution = load(f"{_CONV}:GENConv")
    return chain(
        [layer(convolution(WIDTH, WIDTH), norm(WIDTH), nn.ReLU(), block=block) for block in ("res+", "res+", "res")]
    )


def gps() -> nn.Module:
    """Two layers of GraphGPS."""
    layer, convolution = load(f"{_CONV}:GPSConv"), load(f"{_CONV}:GINConv")
    return chain([layer(WIDTH, convolution(perceptron()), heads=4) for _ in range(2)])


def _graph() -> tuple[Tensor, Tensor]:
    return nodes(), edges()


GRAPH: dict[str, Model] = {
    "deep_gcn": Model("tests.zoo.models_graph:deep_gcn", _graph),
    "gin": Model(f"{_CONV}:GIN", _graph, {"in_channels": WIDTH, "hidden_channels": WIDTH, "num_layers": 2}),
    "gps": Model("tests.zoo.models_graph:gps", _graph),
    "mixer": Model(
        "torch_geometric.nn.models.graph_mixer:_MLPMixer",
        lambda: (torch.randn(2, NODES, WIDTH),),
        {"num_tokens": NODES, "in_channels": WIDTH, "out_channels": 8},
    ),
    "sage": Model(f"{_CONV}:GraphSAGE", _graph, {"in_channels": WIDTH, "hidden_channels": WIDTH, "num_layers": 2}),
    "schnet": Model(
        f"{_CONV}:SchNet",
        lambda: (torch.randint(1, 9, (NODES,)), torch.randn(NODES, 3)),
        {
            "hidden_channels": WIDTH,
            "num_filters": WIDTH,
            "num_interactions": 2,
            "num_gaussians": 8,
            "interaction_graph": Part("tests.zoo.models_graph:given_pairs"),
        },
    ),
    "sgformer": Model(
        f"{_CONV}:SGFormer",
        lambda: (nodes(), edges(), torch.zeros(NODES, dtype=torch.long)),
        {"in_channels": WIDTH, "hidden_channels": WIDTH, "out_channels": 4, "trans_num_layers": 2, "gnn_num_layers": 2},
    ),
}


def given_pairs() -> Any:
    """`all_pairs` as an argument."""
    return all_pairs
