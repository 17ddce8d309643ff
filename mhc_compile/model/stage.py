"""One stage of a pipeline: the part of a transformed model's module tree that it uses, and the code it runs."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile._torch_compat import tree_flatten
from mhc_compile.capture.trace_errors import describe_call
from mhc_compile.errors import StageCallError
from mhc_compile.model.plain_checkpoint import complete_plain
from mhc_compile.passes.split.partition import Crossing
from mhc_compile.programs.program import Program
from mhc_compile.twin.header import check_state, is_plain
from mhc_compile.twin.hosts import Hosted
from mhc_compile.twin.hyper_connections import HyperConnections
from mhc_compile.twin.owned import Conversion, Owner, refuse_torchscript_trace

State = list[Any]
"""What code depends on in the modules of a stage; see `module_state`."""


@dataclass
class StageInfo:
    """What a stage knows about itself.

    Attributes:
        index: position in the pipeline.
        count: number of stages.
        receives: the tensors that the stage before sends, in the order in which `forward` takes them.
        sends: the tensors that `forward` returns, except in the last stage.
        elsewhere: names of parameters and buffers that other stages have.
        programs: the code, one for each kind of call, and the state of the modules that it is for.
    """

    index: int
    count: int
    receives: tuple[Crossing, ...]
    sends: tuple[Crossing, ...]
    elsewhere: frozenset[str]
    programs: list[tuple[State, Program]] = field(default_factory=list)


class Stage(Owner):
    """A part of a transformed model, for `torch.distributed.pipelining.PipelineStage`.

    Parameters keep their names, `blocks.7.mlp.up.weight`, so that a state dict of the whole model loads (entries of
    other stages are skipped), and the state dicts of all stages together are that of the whole model.

    Attributes:
        mhc_stage: position, and what crosses the borders.
        hyper_connections: the new parameters of the sites in this stage.
    """

    mhc_stage: StageInfo

    def __init__(self, model: Owner, names: Collection[str], info: StageInfo) -> None:
        """Take a part of a model, whose modules and parameters are shared with it.

        Args:
            model: the whole one.
            names: of the parameters and buffers to take.
            info: becomes `mhc_stage`; programs may follow.
        """
        super().__init__()
        part = prune(model, names)
        for kind in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            vars(self)[kind] = copy.copy(vars(part)[kind])
        self.training = model.training
        self.mhc_stage = info
        self._mhc = Conversion(model._mhc.original, model._mhc.config, model._mhc.plans)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the stage.

        Args:
            *args: inputs of the model in the first stage, else `mhc_stage.receives`.
            **kwargs: in the first stage only.

        Returns:
            The outputs of the model in the last stage; else the one tensor of `mhc_stage.sends`, or a tuple of them.

        Raises:
            StageCallError: the model was not traced for this kind of call.
            TorchScriptError: inside of `torch.jit.trace`.
        """
        refuse_torchscript_trace()
        flat, tree = tree_flatten((args, kwargs))
        now = module_state(self)
        for state, program in self.mhc_stage.programs:
            if state == now and program.takes(flat, tree):
                return program(self, flat)
        raise StageCallError(self._explain(args, kwargs))

    def _explain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        call = describe_call(self, args, kwargs)
        info = self.mhc_stage
        if info.index and (kwargs or len(args) != len(info.receives)):
            names = ", ".join(c.name for c in info.receives)
            return f"stage {info.index} takes what stage {info.index - 1} returns ({names}), not {call}"
        return (
            f"{call} is a call that stage {info.index} was not traced for: write mhc_compile.pipeline.split(model, at, "
            "example_inputs=...) with inputs of these types and sizes, in all modes that are used, and cast the model "
            "to its dtype before"
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        """Takes what belongs to this stage out of a state dict of the whole model, transformed or plain."""
        for name in self.mhc_stage.elsewhere:
            state_dict.pop(prefix + name, None)
        if is_plain(state_dict, prefix):
            complete_plain(self, state_dict, prefix, assign=local_metadata.get("assign_to_params_buffers", False))
        else:
            check_state(state_dict, self.hyper_connections.header, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def module_state(module: nn.Module) -> State:
    """What the code of a stage depends on in a module tree: training flags and dtypes of parameters.

    It does not depend on devices. Plain Python, so that Dynamo inlines it and guards what it sees.
    """
    state: State = []
    modules = list(module.modules())
    sharded = compat.sharded_dtypes(modules)
    for child in modules:
        if compat.WRAPPED in child._modules:  # activation checkpointing changes nothing that is traced
            continue
        state.append(child.training)
        state.append(isinstance(child, Hosted))  # one that was replaced is none, and is traced as it is
        for parameter in child._parameters.values():
            if parameter is not None:
                state.append(sharded.get(id(parameter), parameter.dtype))
    return state


def prune(module: nn.Module, names: Collection[str], prefix: str = "") -> nn.Module:
    """The part of a module tree that holds these parameters and buffers, and all modules that have neither.

    A module that is taken whole is the object itself. Of another one a twin with the same attributes is made; in a
    twin of an `nn.ModuleList` the modules keep their numbers as names.
    """
    own = {name for name in _own_names(module) if prefix + name in names}
    children = {name: child and _prune_child(child, names, f"{prefix}{name}.") for name, child in _children(module)}
    kept = {name: child for name, child in children.items() if child is not _GONE}
    whole = len(own) == len(_own_names(module)) and all(kept.get(n, _GONE) is c for n, c in _children(module))
    if whole:
        return module
    twin: nn.Module = object.__new__(type(module))
    vars(twin).update(vars(module))
    vars(twin)["_parameters"] = {n: p for n, p in module._parameters.items() if n in own or p is None}
    vars(twin)["_buffers"] = {n: b for n, b in module._buffers.items() if n in own or b is None}
    vars(twin)["_modules"] = kept
    if isinstance(twin, HyperConnections):
        twin._identifiers = {key: name for key, name in twin._identifiers.items() if name in kept}
    return twin


_GONE: Any = object()


def _prune_child(child: nn.Module, names: Collection[str], prefix: str) -> Any:
    state = [name for module_name, module in child.named_modules() for name in _state_names(module, module_name)]
    if state and not any(prefix + name in names for name in state) and not isinstance(child, HyperConnections):
        return _GONE
    return prune(child, names, prefix)


def _state_names(module: nn.Module, path: str) -> list[str]:
    return [f"{path}.{name}" if path else name for name in _own_names(module)]


def _own_names(module: nn.Module) -> list[str]:
    both = (*module._parameters.items(), *module._buffers.items())
    return [name for name, value in both if value is not None]


def _children(module: nn.Module) -> Sequence[tuple[str, Any]]:
    return list(module._modules.items())
