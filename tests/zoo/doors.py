"""What must hold for modules of one model that are called from outside: they compute what they do inside the model.

A module that holds whole segments is put into the plain model, whose code then calls it from outside, on the inputs it
has there. The result must be that of the transformed model, with only the sites in this module moved by noise, and
other than that of the plain model. In double precision, where a model can compute in it; each call draws the same
random numbers.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import DetachedModuleWarning, NothingToTransformWarning, StreamsCutWarning
from mhc_compile.twin.hosts import Hosted
from mhc_compile.twin.names import lies_in, named_modules
from mhc_compile.verification.compare import distance, floats
from tests.zoo.build import build as build_zoo
from tests.zoo.calls import APART, move
from tests.zoo.checks import Build, site_count
from tests.zoo.compare import cast
from tests.zoo.result import CheckError, failure_of
from tests.zoo.ways import counted, ways_of

BOUND = 1e-3  # also in single precision, behind noise
LEAST = 1e-12  # that the noise must change a result by, above the rounding of double precision
SHARE = 0.1  # of that may get lost: a module that runs plain loses all
MOST = 3  # modules of one model: one for each class and number of sites


@dataclass(frozen=True)
class DoorsResult:
    """The outcome for one model.

    Attributes:
        target: key of `EXPECTED`.
        ways: module that was called from outside -> `one graph` or `Dynamo`.
        notes: what was left out, and why.
        failure: why the model fails, "" if it does not.
        seconds: time it took.
    """

    target: str
    ways: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    failure: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failure


def check_doors(target: str, build: Build = build_zoo) -> DoorsResult:
    """Run every check on one model; never raises for what the model or this package does."""
    start = time.perf_counter()
    run = _Run(DoorsResult(target))
    try:
        run.all(*build(target))
    except Exception as error:
        run.result = replace(run.result, failure=f"{run.doing}: {failure_of(error)}")
    return replace(run.result, seconds=time.perf_counter() - start)


def whole_doors(hyper: Any) -> list[str]:
    """Modules that hold whole segments and no part of others: outer ones first, one of each class and size."""
    chosen: dict[tuple[Any, int], str] = {}
    for path, module in named_modules(hyper):
        if not path or not isinstance(module, Hosted):
            continue
        inside = {site.key for site in hyper.mhc_plan.sites if lies_in(site.module, path)}
        cut = any(0 < len(inside.intersection(s.sites)) < len(s.sites) for s in hyper.mhc_plan.segments)
        if inside and not cut:
            chosen.setdefault((type(module), len(inside)), path)
    return list(chosen.values())[:MOST]


@dataclass
class _Run:
    """The checks of one model; `result` grows as they pass, `doing` says what is being done."""

    result: DoorsResult
    doing: str = "transform"

    def all(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        torch.compiler.reset()
        _wake(model)
        args, kwargs = _in_double(model, args, kwargs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NothingToTransformWarning)
            hyper = mhc_compile.transform(model, n=4, example_inputs=args, example_kwargs=kwargs, modes=("eval",))
        if not site_count(hyper):
            self._note("no sites")
            return
        initial = {name: value.clone() for name, value in hyper.get_submodule("hyper_connections").named_parameters()}
        with torch.no_grad():
            plain = _seeded(lambda: model(*args, **kwargs))
            for path in whole_doors(hyper):
                self._door(hyper, path, plain, args, kwargs)
                _put_back(hyper, initial)
            self._features(hyper, plain, args)

    def _door(self, hyper: Any, path: str, plain: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.doing = path
        move(parameters_inside(hyper, path))
        inside = _seeded(lambda: hyper(*args, **kwargs))
        outer = mhc_compile.revert(hyper)
        outer.set_submodule(path, hyper.get_submodule(path))
        self._called(hyper, lambda: outer(*args, **kwargs), inside, plain)

    def _features(self, hyper: Any, plain: Any, args: tuple[Any, ...]) -> None:
        """What timm's models do in `forward`, by their own methods."""
        if not (hasattr(hyper, "forward_features") and hasattr(hyper, "forward_head")):
            return
        self.doing = "forward_features"
        move(parameters_inside(hyper, ""))
        inside = _seeded(lambda: hyper(*args))
        self._called(hyper, lambda: hyper.forward_head(hyper.forward_features(*args)), inside, plain)

    def _called(self, hyper: Any, call: Callable[[], Any], inside: Any, plain: Any) -> None:
        """Compare what `call` gives, unless code around the modules calls parts of a segment, and is told so."""
        for path in [path for path in hyper._mhc.entries if path]:
            del hyper._mhc.entries[path]  # warnings are given while tracing
        with counted() as counts, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", StreamsCutWarning)
            warnings.simplefilter("error", DetachedModuleWarning)
            outside = _seeded(call)
        self.result = replace(self.result, ways={**self.result.ways, self.doing: ways_of(counts)})
        if any(issubclass(warning.category, StreamsCutWarning) for warning in caught):
            self._note(f"{self.doing}: a part of a segment is called alone, which is said to cut it")
        else:
            self._compare(inside, outside, plain)

    def _compare(self, inside: Any, outside: Any, plain: Any) -> None:
        apart, error = distance(plain, inside), distance(inside, outside)
        if apart < LEAST:
            raise CheckError(f"the noise changes the result by {apart:.0e} only")
        if not error <= min(BOUND, SHARE * apart):
            raise CheckError(f"called from outside, the result differs by {error:.1e} (plain: {apart:.1e})")

    def _note(self, text: str) -> None:
        self.result = replace(self.result, notes=(*self.result.notes, text))


def _wake(model: nn.Module) -> None:
    """Give weights to layers that start small or at zero, behind which noise would not be seen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point() and parameter.numel() and parameter.abs().max() < APART:
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
                elif not name.endswith("bias"):
                    parameter.fill_(0.5)


def _in_double(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs, and the model, in double precision; as they are where it cannot compute in it."""
    given = cast(args, torch.float64), cast(kwargs, torch.float64)
    try:
        with torch.no_grad():
            result = model.double()(*given[0], **given[1])
        if all(value.isfinite().all() for value in floats(result)):
            return given
    except Exception:  # whatever a model makes of it
        pass
    model.float()
    return args, kwargs


def _seeded(call: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    return call()


def parameters_inside(hyper: Any, path: str) -> Iterator[nn.Parameter]:
    """New parameters of the sites in a module."""
    for site in hyper.mhc_plan.sites:
        if lies_in(site.module, path) and site.key in hyper.hyper_connections:
            yield from hyper.hyper_connections[site.key].parameters()


def _put_back(hyper: nn.Module, initial: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in hyper.get_submodule("hyper_connections").named_parameters():
        parameter.copy_(initial[name])
