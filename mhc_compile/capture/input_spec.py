"""Which calls a traced program is valid for: structure, dtypes, devices, and sizes with their guards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from mhc_compile import _torch_compat as compat

Guard = Callable[..., bool]


@dataclass(frozen=True)
class TensorLeaf:
    """A tensor input. A size is an int if it was traced as a constant, else the name of the variable it binds.

    The device is None where any will do, `gradients` (whether it requires them) where nobody asks.
    """

    dtype: torch.dtype
    device: torch.device | None
    shape: tuple[int | str, ...]
    gradients: bool | None = None

    def binds(self, value: Any, sizes: dict[str, int]) -> bool:
        """Whether `value` fits, given the variables bound so far in `sizes`, which is extended."""
        if not isinstance(value, torch.Tensor) or value.dtype != self.dtype:
            return False
        if self.device is not None and value.device != self.device:
            return False
        if self.gradients is not None and value.requires_grad != self.gradients:
            return False
        if value.dim() != len(self.shape):
            return False
        for expected, size in zip(self.shape, value.shape, strict=True):
            if isinstance(expected, str):
                expected = sizes.setdefault(expected, size)
            if size != expected:
                return False
        return True

    def alike(self, value: Any) -> bool:
        """Whether `value` differs in sizes only."""
        return isinstance(value, torch.Tensor) and value.dtype == self.dtype and value.dim() == len(self.shape)


@dataclass(frozen=True)
class ValueLeaf:
    """An input that is no tensor: traced as a constant, so it must be equal, type included (`True` is not `1`)."""

    value: Any

    def binds(self, value: Any, sizes: dict[str, int]) -> bool:
        """Whether `value` is the traced constant."""
        return type(value) is type(self.value) and bool(value == self.value)

    def alike(self, value: Any) -> bool:
        """Whether `value` is the same, or another number."""
        number = type(value) in (int, float) and type(value) is type(self.value)
        return number or self.binds(value, {})


@dataclass(frozen=True)
class AnyTensor:
    """A tensor that another traced graph made: its sizes and dtype are as good as the inputs of that one."""

    def binds(self, value: Any, sizes: dict[str, int]) -> bool:
        """Whether `value` is a tensor."""
        return isinstance(value, torch.Tensor)

    def alike(self, value: Any) -> bool:
        """The same."""
        return isinstance(value, torch.Tensor)


@dataclass(frozen=True)
class InputSpec:
    """The calls that one traced graph computes correctly.

    Attributes:
        tree: structure of `(args, kwargs)`.
        leaves: what each flat input must be.
        sizes: names of the size variables, in the order `guard` takes them.
        guard: the conditions on sizes under which the trace took its branches (Dynamo's symbolic shape guards).
        guard_source: `guard` as text, for messages.
        places: what `places_of` must be for the inputs, None where any will do.
    """

    tree: Any
    leaves: tuple[TensorLeaf | ValueLeaf | AnyTensor, ...]
    sizes: tuple[str, ...]
    guard: Guard
    guard_source: str
    places: tuple[int, ...] | None = None

    def matches(self, flat: Sequence[Any], tree: Any) -> bool:
        """Whether the flat inputs of a call are served by this trace. Plain Python, so that Dynamo can inline it."""
        if len(flat) != len(self.leaves) or tree != self.tree:
            return False
        sizes: dict[str, int] = {}
        for leaf, value in zip(self.leaves, flat, strict=True):
            if not leaf.binds(value, sizes):
                return False
        if self.places is not None and places_of(flat) != self.places:
            return False
        return self.guard(*[sizes[name] for name in self.sizes])

    def alike(self, flat: Sequence[Any], tree: Any) -> bool:
        """Whether these inputs differ from those it is for in nothing but sizes and numbers."""
        if len(flat) != len(self.leaves) or tree != self.tree:
            return False
        return all(leaf.alike(value) for leaf, value in zip(self.leaves, flat, strict=True))

    def other_numbers(self, flat: Sequence[Any]) -> bool:
        """Whether inputs that are `alike` hold another number than these."""
        return any(isinstance(k, ValueLeaf) and not k.binds(v, {}) for k, v in zip(self.leaves, flat, strict=True))

    def on_any_device(self) -> InputSpec:
        """The same for inputs wherever they lie."""
        leaves = (replace(leaf, device=None) if isinstance(leaf, TensorLeaf) else leaf for leaf in self.leaves)
        return replace(self, leaves=tuple(leaves))

    def shape(self, index: int) -> tuple[int | str, ...]:
        """The sizes of a flat input, () for what is no tensor."""
        leaf = self.leaves[index]
        return leaf.shape if isinstance(leaf, TensorLeaf) else ()


def input_spec(gm: fx.GraphModule, flat: Sequence[Any], tree: Any, *, gradients: bool = False) -> InputSpec:
    """The specification of a captured graph.

    Args:
        gm: graph with one placeholder for each flat input, `meta["val"]` its fake tensor.
        flat: the flat example inputs.
        tree: their structure.
        gradients: whether the traced code asks what requires gradients.
    """
    fakes = [node.meta.get("val") for node in gm.graph.nodes if node.op == "placeholder"]
    env = next((e for f in fakes for e in [_shape_env(f)] if e is not None), None)
    printer = compat.PythonPrinter()
    conditions: list[str] = []
    leaves: list[TensorLeaf | ValueLeaf] = []
    for index, (fake, value) in enumerate(zip(fakes, flat, strict=True)):
        if not isinstance(value, torch.Tensor):
            leaves.append(ValueLeaf(value))
            continue
        sizes = fake.shape if isinstance(fake, torch.Tensor) else value.shape
        shape = tuple(_size(s, f"size_{index}_{axis}", conditions, printer) for axis, s in enumerate(sizes))
        leaves.append(TensorLeaf(value.dtype, value.device, shape, value.requires_grad if gradients else None))
    shapes = [leaf.shape for leaf in leaves if isinstance(leaf, TensorLeaf)]
    names = tuple(dict.fromkeys(size for shape in shapes for size in shape if isinstance(size, str)))
    if env is not None:
        conditions += _conditions(env, set(names), printer)
    guard, source = _compile(names, conditions)
    return InputSpec(tree, tuple(leaves), names, guard, source)


def places_of(flat: Sequence[Any]) -> tuple[int, ...]:
    """For each flat input the position of the first that is the same tensor."""
    return tuple(
        next(i for i, other in enumerate(flat) if other is value) if isinstance(value, torch.Tensor) else index
        for index, value in enumerate(flat)
    )


def joined(gm: fx.GraphModule, flat: Sequence[Any], spec: InputSpec) -> InputSpec:
    """Let a captured graph take inputs that are one tensor for one value; the specification asks the same of calls.

    A module that is given its stream twice, as query and as key, has read it twice where it is called in the model.
    """
    places = places_of(flat)
    inputs = [node for node in gm.graph.nodes if node.op == "placeholder"]
    for index, place in enumerate(places):
        if place != index:
            inputs[index].replace_all_uses_with(inputs[place])
    gm.recompile()
    return replace(spec, places=places)


def _shape_env(fake: Any) -> Any:
    sizes = fake.shape if isinstance(fake, torch.Tensor) else ()
    symbolic: list[Any] = [s for s in sizes if isinstance(s, torch.SymInt)]
    return symbolic[0].node.shape_env if symbolic else None


def _size(size: Any, name: str, conditions: list[str], printer: Any) -> int | str:
    """A constant, the symbol of the size, or `name` with a condition where the size is a compound expression."""
    if not isinstance(size, torch.SymInt):
        return int(size)
    expression = size.node.expr
    if expression.is_number:
        return int(expression)
    if expression.is_Symbol:
        return str(expression)
    conditions.append(f"{name} == {printer.doprint(expression)}")
    return name


def _conditions(env: Any, names: set[str], printer: Any) -> list[str]:
    """Ranges and guards of the shape environment that speak of input sizes only."""
    found: list[str] = []
    for symbol, bounds in env.var_to_range.items():
        if str(symbol) in names:
            found.append(f"{int(bounds.lower)} <= {symbol}")
            if bounds.upper.is_Integer:
                found.append(f"{symbol} <= {int(bounds.upper)}")
    for guard in env.guards:
        expression = env.replace(guard.expr)
        symbols = {str(s) for s in expression.free_symbols}
        if symbols and symbols <= names:  # the rest are facts about values computed inside the graph
            found.append(f"({printer.doprint(expression)})")
    return list(dict.fromkeys(found))


def _compile(names: tuple[str, ...], conditions: list[str]) -> tuple[Guard, str]:
    source = " and ".join(conditions) or "True"
    code = compile(f"lambda {', '.join(names)}: {source}", "<mhc_compile guard>", "eval")
    return eval(code, {"math": math, "torch": torch}), source  # the text was printed by sympy just above
