"""Which module holds the new parameters of a module that is compiled: itself, a part of it, or one it is a part of.

A model may be compiled whole, in parts, and inside a wrapper, one after the other and by different backends; its new
parameters are made once.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

from torch import nn

from mhc_compile.dynamo.frame import compiled_module
from mhc_compile.dynamo.graph_form import OpenGraph
from mhc_compile.dynamo.new_parameters import connections_of
from mhc_compile.errors import OtherParametersError, SecondModelError
from mhc_compile.passes.plan.data import Plan
from mhc_compile.programs.ownership import Served
from mhc_compile.twin.find_objects import alive
from mhc_compile.twin.hyper_connections import CHILD
from mhc_compile.wording import names_text


def owner_of(module: nn.Module) -> nn.Module:
    """The module that holds the new parameters of `module`; itself if there are none yet.

    Raises:
        OtherParametersError: several could be meant.
    """
    if isinstance(module, Served) or connections_of(module) is not None:
        return module
    found = [part for part in module.modules() if part is not module and _owns(part)] or _wholes(module)
    if len(found) > 1:
        names = names_text([_path(module, one) or type(one).__name__ for one in found])
        raise OtherParametersError(
            f"{len(found)} modules in or around this {type(module).__name__} have {CHILD} of their own ({names}): "
            f"compile each of them alone, or write del module.{CHILD} for each and backend.attach(model, "
            "example_inputs) with the outermost model"
        )
    return found[0] if found else module


def check_owner(model: nn.Module, opened: OpenGraph, plan: Plan) -> None:
    """Refuse a graph with sites whose weights are not those of `model`, which holds the new parameters.

    Raises:
        SecondModelError: it is of another model: Dynamo has one graph for all models of a class.
        OtherParametersError: some sites lie around the model, in the one that is compiled.
    """
    outside = [site for site in plan.sites if site.weights and set(site.weights) <= set(opened.foreign)]
    if not outside:
        return
    weight = min(outside[0].weights)
    if len(outside) == len(plan.sites):
        raise second_model(model, f"module with the weight {weight}")
    compiled = compiled_module()
    if compiled is not None and compiled is not model and model in set(compiled.modules()):
        path = _path(compiled, model)
        raise OtherParametersError(
            f"{weight} lies outside of the {type(model).__name__} that holds {CHILD}, {path} of this model: write del "
            f"model.get_submodule({path!r}).{CHILD} and then backend.attach(model, example_inputs), model being the "
            f"{type(compiled).__name__}" + (f", or exclude={outside[0].key!r}" if len(outside) == 1 else "")
        )


def check_parts(model: nn.Module) -> None:
    """Refuse a model that holds parameters for sites of a part that `transform` rewrote after they had been created.

    Raises:
        OtherParametersError: nothing would use them any more, and trained values would be lost.
    """
    child = connections_of(model)
    for name, part in model.named_modules() if child is not None else ():
        if isinstance(part, Served) and part is not model:
            # By weights: a part that has one site alone calls it by another name than the whole does.
            owned = child.weights.items() if child is not None else ()
            twice = [key for key, weights in owned if weights and all(w.startswith(f"{name}.") for w in weights)]
            if twice:
                raise OtherParametersError(
                    f"{name} was made by mhc_compile.transform, and the {CHILD} of this {type(model).__name__} hold "
                    f"its sites already ({names_text(twice)}): put mhc_compile.revert(...) of it in its place to go on "
                    f"with those, or write del model.{CHILD} to start anew with those of {name}"
                )


def second_model(known: nn.Module, other: str) -> SecondModelError:
    """The error that says what to write."""
    return SecondModelError(
        f"this backend already serves a {type(known).__name__} and was given a {other}: "
        "write one mhc_compile.backend(...) for each model. For parts of one model, such as blocks compiled alone, "
        "write backend.attach(model, example_inputs) with the whole before the first call"
    )


def _path(whole: nn.Module, part: nn.Module) -> str:
    """Where a module is in another, "" if it is not."""
    return next((name for name, module in whole.named_modules() if module is part), "")


def _wholes(module: nn.Module) -> Sequence[nn.Module]:
    """The modules with new parameters that `module` is a part of.

    No module knows what it is a part of, so the garbage collector is asked for all objects: a fraction of a second, and
    only where new parameters are to be made.
    """
    for thorough in (False, True):  # what is found the first time may be garbage
        if thorough:
            gc.collect()
        wholes = [m for m in alive(nn.Module) if "_modules" in vars(m) and _owns(m) and module in set(m.modules())]
        if not wholes:
            break
    return wholes


def _owns(module: nn.Module) -> bool:
    return not isinstance(module, Served) and connections_of(module) is not None
