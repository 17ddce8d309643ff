"""Every private PyTorch interface this package uses, in one table.

`_torch_compat.tree_flatten` imports the interface on first use, so that importing this package does not import Dynamo,
and raises an `UnsupportedTorchError` that names the missing interface and the installed version.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mhc_compile.errors import UnsupportedTorchError

TESTED_VERSIONS = "2.13 and 2.14"

NAMES: dict[str, str] = {
    # dialects
    "OpOverload": "torch._ops:OpOverload",
    "dispatch_modes": "torch._C:_len_torch_dispatch_stack",
    "functorch_active": "torch._C:_are_functorch_transforms_active",
    "functorch_left": "torch._functorch.pyfunctorch:temporarily_clear_interpreter_stack",
    "is_functorch_wrapped": "torch._C._functorch:is_functorch_wrapped_tensor",
    "forward_ad": "torch.autograd:forward_ad",
    # capture
    "dynamo_config": "torch._dynamo:config",
    "dynamo_graph_capture": "torch._dynamo.functional_export:_dynamo_graph_capture_for_export",
    "functional_export": "torch._dynamo:functional_export",
    "OutputGraph": "torch._dynamo.output_graph:OutputGraph",
    "fullgraph_capture": "torch._dynamo.convert_frame:fullgraph_capture",
    "restore_state_dict": "torch.export._trace:_restore_state_dict",
    "maybe_mark_dynamic": "torch._dynamo:maybe_mark_dynamic",
    "TorchDynamoException": "torch._dynamo.exc:TorchDynamoException",
    "TorchRuntimeError": "torch._dynamo.exc:TorchRuntimeError",
    "Unsupported": "torch._dynamo.exc:Unsupported",
    "UserError": "torch._dynamo.exc:UserError",
    "FakeTensor": "torch._subclasses.fake_tensor:FakeTensor",
    "FakeTensorMode": "torch._subclasses.fake_tensor:FakeTensorMode",
    "FakeTensorProp": "torch.fx.passes.fake_tensor_prop:FakeTensorProp",
    "set_grad_enabled": "torch._C:_set_grad_enabled",
    "decomposition_table": "torch._decomp:decomposition_table",
    "fast_op_impls": "torch._subclasses.fake_impls:get_fast_op_impls",
    "in_kernel_invocation": "torch._subclasses.fake_tensor:in_kernel_invocation_manager",
    "no_python_dispatcher": "torch._dispatch.python:no_python_dispatcher",
    "op_implementations": "torch._subclasses.fake_impls:op_implementations_dict",
    "TensorGuards": "torch._C._dynamo.guards:TensorGuards",
    # backend
    "GlobalStateSource": "torch._dynamo.source:GlobalStateSource",
    "DistributedDataParallel": "torch.nn.parallel.distributed:DistributedDataParallel",
    "get_eval_frame_callback": "torch._C._dynamo.eval_frame:get_eval_frame_callback",
    "set_eval_frame": "torch._C._dynamo.eval_frame:set_eval_frame",
    "InvalidBackend": "torch._dynamo.exc:InvalidBackend",
    "InstructionTranslator": "torch._dynamo.symbolic_convert:InstructionTranslator",
    "TensorVariable": "torch._dynamo.variables.tensor:TensorVariable",
    "NNModuleSource": "torch._dynamo.source:NNModuleSource",
    "TorchCompileInductorWrapper": "torch:_TorchCompileInductorWrapper",
    "TracingContext": "torch._guards:TracingContext",
    "lookup_backend": "torch._dynamo.backends.registry:lookup_backend",
    "remove_from_cache": "torch._dynamo.eval_frame:remove_from_cache",
    "tag_activation_checkpoint": "torch._higher_order_ops.wrap:tag_activation_checkpoint",
    # gradients
    "current_graph_task_id": "torch._C:_current_graph_task_id",
    "will_engine_execute_node": "torch._C:_will_engine_execute_node",
    "TorchDispatchMode": "torch.utils._python_dispatch:TorchDispatchMode",
    # lowering
    "CustomGraphPass": "torch._inductor.custom_graph_pass:CustomGraphPass",
    "FloorDiv": "torch.utils._sympy.functions:FloorDiv",
    "fallback_handler": "torch._inductor.lowering:fallback_handler",
    "inductor_config": "torch._inductor:config",
    "ir": "torch._inductor:ir",
    "kernel_side_table": "torch._higher_order_ops.triton_kernel_wrap:kernel_side_table",
    "lowerings": "torch._inductor.lowering:lowerings",
    "register_lowering": "torch._inductor.lowering:register_lowering",
    "virtualized": "torch._inductor:virtualized",
    # input specifications
    "TreeSpec": "torch.utils._pytree:TreeSpec",
    "tree_flatten": "torch.utils._pytree:tree_flatten",
    "tree_map": "torch.utils._pytree:tree_map",
    "tree_unflatten": "torch.utils._pytree:tree_unflatten",
    "PythonReferenceAnalysis": "torch.utils._sympy.reference:PythonReferenceAnalysis",
    "sympy_interp": "torch.utils._sympy.interp:sympy_interp",
    "PythonPrinter": "torch.utils._sympy.printers:PythonPrinter",
    "RandomVariable": "torch._dynamo.variables.misc:RandomVariable",
}
"""Name in this module -> `module:attribute` in PyTorch."""


def in_forward_ad() -> bool:
    """Whether this runs under forward-mode AD."""
    return bool(sys.modules[__name__].forward_ad._current_level >= 0)


WRAPPED, COMPILED, FORMER_PARAMETERS = "_checkpoint_wrapped_module", "_orig_mod", "_former_parameters"
"""Names under which PyTorch's wrappers for activation checkpointing and `torch.compile` register the module they call,
and what the parameters of a replica of DataParallel become."""


def compiled_apart(function: Callable[..., Any], backend: Any, limit: int) -> Callable[..., Any]:
    """`torch.compile(function)` with a number of recompilations of its own, where PyTorch has that (from 2.14 on)."""
    import torch

    known = inspect.signature(torch.compile).parameters
    options: dict[str, Any] = {"isolate_recompiles": True, "recompile_limit": limit}
    return torch.compile(function, backend=backend, **{k: v for k, v in options.items() if k in known})


def same_tensors(tensors: Sequence[Any]) -> Callable[[Sequence[Any]], bool] | None:
    """A check in C++ whether others have the types, dtypes, devices, shapes and gradient flags of these tensors.

    None for tensors that it cannot look at.
    """
    try:
        sizes, strides = [list(t.shape) for t in tensors], [[None] * t.dim() for t in tensors]
        known = load("TensorGuards")(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
    except (RuntimeError, SystemError, TypeError):  # sizes that are symbols
        return None

    def same(others: Sequence[Any]) -> bool:
        found: bool = known.check(*others)
        return found

    return same


def unwrapped(module: Any) -> Any:
    """The module inside wrappers for activation checkpointing and of `torch.compile`."""
    while True:
        inner = next((module._modules[name] for name in (WRAPPED, COMPILED) if name in module._modules), None)
        if inner is None:
            return module
        module = inner


def without_wrappers(name: str) -> str:
    """The name of a module as it would be without wrappers for activation checkpointing and of `torch.compile`."""
    return ".".join(part for part in name.split(".") if part not in (WRAPPED, COMPILED))


def is_sharded_class(kind: type) -> bool:
    """Whether a class was made by `fully_shard`, which derives one from that of the module."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and len(kind.__mro__) > 2 and kind.__mro__[1] is fsdp.FSDPModule


def is_outermost(prefix: str) -> bool:
    """Whether a module of this name is the one that was asked for, or the one inside wrappers around nothing else."""
    return all(part == WRAPPED for part in prefix.split(".") if part)


def is_cut(parameter: Any) -> bool:
    """Whether a parameter is a part of one, or its value lies on several processes."""
    tensor = sys.modules.get("torch.distributed.tensor")  # there is none before it is imported
    return tensor is not None and isinstance(parameter, tensor.DTensor)


def sharded_dtypes(modules: Iterable[Any]) -> dict[int, Any]:
    """Id of each parameter of `modules` that `fully_shard` manages -> the dtype in which code sees it.

    A parameter has two forms, sharded and gathered, and both are listed.
    """
    dtypes: dict[int, Any] = {}
    for parameter, policy in _managed(modules):
        own = parameter.sharded_param.dtype  # what is seen is decided by the first call, and by the policy before it
        dtype = getattr(parameter, "param_dtype", policy if own.is_floating_point else None) or own
        gathered = getattr(parameter, "_unsharded_param", parameter.sharded_param)
        dtypes.update({id(parameter.sharded_param): dtype, id(gathered): dtype})
    return dtypes


def parallel_meshes(modules: Iterable[Any], around: Iterable[Any] = ()) -> list[Any]:
    """Meshes of tensor and expert parallelism, not of FSDP, which was called on some of the modules or those around."""
    tensor = sys.modules.get("torch.distributed.tensor")  # nothing is distributed before it is imported
    if tensor is None:
        return []
    modules = list(modules)
    gathered = _gathered_meshes([*modules, *around])
    tensors = (t for m in modules for r in (m._parameters, m._buffers) for t in r.values())
    found = (gathered.get(id(t), t.device_mesh) for t in tensors if isinstance(t, tensor.DTensor))
    return list(dict.fromkeys(mesh for mesh in found if mesh is not None))


def _gathered_meshes(modules: Iterable[Any]) -> dict[int, Any]:
    """Id of each parameter that `fully_shard` manages -> the mesh over which it lies once gathered, None for none."""
    meshes: dict[int, Any] = {}
    for parameter in (p for p, _ in _managed(modules)):
        spec = getattr(parameter, "_unsharded_dtensor_spec", None) or getattr(parameter, "_tp_spec", None)
        mesh = spec.mesh if spec is not None else None
        gathered = getattr(parameter, "_unsharded_param", parameter.sharded_param)
        meshes.update({id(parameter.sharded_param): mesh, id(gathered): mesh})
    return meshes


def with_gradients(parameters: Iterable[Any], modules: Iterable[Any]) -> list[tuple[Any, bool]]:
    """The tensors that get gradients: of those that `fully_shard` manages the sharded ones, and whether it does.

    `fully_shard` was called on some of the modules.
    """
    kept = {id(getattr(p, "_unsharded_param", p.sharded_param)): p.sharded_param for p, _ in _managed(modules)}
    kept.update({id(p): p for p in kept.values()})
    return [(kept.get(id(p), p), id(p) in kept) for p in parameters]


def run_by(op: Any, function: Callable[..., Any]) -> None:
    """Have a custom operator run this function itself, which PyTorch would put behind `torch.compiler.disable`."""
    op._backend_fns[None] = function


def has_gradient_hooks(parameter: Any) -> bool:
    """Whether somebody wants to see the gradient of a parameter as soon as it is there."""
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def at_end_of_backward(callback: Callable[[], None]) -> None:
    """Call a function at the end of the backward that runs now, behind all that others have asked for so far."""
    from torch.autograd import Variable

    queue = Variable._execution_engine.queue_callback
    queue(lambda: queue(callback))


def _managed(modules: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """The parameters that `fully_shard` manages, in its own form, with the dtype that its policy asks for."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # nothing is sharded before it is imported
    for module in [m for m in modules if isinstance(m, fsdp.FSDPModule)] if fsdp is not None else ():
        for group in module._get_fsdp_state()._fsdp_param_groups:
            for parameter in group.fsdp_params:
                yield parameter, group.mp_policy.param_dtype


def load(name: str) -> Any:
    """The PyTorch object called `name` in `NAMES`; an `UnsupportedTorchError` if this version does not have it."""
    module, _, attribute = NAMES[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        import torch

        raise UnsupportedTorchError(
            f"torch {torch.__version__} has no {module}.{attribute}, which mhc_compile needs: "
            f"install a version this package was tested with ({TESTED_VERSIONS})"
        ) from error


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = load(name)
    return value
