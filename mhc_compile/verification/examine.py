"""The checks on one transformed model, in every mode that was traced."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from mhc_compile._torch_compat import tree_flatten
from mhc_compile.capture.inputs import Inputs
from mhc_compile.config import Config
from mhc_compile.errors import NothingToTransformError, VerificationError
from mhc_compile.model.making import Made, Trace
from mhc_compile.model.preserved import why_not_preserving
from mhc_compile.programs.ownership import Served
from mhc_compile.verification.calls import Call, copied
from mhc_compile.verification.compare import allowed, distance
from mhc_compile.verification.culprit import culprit
from mhc_compile.verification.formulas import formulas_of

_NOISE = 0.05  # how far new parameters are moved: enough to show, not so much that depth makes rounding large

START = "starts as the model"
FORMULAS = "trained, follows the formulas of its plan"
MODES = "trained, the same in both modes"
"""The claims. Noise on the new parameters stands for training."""


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        mode: "train" or "eval", "" for both.
        what: the claim.
        distance: largest difference over the root mean square of its tensor; None where it was not made.
        allowed: what rounding explains.
        note: why it was not made, or who is to blame.
    """

    mode: str
    what: str
    distance: float | None
    allowed: float
    note: str = ""

    @property
    def failed(self) -> bool:
        """Whether the claim is wrong; NaN is."""
        return self.distance is not None and not self.distance <= self.allowed


@dataclass(frozen=True)
class Verification:
    """Every check on a transformed model.

    Attributes:
        model: name of its class.
        sites: how many residual connections were rewritten.
        checks: in each mode, and of both.
    """

    model: str
    sites: int
    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if check.failed)

    def to_json(self, indent: int | None = 2) -> str:
        """The checks as JSON, with `failed` for each."""
        checks = [{**asdict(check), "failed": check.failed} for check in self.checks]
        return json.dumps({"model": self.model, "sites": self.sites, "checks": checks}, indent=indent)


def check_values(model: nn.Module, inputs: Inputs | None) -> None:
    """Refuse what cannot be run.

    Raises:
        VerificationError: there are no inputs, or a tensor has no values.
    """
    flat, _ = tree_flatten(None if inputs is None else (inputs.args, inputs.kwargs))
    tensors = [*model.parameters(), *model.buffers(), *(value for value in flat if isinstance(value, torch.Tensor))]
    if inputs is None or any(tensor.is_meta for tensor in tensors):
        missing = "example inputs" if inputs is None else "values: some tensors are on the meta device"
        raise VerificationError(f"{type(model).__name__} has no {missing}, so it cannot be run: write verify=False")


def verification_of(original: nn.Module, made: Made) -> Verification:
    """Run copies of a model and of what it was transformed into; neither is changed.

    Raises:
        NothingToTransformError: nothing was rewritten.
        VerificationError: one of them cannot be copied.
    """
    name = type(original).__name__
    if made.owner is None or made.inputs is None:
        raise NothingToTransformError(f"{name} has no residual connection that can be rewritten: nothing to verify")
    subject = _Subject(original, made.owner, made.inputs, made.config)
    first: dict[str, Trace] = {}
    for trace in made.traces:
        first.setdefault(trace.mode, trace)
    checks = [check for trace in first.values() for check in subject.checks(trace)]
    sites = {site.key for plan in made.plans for site in plan.sites}
    return Verification(name, len(sites), (*checks, *subject.both_modes(first)))


def raise_failures(found: Verification) -> None:
    """Make an error of the first check that does not hold.

    Raises:
        VerificationError: there is one, or nothing could be compared.
    """
    if all(check.distance is None for check in found.checks):
        notes = "; ".join(dict.fromkeys(check.note for check in found.checks))
        raise VerificationError(f"nothing of {found.model} could be compared ({notes}): write verify=False")
    for check in found.failures:
        mode = f" in {check.mode} mode" if check.mode else ""
        blame = f" ({check.note})" if check.note else ""
        raise VerificationError(
            f"the transformed {found.model} computes something else{mode}: {check.what!r} is not true, the "
            f"difference is {check.distance:.1e} and {check.allowed:.0e} allowed{blame}"
        )


@dataclass(frozen=True)
class _Subject:
    original: nn.Module
    result: Served
    inputs: Inputs
    config: Config

    def checks(self, trace: Trace) -> Iterator[Check]:
        """Those of one mode."""
        call = Call(self.inputs, trace.mode, trace.training)
        plain = call.of(copied(self.original))
        limit = allowed(plain)
        if not self._repeats(call, plain, limit):
            yield Check(trace.mode, START, None, limit, "the model itself returns something else at each call")
            return
        yield self._start(call, trace, plain, limit)
        yield self._formulas(call, trace, limit)

    def both_modes(self, traces: Mapping[str, Trace]) -> Iterator[Check]:
        """Whether train and eval mode agree, where they do in the plain model: without dropout and the like."""
        if len(traces) < 2:
            return
        calls = [Call(self.inputs, trace.mode, trace.training) for trace in traces.values()]
        plain = [call.of(copied(self.original)) for call in calls]
        limit = allowed(plain)
        if not distance(*plain) <= limit:
            yield Check("", MODES, None, limit, "they differ in the plain model too")
            return
        yield Check("", MODES, distance(*(call.of(self._moved()) for call in calls)), limit)

    def _repeats(self, call: Call, plain: Any, limit: float) -> bool:
        return distance(plain, call.of(copied(self.original))) <= limit

    def _start(self, call: Call, trace: Trace, plain: Any, limit: float) -> Check:
        why = why_not_preserving(self.result)
        if why is not None:
            return Check(trace.mode, START, None, limit, f"it is not meant to: {why}")
        found = distance(plain, call.of(copied(self.result)))
        check = Check(trace.mode, START, found, limit)
        return replace(check, note=self._blame(call, trace, self.result)) if check.failed else check

    def _formulas(self, call: Call, trace: Trace, limit: float) -> Check:
        if trace.gm is None:
            return Check(trace.mode, FORMULAS, None, limit, "the call is no one graph: Dynamo serves it in several")
        moved = self._moved()
        expected = call.of_graph(formulas_of(copied(trace.gm), trace.plan, self.config, moved.hyper_connections.itself))
        found, _ = tree_flatten(call.of(moved))
        check = Check(trace.mode, FORMULAS, distance(expected, found), limit)
        return replace(check, note=self._blame(call, trace, self._moved())) if check.failed else check

    def _blame(self, call: Call, trace: Trace, result: Served) -> str:
        if trace.gm is None:
            return "the call is no one graph: mhc_compile.explain shows the graphs"
        return culprit(call, self.original, trace.gm, trace.plan, self.config, result.hyper_connections.itself)

    def _moved(self) -> Served:
        """A copy of the result in which noise stands for training."""
        moved = copied(self.result)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in moved.hyper_connections.itself.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(_NOISE * noise.to(parameter.device))
        return moved
