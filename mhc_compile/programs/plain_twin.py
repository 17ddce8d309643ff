"""Back to a plain model: for tracing its original code, and for `revert`."""

from __future__ import annotations

from typing import Any

from torch import nn

from mhc_compile.errors import NotTransformedError
from mhc_compile.programs.ownership import Served
from mhc_compile.twin.hosts import without_method_doors
from mhc_compile.twin.hyper_connections import CHILD
from mhc_compile.twin.looks import for_plain, put_forward_back
from mhc_compile.twin.module_tree import Look, original_class, second_tree, shallow
from mhc_compile.twin.offload import call_plain, computes_as_its_class, without_hook


def disown(model: nn.Module, look: Look = for_plain) -> nn.Module:
    """A plain object of the original class over the same parameters.

    Args:
        model: the transformed model.
        look: how its submodules are copied.

    Raises:
        NotTransformedError: `model` was not made by `transform`.
    """
    if not isinstance(model, Served):
        raise NotTransformedError(
            f"{type(model).__name__} was not made by mhc_compile.transform: pass the model that transform returned"
        )
    state = without_method_doors(shallow(model))
    del state["_mhc"], state["mhc_plan"], state["_modules"][CHILD]
    kind = original_class(model)
    if look is for_plain and computes_as_its_class(model):
        call_plain(model, state, kind)
    else:
        without_hook(model, state)
        state.pop("forward", None)  # of the twin, such as one under autocast by accelerate, which would call the twin
    put_forward_back(state)
    plain: nn.Module = object.__new__(kind)
    vars(plain).update(state)
    second_tree(model, plain, look)
    rebind_hooks(plain)
    return plain


def rebind_hooks(twin: nn.Module) -> None:
    """Hooks on loading get the twin, or the module of it that has them, as their module.

    They know the original weakly, and would fail once it is gone, loading and copying alike.
    """
    for module in twin.modules():
        hooks: dict[int, Any] = module._load_state_dict_pre_hooks
        for key, hook in hooks.items():
            if getattr(hook, "with_module", False):
                hooks[key] = type(hook)(hook.hook, module)
