"""Groups of parameters that a recipe has chosen, and the hyper-connections that it has missed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import nn

from mhc_compile.dynamo.new_parameters import connections_of
from mhc_compile.errors import InvalidOptionError
from mhc_compile.twin.first_step import block_of
from mhc_compile.twin.hyper_connections import decays

Group = dict[str, Any]
_FORMS = "write a list of groups as torch.optim takes them, or of iterables such as model.blocks.parameters()"
_NOT_OPTIONS = ("params", "param_names", "weight_decay")


class _New(NamedTuple):
    """A parameter of hyper-connections: its name in the model, how names in its block begin, whether it decays."""

    name: str
    parameter: nn.Parameter
    block: str
    decaying: bool


def completed(model: nn.Module, groups: Iterable[Any], weight_decay: float) -> list[Group]:
    """`groups`, with generators in them as lists, and behind them groups of the new parameters that they lack.

    Args:
        model: the model with hyper-connections; those that are frozen are left out.
        groups: see `mhc_compile.parameter_groups`.
        weight_decay: of maps for which there is no group to go by.

    Raises:
        InvalidOptionError: there is something else in `groups`, or nothing of the model.
    """
    given = _read(groups)
    places = {id(_parameter(entry)): i for i, group in enumerate(given) for entry in group["params"]}
    if places and not any(id(parameter) in places for parameter in model.parameters()):
        raise InvalidOptionError(
            f"groups holds no parameter of this {type(model).__name__}: make them from the model that is trained, for "
            "example from model.blocks.parameters()"
        )
    added: dict[tuple[int | None, bool], list[_New]] = {}
    for new in _new(model):
        if id(new.parameter) not in places and new.parameter.requires_grad:
            added.setdefault((_companion(model, new, places), new.decaying), []).append(new)
    named = any(isinstance(entry, tuple) for group in given for entry in group["params"])
    return [
        *given,
        *(
            _group({} if i is None else given[i], decaying, news, named, weight_decay)
            for (i, decaying), news in added.items()
        ),
    ]


def _group(companion: Group, decaying: bool, news: list[_New], named: bool, weight_decay: float) -> Group:
    """A group of new parameters with the options of another."""
    made = {key: value for key, value in companion.items() if key not in _NOT_OPTIONS}
    made["params"] = [(new.name, new.parameter) if named else new.parameter for new in news]
    if "param_names" in companion:
        made["param_names"] = [new.name for new in news]
    if not decaying:
        made["weight_decay"] = 0.0
    elif not companion or "weight_decay" in companion:  # else the optimizer's own counts, as for the companion
        made["weight_decay"] = companion.get("weight_decay", weight_decay)
    return made


def _companion(model: nn.Module, new: _New, places: Mapping[int, int]) -> int | None:
    """The group with parameters of the same kind, if there is one those of the same block. Muon takes no vectors."""
    alike = [
        (not name.startswith(new.block), places[id(parameter)])
        for name, parameter in model.named_parameters()
        if id(parameter) in places and (parameter.dim() >= 2) == new.decaying
    ]
    return min(alike, key=itemgetter(0))[1] if alike else None


def _new(model: nn.Module) -> Iterator[_New]:
    for path, module in model.named_modules():
        child = connections_of(module)
        start = f"{path}." if path else ""
        names = {} if child is None else {id(p): name for name, p in module.named_parameters()}
        for key in child or ():
            assert child is not None
            for name, parameter in child[key].named_parameters():
                full = f"{start}{names[id(parameter)]}"
                yield _New(full, parameter, f"{start}{block_of(key)}", decays(name, parameter))


def _read(groups: Any) -> list[Group]:
    """Groups as dictionaries whose parameters are in lists.

    Raises:
        InvalidOptionError: it is something else.
    """
    if isinstance(groups, (torch.Tensor, Mapping, str)) or not isinstance(groups, Iterable):
        raise InvalidOptionError(f"groups is a {type(groups).__name__}: {_FORMS}")
    entries = list(groups)
    if entries and all(map(_is_parameter, entries)):
        entries = [entries]
    return [_read_group(entry) for entry in entries]


def _read_group(entry: Any) -> Group:
    group = dict(entry) if isinstance(entry, Mapping) else {"params": entry}
    params = group.get("params")
    if isinstance(params, torch.Tensor):
        params = [params]
    params = list(params) if isinstance(params, Iterable) and not isinstance(params, (str, Mapping)) else [None]
    if not all(map(_is_parameter, params)):
        raise InvalidOptionError(f"groups holds {type(entry).__name__} without parameters: {_FORMS}")
    return {**group, "params": params}


def _is_parameter(entry: Any) -> bool:
    return isinstance(_parameter(entry), torch.Tensor)


def _parameter(entry: Any) -> Any:
    """The tensor of an entry that may be a pair with its name."""
    return entry[1] if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str) else entry
