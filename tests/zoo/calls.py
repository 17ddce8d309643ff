"""What must hold for the calls of one language model: `transform` as it is written first, a training step, `generate`.

New parameters are moved by noise first: with their initial values a model that silently runs plain gives the right
numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

import mhc_compile
from mhc_compile.capture.inputs import resolve_inputs
from mhc_compile.verification.compare import distance
from tests.zoo.build import EXPECTED
from tests.zoo.checks import has_gradient
from tests.zoo.generators import Generator, build_generator
from tests.zoo.result import CheckError, failure_of
from tests.zoo.specs import SEQUENCE
from tests.zoo.ways import counted, ways_of

NOISE = 0.3
LENGTH = 4  # tokens that are generated
BOUND = 1e-4
APART = 1e-3  # outputs are others than the plain model's where they differ by more

Build = Callable[[str], Generator]


@dataclass(frozen=True)
class CallsResult:
    """The outcome for one model.

    Attributes:
        target: key of `EXPECTED`.
        kind: class of the model.
        sites: how many were found, None if `transform` failed.
        ways: kind of call -> `one graph`, `Dynamo` or both.
        notes: what was left out, and why.
        failure: why the model fails, "" if it does not.
        seconds: time it took.
    """

    target: str
    kind: str = ""
    sites: int | None = None
    ways: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    failure: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failure


def check_calls(target: str, build: Build = build_generator) -> CallsResult:
    """Run every check on one model; never raises for what the model or this package does."""
    start = time.perf_counter()
    run = _Run(CallsResult(target))
    try:
        run.all(build(target))
    except Exception as error:
        run.result = replace(run.result, failure=f"{run.doing}: {failure_of(error)}")
    return replace(run.result, seconds=time.perf_counter() - start)


def move(parameters: Iterator[nn.Parameter], seed: int = 0) -> None:
    """Add noise, so that a plain model computes something else."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter += NOISE * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


@dataclass
class _Run:
    """The checks of one model; `result` grows as they pass, `doing` says what is being done."""

    result: CallsResult
    doing: str = "building"

    def all(self, given: Generator) -> None:
        self.result = replace(self.result, kind=type(given.model).__name__)
        self.doing = "transform"
        torch.compiler.reset()
        hyper = mhc_compile.transform(given.model, n=4, **self._examples(given))
        plan = getattr(hyper, "mhc_plan", None)
        self.result = replace(self.result, sites=0 if plan is None else len(plan.sites))
        if not self.result.sites:
            if EXPECTED[self.result.target]["sites"]:
                raise CheckError("no sites")
            self._note("no sites, and none are expected")
            return
        move(hyper.get_submodule("hyper_connections").parameters())
        self._generates(hyper, given)
        self._trains(hyper, given)

    def _examples(self, given: Generator) -> dict[str, Any]:
        """None, unless the model cannot be called with what it declares itself, or declares no images but gets some."""
        declared = resolve_inputs(given.model, None, None)
        if given.generating:
            self._note("generate takes a path that the declared inputs do not, so its own are given")
            return {"example_kwargs": given.generating}
        if declared is not None and "pixel_values" in {*given.inputs} - {*declared.kwargs}:
            self._note("the model declares text alone, so images are given")
        elif declared is not None and not _failure_in_a_mode(given.model, declared.kwargs):
            return {}
        else:
            self._note("the model cannot run on the inputs it declares, so others are given")
        return {"example_kwargs": {**given.inputs, **given.more}}

    def _generates(self, hyper: nn.Module, given: Generator) -> None:
        """With its cache and without, the same; and other than the plain model does."""
        plain = mhc_compile.revert(hyper)
        cached = self._way("cache", lambda: generate(hyper, given.inputs))
        whole = self._way("no cache", lambda: generate(hyper, given.inputs, use_cache=False))
        without = generate(plain, given.inputs)
        apart = distance(without.logits[0], cached.logits[0])
        if apart < APART:
            raise CheckError(f"generate runs plain, its first logits differ by {apart:.0e} only")
        error = _difference(cached, whole)
        if error > BOUND:
            own = _difference(without, generate(plain, given.inputs, use_cache=False))
            if own <= BOUND:
                raise CheckError(f"generate with its cache and without differ by {error:.1e}")
            self._note(f"the plain model's cache changes its own result ({own:.0e})")

    def _trains(self, hyper: nn.Module, given: Generator) -> None:
        """A training step: a finite loss, and gradients in the new parameters."""
        plain = mhc_compile.revert(hyper).train()
        failure = _failure_of_call(plain, {**given.inputs, "labels": given.labels})
        if failure:
            self._note(f"no training: the plain model fails on labels ({failure})")
            return
        plain(**given.inputs, labels=given.labels).loss.backward()
        learning = {name for name, parameter in plain.named_parameters() if has_gradient(parameter)}
        hyper.train().zero_grad()
        loss = self._way("training", lambda: hyper(**given.inputs, labels=given.labels).loss)
        if not loss.isfinite():
            raise CheckError(f"the loss is {loss.item()}")
        loss.backward()
        new = dict(hyper.get_submodule("hyper_connections").named_parameters())
        idle = _in_untrained_layers(hyper, learning)
        self._learn(new, [name for name, p in new.items() if not has_gradient(p) and id(p) not in idle])

    def _learn(self, new: Mapping[str, nn.Parameter], silent: Sequence[str]) -> None:
        known, text = EXPECTED.get(self.result.target, {}), f"{len(silent)} of {len(new)} have no gradient: "
        text += ", ".join(silent[:3])
        if len(silent) != known.get("silent_in_training", 0):
            raise CheckError(text)
        if silent:
            self._note(f"{text}, as the model has it: {known['notes']}")

    def _way(self, name: str, call: Callable[[], Any]) -> Any:
        self.doing = name
        with counted() as counts:
            value = call()
        self.result = replace(self.result, ways={**self.result.ways, name: ways_of(counts)})
        return value

    def _note(self, text: str) -> None:
        self.result = replace(self.result, notes=(*self.result.notes, text))


def generate(model: Any, inputs: Mapping[str, Any], **options: Any) -> Any:
    """Tokens and logits of greedy generation."""
    length = {"max_new_tokens": LENGTH, "min_new_tokens": LENGTH}
    if set(inputs) <= {"input_ids", "attention_mask"}:  # room for new ones where positions are few
        inputs = {name: value[:, :SEQUENCE] for name, value in inputs.items()}
    with torch.no_grad():
        return model.generate(
            **inputs, **length, do_sample=False, output_logits=True, return_dict_in_generate=True, **options
        )


def _failure_in_a_mode(model: nn.Module, kwargs: Mapping[str, Any]) -> str:
    """The same in either mode: some models ask for other lengths in training."""
    try:
        return _failure_of_call(model.train(), kwargs) or _failure_of_call(model.eval(), kwargs)
    finally:
        model.eval()


def _failure_of_call(model: nn.Module, kwargs: Mapping[str, Any]) -> str:
    """The error that a plain model raises on these inputs, "" if none."""
    try:
        with torch.no_grad():
            model(**kwargs)
    except Exception as error:
        return type(error).__name__
    return ""


def _in_untrained_layers(hyper: Any, learning: Collection[str]) -> set[int]:
    """New parameters of layers whose own weights get no gradient: the loss depends on neither.

    It must not in the plain model either, where `learning` names the weights with a gradient.
    """
    weights = dict(hyper.named_parameters())
    idle = [s for s in hyper.mhc_plan.sites if s.weights and not any(has_gradient(weights[n]) for n in s.weights)]
    lost = [site.key for site in idle if any(name in learning for name in site.weights)]
    if lost:
        raise CheckError(f"layers learn in the plain model, and not here: {', '.join(lost[:3])}")
    new = hyper.get_submodule("hyper_connections")
    return {id(p) for site in idle if site.key in new for p in new[site.key].parameters()}


def _difference(one: Any, other: Any) -> float:
    """Between two generations; infinite where tokens differ."""
    if not torch.equal(one.sequences, other.sequences):
        return float("inf")
    return distance(one.logits, other.logits)
