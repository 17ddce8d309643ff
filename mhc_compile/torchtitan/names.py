"""Names of new parameters in Hugging Face's checkpoints: sites are called after the modules there.

So `hyper_connections.layers__0__attention.phi` is `hyper_connections.model__layers__0__self_attn.phi`, as in a
transformed model of Transformers.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mhc_compile.errors import CheckpointMismatchError
from mhc_compile.passes.plan.keys import common_path, identifier
from mhc_compile.twin.header import KEY
from mhc_compile.twin.hyper_connections import CHILD


@functools.cache
def adapter_with_new_names(kind: Any) -> Any:
    """A class like an adapter of torchtitan's, for state dicts with hyper-connections."""

    class Adapter(kind):  # type: ignore[misc]
        def to_hf(self, state_dict: dict[str, Any]) -> dict[str, Any]:
            """From torchtitan's names to those of Hugging Face."""
            own, others = _apart(state_dict)
            renamed = _renamed(own, site_names(self))
            if self.fqn_to_index_mapping:  # in which file each tensor goes: new ones into the last
                last = max(self.fqn_to_index_mapping.values())
                self.fqn_to_index_mapping.update(dict.fromkeys(renamed.keys() - self.fqn_to_index_mapping.keys(), last))
            return {**super().to_hf(others), **renamed}

        def from_hf(self, hf_state_dict: dict[str, Any]) -> dict[str, Any]:
            """And back."""
            own, others = _apart(hf_state_dict)
            back = {there: here for here, there in site_names(self).items()}
            return {**super().from_hf(others), **_renamed(own, back)}

    Adapter.__name__ = Adapter.__qualname__ = kind.__name__
    return Adapter


def site_names(adapter: Any) -> dict[str, str]:
    """Identifier of the site of each part of a layer, here -> there."""
    names: dict[str, str] = {}
    for number, layer in enumerate(adapter.model_config.layers):
        for part in (f.name for f in fields(layer) if getattr(layer, f.name) is not None):
            inside = f"layers.{{}}.{part}."
            there = [name for name, here in adapter.from_hf_map.items() if here and here.startswith(inside)]
            path = common_path(name.rpartition(".")[0] for name in there)
            names[identifier(f"layers.{number}.{part}")] = identifier(path.replace("{}", str(number)))
    return names


def check_names(adapter: Any, state: Mapping[str, Any]) -> None:
    """Before anything is trained: has every site a name in Hugging Face's checkpoints?

    Raises:
        CheckpointMismatchError: one has none.
    """
    _renamed(_apart(state)[0], site_names(adapter))


def _apart(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What belongs to the hyper-connections, and the rest."""
    own = {name: value for name, value in state.items() if name.startswith(f"{CHILD}.")}
    return own, {name: value for name, value in state.items() if name not in own}


def _renamed(own: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for name, value in own.items():
        _, site, parameter = name.split(".", 2) if name != KEY else ("", "", "")
        if site and site not in names:
            raise CheckpointMismatchError(
                f"{name} is of a site without a name in the other format: only residual connections around the parts "
                f"of a layer have one, such as {', '.join(list(names)[:2])}"
            )
        found[f"{CHILD}.{names[site]}.{parameter}" if site else name] = value
    return found
