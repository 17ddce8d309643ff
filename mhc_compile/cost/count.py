"""What one training step of a model computes and moves, counted operator by operator on fake tensors.

Neighbouring operators without matrix products are one kernel each, as a compiler would make of them: a group reads
what comes from outside and writes what is needed outside. Nothing runs, and the model is left as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from mhc_compile import _torch_compat as compat

_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"
_PICKS = frozenset({"embedding", "index", "index_select", "gather"})  # read as much as they return


@dataclass(frozen=True)
class Operation:
    """One ATen call: FLOPs of a matrix product or convolution (0 for others), and storages with the bytes touched."""

    name: str
    flops: int
    reads: Mapping[Any, int]
    writes: Mapping[Any, int]
    backward: bool


@dataclass(frozen=True)
class Kernel:
    """Operations that run as one: FLOPs, and bytes between memory and chip."""

    flops: int
    bytes: int


@dataclass(frozen=True)
class Counted:
    """A training step without its optimizer: its kernels, and the bytes that the forward keeps for the backward."""

    kernels: tuple[Kernel, ...]
    kept: int
    parameter_bytes: int

    @property
    def flops(self) -> int:
        """Of all kernels."""
        return sum(kernel.flops for kernel in self.kernels)

    @property
    def bytes(self) -> int:
        """Of all kernels."""
        return sum(kernel.bytes for kernel in self.kernels)


def count_step(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], dtype: torch.dtype | None = None
) -> Counted:
    """Count forward and backward of one call.

    Args:
        model: on any device; its own code runs on fake tensors of the CPU, with the training flags it has.
        args: positional inputs.
        kwargs: keyword inputs.
        dtype: that floating point parameters and inputs are taken to have; None for their own.

    Raises:
        RuntimeError: what the model's code raises on fake tensors.
    """
    tensors = (*model.parameters(), *model.buffers())
    shell = copy.deepcopy(model, {id(t): t for t in tensors})  # its code may write to attributes
    mode = compat.FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, Tensor] = {}

    def fake(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in made:
            made[id(value)] = _fake(value, dtype)
        return made[id(value)]

    with mode, torch.enable_grad(), torch.random.fork_rng(devices=[]):
        state = {name: fake(t) for name, t in (*shell.named_parameters(), *shell.named_buffers())}
        inputs = compat.tree_map(fake, (tuple(args), dict(kwargs)))
        own = {StorageWeakRef(t.untyped_storage()) for t in state.values()}
        trained = [t for t in state.values() if t.requires_grad]
        return _counted(lambda: torch.func.functional_call(shell, state, *inputs), trained, own)


def _fake(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    kind = dtype if dtype is not None and value.is_floating_point() else value.dtype
    made = torch.empty_strided(value.shape, value.stride(), dtype=kind, device="cpu")
    return made.requires_grad_(value.requires_grad and isinstance(value, nn.Parameter))


def _counted(call: Callable[[], Any], trained: Sequence[Tensor], own: set[Any]) -> Counted:
    kept: dict[Any, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[StorageWeakRef(storage)] = storage.nbytes()
        return tensor

    recorder = _recorder()
    with recorder:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = _tensors(call())
        recorder.backward = True
        grads = _gradients([t for t in outputs if t.is_floating_point() and t.requires_grad], trained)
    results = {StorageWeakRef(t.untyped_storage()) for t in (*outputs, *grads)}
    activations = sum(size for key, size in kept.items() if key not in own)
    parameters = sum(t.nbytes for t in trained)
    return Counted(tuple(_kernels(recorder.operations, results)), activations, parameters)


def _tensors(outputs: Any) -> list[Tensor]:
    """Outputs of Hugging Face are mappings that pytree may not know."""
    plain = dict(outputs) if isinstance(outputs, Mapping) else outputs
    return [t for t in compat.tree_flatten(plain)[0] if isinstance(t, Tensor)]


def _gradients(outputs: Sequence[Tensor], trained: Sequence[Tensor]) -> list[Tensor]:
    if not outputs or not trained:
        return []
    loss = torch.stack([t.sum() for t in outputs if t.dtype == outputs[0].dtype]).sum()
    return [g for g in torch.autograd.grad(loss, list(trained), allow_unused=True) if g is not None]


def _recorder() -> Any:
    """A dispatch mode that lists every operation; made late, for its base class is a private name."""

    class Recorder(compat.TorchDispatchMode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.operations: list[Operation] = []
            self.backward = False

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            self.operations.append(_operation(func, args, kwargs or {}, out, self.backward))
            return out

    return Recorder()


def _operation(func: Any, args: Any, kwargs: Any, out: Any, backward: bool) -> Operation:
    name = str(func)
    namespace, short = name.split(".")[:2]
    flops = _flops(getattr(getattr(torch.ops, namespace), short, None), short, args, kwargs, out)
    reads, writes = _storages((args, kwargs)), _storages(out)
    if not short.endswith("_") and writes.keys() <= reads.keys() and not flops:
        writes = {}  # a view: nothing moves, and whoever uses it is said to read its base
        reads = {}
    if short in _PICKS:
        most = sum(writes.values())
        reads = {key: min(size, most) for key, size in reads.items()}
    return Operation(name, flops, reads, writes, backward)


def _flops(operator: Any, name: str, args: Any, kwargs: Any, out: Any) -> int:
    """By PyTorch's formulas; they lack attention on a CPU, of which half is counted where it is causal."""
    if name.startswith(_ATTENTION):
        causal = kwargs.get("is_causal") or any(value is True for value in args)
        shapes = [value.shape for value in args if isinstance(value, Tensor)]
        count = sdpa_backward_flop_count(*shapes[:4]) if name.endswith("_backward") else sdpa_flop_count(*shapes[:3])
        return int(count) // (2 if causal else 1)
    formula = flop_registry.get(operator)
    return int(formula(*args, **kwargs, out_val=out)) if formula is not None else 0


def _storages(values: Any) -> dict[Any, int]:
    """Storage -> bytes of it that are touched: a tensor that is expanded touches each byte once."""
    found: dict[Any, int] = {}
    for tensor in compat.tree_flatten(values)[0]:
        if isinstance(tensor, Tensor):
            storage = tensor.untyped_storage()
            key = StorageWeakRef(storage)
            found[key] = max(found.get(key, 0), min(tensor.nbytes, storage.nbytes()))
    return found


def _kernels(operations: Sequence[Operation], results: set[Any]) -> Iterator[Kernel]:
    """Every matrix product is one kernel, what lies between two of them another."""
    moving = [op for op in operations if op.reads or op.writes]
    last_use = {key: i for i, op in enumerate(moving) for key in op.reads}
    groups: list[list[int]] = []
    for product, members in groupby(range(len(moving)), lambda i: (moving[i].flops > 0, moving[i].backward)):
        indices = list(members)
        groups += [[i] for i in indices] if product[0] else [indices]
    for group in groups:
        yield _kernel([moving[i] for i in group], group[-1], last_use, results)


def _kernel(members: Sequence[Operation], end: int, last_use: Mapping[Any, int], results: set[Any]) -> Kernel:
    made: set[Any] = set()
    read: dict[Any, int] = {}
    written: dict[Any, int] = {}
    for op in members:
        for key, size in op.reads.items():
            if key not in made:
                read[key] = max(read.get(key, 0), size)
        made |= op.writes.keys()
        written.update(op.writes)
    outside = sum(size for key, size in written.items() if key in results or last_use.get(key, -1) > end)
    return Kernel(sum(op.flops for op in members), sum(read.values()) + outside)
