"""Traces of one model for several kinds of calls, all over the same new parameters."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.capture import Captured, capture
from mhc_compile.config import Config
from mhc_compile.dispatch import Entry
from mhc_compile.doors import warn_of_cut
from mhc_compile.errors import CaptureError, MissingSitesWarning
from mhc_compile.hosts import for_trace
from mhc_compile.offload import loaded_devices
from mhc_compile.owner import Transformed, disown
from mhc_compile.passes.plan import Plan
from mhc_compile.program import Program, build_program
from mhc_compile.reads import lies_in
from mhc_compile.whole import Seen, make_whole
from mhc_compile.wording import names_text

if TYPE_CHECKING:
    from mhc_compile.passes.parameters import ParameterSpec


@contextmanager
def training_mode(model: nn.Module, training: bool | None) -> Iterator[None]:
    """Set the training flag of every module, None for as they are, and put each back afterwards.

    Flags are set directly: a model's own `train()` may do more than that, and would not be undone.
    """
    before = [(m, m.training) for m in model.modules()]
    try:
        for module, flag in before:
            module.training = flag if training is None else training
        yield
    finally:
        for module, flag in before:
            module.training = flag


def plan_of(captured: Captured, config: Config, known: Sequence[Plan] = ()) -> Plan:
    """The plan of a captured graph, which is normalised in place; `known` are those of other traces of the model."""
    from mhc_compile.passes.pipeline import make_plan

    return make_plan(captured.gm, config, known=list(weights_of(known).items()))


def specs_of(plan: Plan, config: Config) -> dict[str, ParameterSpec]:
    """The new parameters a plan asks for, by key."""
    from mhc_compile.passes.parameters import parameter_specs

    return parameter_specs(plan, config)


def all_specs(plans: Sequence[Plan], config: Config) -> dict[str, ParameterSpec]:
    """The new parameters that several plans ask for, by key; the first plan that names a key decides."""
    specs: dict[str, ParameterSpec] = {}
    for plan in plans:
        specs = {**specs, **{key: spec for key, spec in specs_of(plan, config).items() if key not in specs}}
    return specs


def weights_of(plans: Sequence[Plan]) -> dict[str, tuple[str, ...]]:
    """Site key -> names of the matrices in its branch; the first plan that names a key decides."""
    return {site.key: site.weights for plan in reversed(plans) for site in plan.sites}


def add_program(owner: Transformed, entry: Entry, captured: Captured, plan: Plan) -> Program:
    """Rewrite a captured graph and give it to `entry` as a program for the current state of `owner`."""
    from mhc_compile.passes.pipeline import rewrite_open

    gm = rewrite_open(captured.gm, plan, owner._mhc.config)
    program = build_program(captured, gm, owner, entry.path)
    entry.programs.append(program)
    return program


def add_variant(owner: Transformed, entry: Entry, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Program | None:
    """Trace the original code for a call that no program of `entry` serves; None if it does more than compute.

    Raises:
        CaptureError: it cannot be traced, or needs parameters that `owner` does not have.
    """
    captured = capture(
        plain_part(owner, entry.path), args, kwargs, path=entry.path, open_axes=_changing(entry, args, kwargs)
    )
    if captured.effects:
        return None
    plan = plan_of_part(captured, owner) if entry.path else plan_of(captured, owner._mhc.config, owner._mhc.plans)
    check_parameters(owner, plan)
    read = {str(node.target) for node in captured.gm.graph.find_nodes(op="get_attr")}
    check_sites(owner, entry.path, {site.key for site in plan.sites}, read)
    return add_program(owner, entry, captured, plan)


def plain_part(owner: Transformed, path: str) -> nn.Module:
    """The original code of a module of `owner`, over its parameters and under the names they have in the whole."""
    door = owner.get_submodule(path) if path else None
    plain = disown(owner, functools.partial(for_trace, door=door))
    make_whole(plain, _seen_by_code(owner))
    return part_of(plain, path) if path else plain


def _seen_by_code(owner: nn.Module) -> dict[int, Seen]:
    """Id of each tensor that is sharded or offloaded between calls -> how it is in a call."""
    modules = dict(owner.named_modules())
    dtypes, loaded = compat.sharded_dtypes(modules.values()), loaded_devices(modules)
    seen: dict[int, Seen] = {}
    for registry in (r for module in modules.values() for r in (module._parameters, module._buffers)):
        for name, tensor in registry.items():
            if tensor is not None and (id(tensor) in dtypes or (tensor.is_meta and (id(registry), name) in loaded)):
                device = loaded[id(registry), name][1] if tensor.is_meta else tensor.device
                seen[id(tensor)] = (dtypes.get(id(tensor), tensor.dtype), device)
    return seen


def part_of(model: nn.Module, path: str) -> nn.Module:
    """A module with the parts of `model`, a call of which is one of its module `path`."""
    parts = path.split(".")

    class Part(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            module: Any = self
            for part in parts:
                module = getattr(module, part)
            return module(*args, **kwargs)

    part: nn.Module = object.__new__(Part)
    vars(part).update(vars(model))
    return part


def plan_of_part(captured: Captured, owner: Transformed) -> Plan:
    """The plan of a module that is called alone: the sites that it has in the whole model, and no others."""
    from mhc_compile.passes.pipeline import make_plan

    everything = replace(owner._mhc.config, include=(), exclude=(), min_sites=1)
    known = list(weights_of(owner._mhc.plans).items())
    exclude: tuple[str, ...] = ()
    plan = make_plan(captured.gm, everything, known=known)
    while others := tuple(site.key for site in plan.sites if site.key not in owner.hyper_connections.itself):
        exclude += others  # what a site left out displaced comes back
        plan = make_plan(captured.gm, replace(everything, exclude=exclude), known=known)
    return plan


def _changing(entry: Entry, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[int, set[int]]:
    """Axes of the flat inputs whose sizes differ from those of an earlier call of the same kind."""
    flat, tree = compat.tree_flatten((tuple(args), dict(kwargs)))
    changing: dict[int, set[int]] = {}
    for spec in (program.input_spec for program in entry.programs if program.input_spec.alike(flat, tree)):
        for index, value in enumerate(flat):
            sizes = list(zip(spec.shape(index), getattr(value, "shape", ()), strict=False))
            axes = {axis for axis, (known, now) in enumerate(sizes) if known != now and 1 not in (known, now)}
            changing.setdefault(index, set()).update(axes)
    return changing


def check_sites(owner: Transformed, path: str, found: Collection[str], read: Collection[str]) -> None:
    """Warn of sites of the model's plan that a call of a module runs plain, and of segments that it cuts.

    Args:
        owner: the model.
        path: the module that was called.
        found: keys of the sites in its trace.
        read: names of the parameters in it; a site whose weights are not among them does not run at all, such as
            those of an encoder whose result is given.
    """
    plans = owner._mhc.plans
    if path:
        warn_of_cut(path, found, plans[:1])
    sites = [s for s in plans[0].sites if lies_in(s.module, path)] if plans else []
    owners = {owner for name in read for owner in _around(name)}
    expected = {s.key for s in sites if not s.weights or any(w in read or _owner(w) in owners for w in s.weights)}
    missing = [key for key in expected if key not in found and key.partition("#")[0] not in found]  # called once here
    if missing:
        warnings.warn(
            f"this kind of call of {path or 'the model'} runs {len(missing)} of {len(expected)} residual connections "
            f"plain ({names_text(sorted(missing))}): they were found in the example inputs, and are not in this trace",
            MissingSitesWarning,
            stacklevel=5,
        )


def _around(name: str) -> list[str]:
    """Names of the modules around a parameter, which adapters put deeper into its layer than it was."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _owner(weight: str) -> str:
    return weight.rpartition(".")[0]


def check_parameters(owner: Transformed, plan: Plan) -> None:
    """Every parameter the plan asks for must exist in the right shape: new ones would be unknown to the optimizer."""
    own = owner.hyper_connections.itself
    for key, spec in specs_of(plan, owner._mhc.config).items():
        known = key in own
        shapes = {n: tuple(p.shape) for n, p in own[key].named_parameters()} if known else None
        if shapes != {n: tuple(s) for n, s in spec.shapes.items()}:
            what = "was not there" if not known else f"had parameters of shapes {shapes}, not {dict(spec.shapes)},"
            raise CaptureError(
                f"this call reaches the residual connection {key}, which {what} in the example inputs: "
                "write transform(model, example_inputs=...) with inputs that take this path, "
                f"or leave it out with exclude=['{key}']"
            )


def initial_sites(
    plans: Sequence[Plan], config: Config, model: nn.Module
) -> dict[str, tuple[str, Mapping[str, torch.Tensor]]]:
    """Identifier and initial values of every parameter the plans ask for."""
    first = next(model.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    dtypes = {site.key: site.dtype for plan in plans for site in plan.sites}
    doubles = any(p.dtype == torch.float64 for p in model.parameters())
    sites: dict[str, tuple[str, Mapping[str, torch.Tensor]]] = {}
    for key, spec in all_specs(plans, config).items():
        double = dtypes[key].endswith("float64") if key in dtypes else doubles
        sites[key] = (spec.identifier, spec.initial_values(torch.float64 if double else torch.float32, device))
    return sites
