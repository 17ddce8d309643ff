"""Whether a trace has the sites and the parameters of its model: what it lacks is said, never kept silent."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Sequence

from torch import nn

from mhc_compile._torch_compat import FORMER_PARAMETERS
from mhc_compile.errors import CaptureError, DetachedModuleWarning, MissingSitesWarning, StreamsCutWarning
from mhc_compile.passes.plan.apart import joined
from mhc_compile.passes.plan.data import Plan, Site
from mhc_compile.passes.plan.keys import common_path, module_of
from mhc_compile.programs.specs import specs_of
from mhc_compile.twin.hosts import Hosted
from mhc_compile.twin.names import lies_in, named_modules
from mhc_compile.twin.owned import Owner
from mhc_compile.wording import names_text

BROKEN_BRANCH = "one operand comes from outside of this graph; if the other is its branch, a graph break lies inside it"
"""What a rejection says where a graph does not hold the whole call."""

_NO_FORWARD = nn.Module.forward
"""That of containers, which nobody calls."""


def check_sites(
    owner: Owner, path: str, found: Collection[str], read: Collection[str], called: str | None = None
) -> None:
    """Warn of sites of the model's plan that a call of a module runs plain, and of segments that it cuts.

    Args:
        owner: the model.
        path: the module that was called.
        found: keys of the sites in its trace.
        read: names of the parameters in it; a site whose weights are not among them does not run at all, such as
            those of an encoder whose result is given.
        called: what was called, if it is another method than its forward.
    """
    plans, called = owner._mhc.plans, path if called is None else called
    if called:
        warn_of_cut(called, found, plans[:1])
    sites = [s for s in plans[0].sites if lies_in(s.module, path)] if plans else []
    owners = {owner for name in read for owner in _around(name)}
    expected = {s.key for s in sites if not s.weights or any(w in read or _owner(w) in owners for w in s.weights)}
    missing = [key for key in expected if key not in found and key.partition("#")[0] not in found]  # called once here
    if missing:
        warnings.warn(
            f"this kind of call of {called or 'the model'} runs {len(missing)} of {len(expected)} residual connections "
            f"plain ({names_text(sorted(missing))}): they were found in the example inputs, and are not in this trace",
            MissingSitesWarning,
            stacklevel=5,
        )


def warn_of_foreign(owner: Owner, plan: Plan) -> None:
    """Say which modules around sites are no doors: they took the places of others, or their class takes no base."""
    foreign = _foreign(owner, plan)
    if foreign:
        warnings.warn(
            f"{names_text(foreign)} run with hyper-connections inside the model, and without when they are called "
            "alone: transform has not seen them in their places, or cannot extend their classes, such as GraphModule. "
            "Call the model around, or write mhc_compile.transform(mhc_compile.revert(model), ...)",
            DetachedModuleWarning,
            stacklevel=5,
        )


def _foreign(owner: Owner, plan: Plan) -> list[str]:
    """Names of modules around sites that are not those which `transform` has seen."""
    modules, places = dict(named_modules(owner)), set(map(_place_of, plan.sites))
    around = sorted({path for place in places for path in (*_around(place), place)} & set(modules) - {""})
    return [p for p in around if not isinstance(modules[p], Hosted) and type(modules[p]).forward is not _NO_FORWARD]


def _place_of(site: Site) -> str:
    """The module that computes a sum; for code that Dynamo ascribes to none, that around the layers of the branch."""
    return site.module or common_path(map(module_of, site.weights)).rpartition(".")[0]


def _around(name: str) -> list[str]:
    """Names of the modules around a parameter, which adapters put deeper into its layer than it was."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _owner(weight: str) -> str:
    return weight.rpartition(".")[0]


def warn_of_cut(path: str, found: Collection[str], plans: Iterable[Plan]) -> None:
    """Say that a module is called alone whose sites, by their keys, belong to longer segments."""
    for segment in (segment for plan in plans for segment in plan.segments):
        inside = [key for key in segment.sites if key in found]
        if inside and len(inside) < len(segment.sites):
            warnings.warn(
                f"{path} is called by itself and holds {len(inside)} of the {len(segment.sites)} sites of a segment: "
                "its streams begin and end at its border, so that nothing is carried to the next module. Call the "
                "module around it, or the model, instead of a loop over blocks",
                StreamsCutWarning,
                stacklevel=6,
            )
            return


def warn_of_joined(plan: Plan, before: Sequence[Plan]) -> None:
    """Say that a trace from before has streams between sites that this one, of another mode, keeps apart."""
    if any(joined(other, [plan]) for other in before):
        warnings.warn(
            "streams end in this mode between sites where they go on in another one, which was traced before: what is "
            "evaluated is not what was trained. Let both be seen first: write transform(..., modes=('train', 'eval')), "
            "or behind a backend call backend.attach(model, inputs)",
            StreamsCutWarning,
            stacklevel=5,
        )


def stay_plain(owner: Owner, plan: Plan) -> list[str]:
    """Keys of the sites without parameters whose sums the example inputs had, with a graph break inside the branch.

    A branch breaks the graph of one kind of call only, such as a function with a derivative of its own where gradients
    are recorded. The sum then is the same in all calls: as in the plan that the user has seen. Of code behind a break
    the module may not be known, and one graph serves all layers that are alike.
    """
    new = [site for site in plan.sites if site.key not in owner.hyper_connections.itself]
    if not new:
        return []
    rejected = (r for known in owner._mhc.plans for r in known.rejected)
    broken = {(_alike(r.module), r.location) for r in rejected if r.detail == BROKEN_BRANCH}
    return [site.key for site in new if broken & {(_alike(site.module), site.location), ("", site.location)}]


def _alike(path: str) -> str:
    """The path of a module in a numbered layer, whichever layer that is."""
    return re.sub(r"\d+", "#", path)


def check_parameters(owner: Owner, plan: Plan) -> None:
    """Every parameter the plan asks for must exist in the right shape: new ones would be unknown to the optimizer."""
    own = owner.hyper_connections.itself
    for key, spec in specs_of(plan, owner._mhc.config).items():
        known = key in own
        tensors = (dict(own[key].named_parameters()) or vars(own[key]).get(FORMER_PARAMETERS, {})) if known else {}
        shapes = {n: tuple(p.shape) for n, p in tensors.items()} if known else None
        if shapes != {n: tuple(s) for n, s in spec.shapes.items()}:
            what = "was not there" if not known else f"had parameters of shapes {shapes}, not {dict(spec.shapes)},"
            raise CaptureError(
                f"this call reaches the residual connection {key}, which {what} in the example inputs: "
                f"{_what_to_write(owner, plan, key)}"
            )


def _what_to_write(owner: Owner, plan: Plan, key: str) -> str:
    foreign = _foreign(owner, plan)
    if foreign:
        return (
            f"{names_text(foreign)} came into the model after transform. Write plain = mhc_compile.revert(model), "
            "change that one, and transform it again"
        )
    return (
        "write transform(model, example_inputs=...) with inputs that take this path, "
        f"or leave it out with exclude=['{key}']"
    )
