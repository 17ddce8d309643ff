"""Gradients of new parameters, added up over the processes that hold other tokens: once at the end of each backward.

While a backward runs, the gradients that were there before are set aside, so that what it adds is known.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from mhc_compile import _torch_compat as compat
from mhc_compile.errors import ParallelError
from mhc_compile.kernels.operators.sharded import Over
from mhc_compile.passes.plan.data import OWNER
from mhc_compile.twin.owned import Owner


class GradientSums:
    """Which gradients of a model are to be added up, and over which processes; what was there before, in a backward."""

    def __init__(self, owner: Owner) -> None:
        self._owner = weakref.ref(owner)
        self._owed: dict[str, Over] = {}
        self._aside: list[tuple[Tensor, Tensor | None, Over]] | None = None

    def owe(self, x: Tensor, names: Sequence[str], over: Over | None) -> bool:
        """Note for a forward which gradients its backward will have to add up.

        Args:
            x: where the streams begin.
            names: of the parameters of their sites.
            over: the processes that hold other tokens, None for none.

        Returns:
            Whether it will be done at the end of the backward. Else each site has to do it.
        """
        for name in names:
            self._owed.pop(name, None)
        if over is None or torch.compiler.is_compiling():
            return False
        if self._aside is not None and compat.current_graph_task_id() == -1:
            self._put_back()  # the backward before was left by an exception
        if any(map(compat.has_gradient_hooks, self._parameters(names))):
            return False
        self._owed.update(dict.fromkeys(names, over))
        if x.requires_grad and not x.is_leaf:
            x.register_hook(self._check_begun)
        return True

    def begin_behind(self, output: Any) -> Any:
        """An output of the model, at which a backward begins."""
        if isinstance(output, Tensor) and output.requires_grad and not output.is_leaf and self._owed:
            output.register_hook(self._begin)
        return output

    def _parameters(self, names: Sequence[str]) -> list[Any]:
        owner = self._owner()
        if owner is None:  # its programs are not called any more
            return []
        known = owner.hyper_connections.itself
        return [known.get_parameter(name.removeprefix(f"{OWNER}.")) for name in names]

    def _begin(self, gradient: Tensor) -> None:
        owner = self._owner()
        if self._aside is not None or owner is None:
            return
        kept = compat.with_gradients(self._parameters(list(self._owed)), owner.modules())
        wanted = [managed or _gets_gradient(p) for p, managed in kept if p.requires_grad]
        if not any(wanted):
            return
        self._aside = [(p, p.grad, over) for (p, _), over in zip(kept, self._owed.values(), strict=True)]
        for parameter, _ in kept:
            parameter.grad = None
        compat.at_end_of_backward(self._end)

    def _check_begun(self, gradient: Tensor) -> None:
        if self._aside is None and self._owed and any(p.requires_grad for p in self._parameters(list(self._owed))):
            raise ParallelError(
                "a backward has begun inside the model, at a value that a hook has taken out, and not at an output: "
                "gradients of its sites cannot be added up over the processes. Return the value from the model, or add "
                "what is computed from it to the loss"
            )

    @torch.no_grad()
    def _end(self) -> None:
        if self._aside is None:
            return
        groups: dict[Over, list[Tensor]] = {}
        for parameter, _, over in self._aside:
            if parameter.grad is not None:
                groups.setdefault(over, []).append(_local(parameter.grad))
        for over, gradients in groups.items():
            _add_up(over, gradients)
        for parameter, before, _ in self._aside:
            if before is not None:
                parameter.grad = before if parameter.grad is None else before.add_(parameter.grad)
        self._aside = None

    def _put_back(self) -> None:
        for parameter, before, _ in self._aside or ():
            parameter.grad = before
        self._aside = None


def _gets_gradient(parameter: Any) -> bool:
    """Whether the backward that runs now will set the gradient of a leaf.

    Raises:
        ParallelError: it will return it instead, where nothing can be done about it.
    """
    try:
        return bool(compat.will_engine_execute_node(torch.autograd.graph.get_gradient_edge(parameter).node))
    except RuntimeError as error:
        raise ParallelError(
            "torch.autograd.grad returns the gradients of new parameters before they are added up over the processes "
            "that hold other parts of the sequence: write backward() and look at .grad"
        ) from error


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _add_up(over: Over, gradients: Sequence[Tensor]) -> None:
    """One reduction for all, in place."""
    mesh, placements = over
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    parts = DTensor.from_local(flat.to(mesh.device_type), mesh, placements, run_check=False)
    total = parts.redistribute(placements=[Replicate()] * mesh.ndim).to_local()
    for gradient, part in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))
