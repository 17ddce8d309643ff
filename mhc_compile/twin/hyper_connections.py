"""The module that owns the new parameters of a model."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from mhc_compile._torch_compat import is_cut
from mhc_compile.config import Config
from mhc_compile.errors import OwnChildrenError
from mhc_compile.passes.plan.data import OWNER
from mhc_compile.twin.first_step import watch
from mhc_compile.twin.header import Header
from mhc_compile.twin.offload import StaysLoaded

CHILD = OWNER
"""Name of the child of a model that holds the new parameters."""

_STATIC = ("alpha", "bias", "static_", "scale")


def decays(name: str, value: torch.Tensor) -> bool:
    """Whether weight decay is right for a new parameter: for maps, not for what rests elsewhere than at zero."""
    return value.dim() >= 2 and not name.startswith(_STATIC)


class _Spared(str):
    """Name of a parameter that takes no weight decay: equal to the plain text, and used in its place.

    The trainers of Transformers decide by names alone, in lower case: they spare what has `bias` in it.
    """

    __slots__ = ()

    def lower(self) -> str:
        """In lower case, with the word that trainers look for."""
        return f"{self!s}.bias".lower()


class SiteParameters(StaysLoaded):
    """The parameters of one site, or of one learned readout."""

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        for name, value in values.items():
            self.register_parameter(name if decays(name, value) else _Spared(name), nn.Parameter(value))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> SiteParameters:
        """Moves and casts as in any module, but never below fp32, where steps of an optimizer would be lost."""

        def keep_fp32(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            narrow = moved.is_floating_point() and moved.dtype.itemsize < 4
            return tensor.to(moved.device, torch.float32) if narrow else moved

        return super()._apply(keep_fp32, recurse)

    def extra_repr(self) -> str:
        """Shapes, for whoever prints the model."""
        return ", ".join(f"{name}={list(parameter.shape)}" for name, parameter in self.named_parameters())


class HyperConnections(StaysLoaded):
    """The new parameters by site key, a mapping: `model.hyper_connections["layers.0.mlp"].phi`.

    Attributes:
        header: what a checkpoint says of them.
        config: the options that they were made with.
        graphs: under `mhc_compile.backend`, which keys the parts of a function cut by graph breaks use.
        unfrozen: the same, places of parameters that were trained after code had been compiled for frozen ones.
        weights: site key -> names of the matrices in its branch, by which other graphs know it.
        in_sequential: calls of all children in turn may go through it: the model is transformed, or an `nn.Sequential`.
        hosts: identifier of a site -> paths of the modules of a transformed model whose code uses its parameters.
    """

    def __init__(
        self,
        sites: Mapping[str, tuple[str, Mapping[str, torch.Tensor]]],
        config: Config,
        graphs: MutableMapping[str, dict[str, tuple[str, ...]]] | None = None,
    ) -> None:
        """Register the parameters.

        Args:
            sites: key -> (identifier the child is registered under, parameter name -> initial value).
            config: options they are made with.
            graphs: see the class.
        """
        super().__init__()
        self.header, self.config = Header.of(config), config
        self.in_sequential = False
        self.hosts: dict[str, tuple[str, ...]] = {}
        self._identifiers: dict[str, str] = {}
        self.graphs: MutableMapping[str, dict[str, tuple[str, ...]]] = {} if graphs is None else graphs
        self.unfrozen: set[tuple[str, int]] = set()
        self.weights: dict[str, tuple[str, ...]] = {}
        self.add(sites)
        watch(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What a copy or a pickle becomes is trained by other optimizers than the first."""
        super().__setstate__(state)
        if "config" not in vars(self):  # from before it was kept
            of = self.header
            made: dict[str, Any] = {"n": of.n, "connection": of.connection, "reduce": of.reduce}
            self.config = Config(**made, init="random" if of.reduce == "sum" else "preserve")
        watch(self)

    @property
    def identifiers(self) -> Mapping[str, str]:
        """Site key -> name of the child with its parameters."""
        return MappingProxyType(self._identifiers)

    @property
    def itself(self) -> HyperConnections:
        """This object. Asked of a wrapper that hands on attributes, such as PEFT's, it is the copy that is in use."""
        return self

    def add(self, sites: Mapping[str, tuple[str, Mapping[str, torch.Tensor]]]) -> None:
        """Register the parameters of further sites; those of known keys stay as they are."""
        for key, (identifier, values) in sites.items():
            if key in self._identifiers:
                continue
            self.add_module(identifier, SiteParameters(values))
            self._identifiers[key] = identifier

    def rename_by_key(self) -> None:
        """Give the parameters of every site the name that its key makes: they were loaded under another."""
        from mhc_compile.passes.plan.keys import identifier  # late

        children = {key: self._modules.pop(name) for key, name in self._identifiers.items()}
        self._identifiers.clear()
        for key, child in children.items():
            self.add_module(identifier(key), child)
            self._identifiers[key] = identifier(key)

    def forward(self, value: Any, *others: Any, **keywords: Any) -> Any:
        """Hands on what it gets: somebody calls all children of a model in turn, such as `nn.Sequential`.

        Raises:
            OwnChildrenError: it is one of them behind a backend, in a model with a forward of its own.
        """
        if not self.in_sequential:
            raise OwnChildrenError(
                "the forward of this model calls all of its children, and hyper_connections is one of them behind "
                "mhc_compile.backend: compile a module that holds the model, or write mhc_compile.transform(model)"
            )
        return value

    def children(self) -> Iterator[nn.Module]:
        """The parameters site by site, without those that were sharded and have a host: they are its children as well.

        `fully_shard` collects what it manages by `children()`, and those belong to the group of their host.
        """
        return (
            child
            for identifier, child in self._modules.items()
            if child is not None and not (identifier in self.hosts and any(map(is_cut, child.parameters())))
        )

    def get_extra_state(self) -> torch.Tensor:
        """The header, which names connection, n and format in every checkpoint."""
        return self.header.to_tensor()

    def set_extra_state(self, state: Any) -> None:
        """Check the header of a checkpoint.

        Raises:
            CheckpointMismatchError, NewerCheckpointError, UnreadableCheckpointError: see `header.check_state`.
        """
        Header.from_tensor(state).check(self.header)

    def __getitem__(self, key: str) -> nn.Module:
        if key not in self._identifiers:
            raise KeyError(f"no hyper-connection called {key!r}; there are {', '.join(self._identifiers)}")
        return self.get_submodule(self._identifiers[key])

    def __contains__(self, key: object) -> bool:
        return key in self._identifiers

    def __iter__(self) -> Iterator[str]:
        return iter(self._identifiers)

    def __len__(self) -> int:
        return len(self._identifiers)

    def __bool__(self) -> bool:
        return True  # an nn.Module is true whatever its length

    def keys(self) -> KeysView[str]:
        """Site keys (and keys of learned readouts), in graph order."""
        return self._identifiers.keys()

    def items(self) -> ItemsView[str, nn.Module]:
        """Pairs of key and module."""
        return {key: self[key] for key in self._identifiers}.items()


def spared_names(model: nn.Module) -> set[str]:
    """Names of the parameters of hyper-connections that take no weight decay."""
    spare = spared(model)
    return {name for name, parameter in model.named_parameters() if id(parameter) in spare}


def spared(model: nn.Module) -> set[int]:
    """Ids of the parameters of hyper-connections that take no weight decay."""
    return {id(parameter) for parameter, decaying in new_parameters(model) if not decaying}


def new_parameters(model: nn.Module) -> Iterator[tuple[nn.Parameter, bool]]:
    """The parameters of hyper-connections, and whether they decay."""
    for module in model.modules():
        if isinstance(module, HyperConnections):
            for name, parameter in module.named_parameters():
                yield parameter, decays(name.rpartition(".")[2], parameter)
