"""Which of its programs serves a call of a transformed model, or of a module of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mhc_compile.capture.guards import guard_while_compiled
from mhc_compile.programs.bound_reads import BoundReads, bind
from mhc_compile.programs.program import Program
from mhc_compile.twin.owned import Owner

FORWARD = "forward"
Kind = tuple[Any, ...]
"""A kind of call: structure and types of the inputs, modes; see `kind_of`."""


@dataclass
class Entry:
    """What serves the calls of one module from outside.

    Attributes:
        path: name of the module, "" for the model itself.
        programs: the traces of it so far, each in one graph.
        kinds: kinds of calls that are no one graph, or do more than compute a result.
        fallback: serves those, through Dynamo.
        bound: program -> its reads on the modules of this model.
        method: name of the method that is called.
    """

    path: str
    programs: list[Program] = field(default_factory=list)
    kinds: set[Kind] = field(default_factory=set)
    fallback: Callable[..., Any] | None = None
    bound: dict[int, BoundReads] = field(default_factory=dict)
    method: str = FORWARD

    @property
    def called(self) -> str:
        """What is called, for a reader; "" for the model."""
        return self.path if self.method == FORWARD else f"{self.path}.{self.method}".lstrip(".")

    def for_copy(self) -> Entry:
        """The same for a copy of the model; code for a distributed one knows the parameters of this."""
        programs = [p for p in self.programs if not p.holds_tensors and not p.reads.parallel]
        return Entry(self.path, programs, set(self.kinds), method=self.method)

    def find(self, owner: Owner, flat: Sequence[Any], tree: Any) -> Program | None:
        """The program that computes a call correctly, if there is one."""
        compiling = torch.compiler.is_compiling()
        for index, program in enumerate(self.programs):
            if program.takes(flat, tree) and (
                _holds_while_compiled(self, owner, index) if compiling else self.holds(program, owner)
            ):
                return program
        return None

    def holds(self, program: Program, owner: Owner) -> bool:
        """Whether all that the trace of a program has read is as it was."""
        bound = self.bound.get(id(program))
        if bound is not None and bound.holds():
            return True
        if bound is not None and bound.other_values():
            return False
        made = bind(program.reads, owner)
        if isinstance(made, str):
            return False
        self.bound[id(program)] = made
        return True

    def why_not(self, owner: Owner) -> str:
        """What keeps the latest program from serving a call, as far as the model is concerned."""
        made = bind(self.programs[-1].reads, owner) if self.programs else "it is the first call"
        return made if isinstance(made, str) else "the inputs are of another kind"


def _holds_while_compiled(entry: Entry, owner: Owner, index: int) -> bool:
    """`Entry.holds` of one program, which Dynamo takes for a constant, and checks again at each call of its code."""
    entries, owners = weakref.ref(entry), weakref.ref(owner)  # the code outlives the model

    def holds() -> bool:
        known, model = entries(), owners()
        return known is not None and model is not None and known.holds(known.programs[index], model)

    found = holds()
    guard_while_compiled(lambda: holds() is found, f"what program {index} of {type(owner).__name__} has read")
    return found


# What `torch._dynamo.assume_constant_result` does.
_holds_while_compiled._dynamo_marked_constant = True  # type: ignore[attr-defined]


def kind_of(owner: Owner, flat: Sequence[Any], tree: Any) -> Kind:
    """The kind of a call, without sizes and numbers."""
    leaves = tuple((v.dtype, v.dim()) if isinstance(v, torch.Tensor) else _type_of(v) for v in flat)
    return (tree, leaves, owner.training, torch.is_grad_enabled())


def _type_of(value: Any) -> Any:
    return value if isinstance(value, (bool, str, type(None))) else type(value)
