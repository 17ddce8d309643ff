"""A C++ kernel of ours as a node of Inductor: its source in the generated program, its call on planned buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from mhc_compile import _torch_compat as compat
from mhc_compile.kernels.cpu.kernel import CppKernel
from mhc_compile.kernels.schedules.schedule import Launch


def cpp_call(launch: Launch, tensors: Mapping[str, Any], written: Sequence[str]) -> None:
    """Add a call of `launch.kernel` to the graph that is being lowered.

    Args:
        launch: its kernel is a `CppKernel`.
        tensors: realized, contiguous values by parameter name.
        written: those of them that the kernel writes, whole.
    """
    _node_class()(launch, tensors, written)


@cache
def _node_class() -> Any:
    """The class, made when Inductor is first needed: importing this package must not import Inductor."""
    ir, V = compat.ir, compat.virtualized.V

    class CppCall(ir.ExternKernel):  # type: ignore[misc, name-defined]
        """Writes buffers that exist already, as `ir.UserDefinedTritonKernel` does."""

        def __init__(self, launch: Launch, tensors: Mapping[str, Any], written: Sequence[str]) -> None:
            values = [self.unwrap_storage_for_input(self.realize_input(value)) for value in tensors.values()]
            self.device = values[0].get_device()
            super().__init__(None, ir.NoneLayout(device=self.device), values, tuple(launch.sizes.values()))
            self.kernel: CppKernel = launch.kernel
            self.mutation_outputs = [
                ir.MutationOutput(ir.NoneLayout(device=self.device), tensors[name], self) for name in written
            ]
            V.graph.register_operation(self)

        def codegen(self, wrapper: Any) -> None:
            arguments = [value.codegen_reference() for value in self.inputs]
            arguments += [wrapper.codegen_sizevar(size) for size in self.constant_args]
            types = [ctype for _, ctype in self.kernel.parameters]
            name = _define(wrapper, self.kernel, types)
            wrapper.generate_kernel_call(name, arguments, triton=False, device=self.device, arg_types=types)

        def get_outputs(self) -> list[Any]:
            return list(self.mutation_outputs)

        def get_device(self) -> Any:
            return self.device

        def should_allocate(self) -> bool:
            return False

        def get_unbacked_symbol_defs(self) -> Any:
            return type(super().get_unbacked_symbol_defs())()

    return CppCall


def _define(wrapper: Any, kernel: CppKernel, types: list[str]) -> str:
    """The name of the kernel in the program; its source is put there once."""
    known: dict[str, str] = wrapper.src_to_kernel
    if kernel.source not in known:
        name = known[kernel.source] = f"{kernel.name}_{wrapper.next_kernel_suffix()}"
        if compat.virtualized.V.graph.cpp_wrapper:
            definition = kernel.declaration(name)
            wrapper.define_kernel(name, kernel.source_named(name), gpu=False, cpp_definition=definition)
        else:
            body = f"async_compile.cpp_pybinding({types!r}, r'''\n{kernel.source}''')"
            wrapper.define_kernel(name, body, gpu=False)
    return known[kernel.source]
