"""What a model calls the tensors that Dynamo made inputs of a graph.

Tied tensors have several names. Dynamo reaches all tensors of a graph through few modules, its roots: the model itself,
or, behind a graph break, one of its blocks. Tied tensors are named as parts of that block, so that blocks that share
weights keep apart; from the model itself on they have their first name, as in `capture`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from mhc_compile.dynamo.frame import is_model_state, path_from_root, state_path


@dataclass(frozen=True)
class StateNames:
    """Names of the inputs that hold the state of modules.

    Attributes:
        names: placeholder -> name.
        foreign: those of `names` that are no parameters or buffers of the model, named by the way Dynamo found them.
        tied: those of `names` whose tensor the model has under another name as well.
        parameters: those of `names` that the model holds as parameters.
        roots: paths of the modules through which Dynamo reaches them, "" for the model itself.
    """

    names: Mapping[fx.Node, str]
    foreign: tuple[str, ...]
    tied: frozenset[str]
    parameters: frozenset[str]
    roots: tuple[str, ...]


def name_state(placeholders: Sequence[fx.Node], values: Sequence[Any], model: nn.Module) -> StateNames:
    """Name the inputs of a graph of Dynamo's, called with `values`, as `model` does."""
    inputs = list(zip(placeholders, values, strict=True))
    known = _all_names(model)
    prefixes = _prefixes(inputs, known)
    names, foreign, tied = {}, [], []
    for node, value in inputs:
        candidates = known.get(id(value), [])
        if candidates:
            root, path = path_from_root(node) or ("", "")
            longer = prefixes.get(root, "") + path
            names[node] = longer if longer in candidates and prefixes.get(root) else candidates[0]
            tied += [names[node]] * (len(candidates) > 1)
        elif isinstance(value, torch.Tensor) and is_model_state(node):
            names[node] = state_path(node)
            foreign.append(names[node])
    own = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    roots = tuple(dict.fromkeys(prefix.removesuffix(".") for prefix in prefixes.values()))
    return StateNames(names, tuple(foreign), frozenset(tied), frozenset(own & set(names.values())), roots)


def _all_names(model: nn.Module) -> dict[int, list[str]]:
    """All names of each parameter and buffer by identity; the first is the one that `capture` takes."""
    names: dict[int, list[str]] = {}
    for name, buffer in reversed(list(model.named_buffers(remove_duplicate=False))):
        names.setdefault(id(buffer), []).append(name)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _prefixes(inputs: Iterable[tuple[fx.Node, Any]], known: Mapping[int, Sequence[str]]) -> dict[str, str]:
    """For each root, the path of it with a dot, from the names that its tensors have in common up to there."""
    possible: dict[str, list[str]] = {}
    for node, value in inputs:
        root, path = path_from_root(node) or ("", "")
        starts = [n.removesuffix(path) for n in known.get(id(value), ()) if path and f".{n}".endswith(f".{path}")]
        if starts:
            possible[root] = [start for start in possible.get(root, starts) if start in starts]
    return {root: starts[0] for root, starts in possible.items() if starts}
