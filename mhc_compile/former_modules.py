"""Where pickles of earlier versions look for classes: the modules of today, under the names of then."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

PACKAGE = __name__.rpartition(".")[0]
FORMER = {
    "backend": "dynamo.backend",
    "dynamo_model": "dynamo.frame",
    "explain": "dynamo.explain",
    "graphs": "dynamo.plans",
    "doors": "model.doors",
    "header": "twin.header",
    "hosts": "twin.hosts",
    "hyper_connections": "twin.hyper_connections",
    "owner": "model.owner",
    "passes.steps": "passes.plan.steps",
}
"""Name of a module then -> now. All of them are imported with the package anyway."""
LATE = {"stage": "model.stage"}
"""The same for what the package imports late: it is imported once something is looked up."""


class _Former(types.ModuleType):
    """Stands for a module of today that is imported late."""

    __file__ = __file__  # tools ask a module where it comes from

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(f"{PACKAGE}.{LATE[self.__name__.rpartition('.')[2]]}"), name)


def know_former_modules() -> None:
    """Let `import` find them. They become no attributes of the package: `mhc_compile.backend` is a function."""
    for former, now in FORMER.items():
        sys.modules.setdefault(f"{PACKAGE}.{former}", importlib.import_module(f"{PACKAGE}.{now}"))
    for former in LATE:
        sys.modules.setdefault(f"{PACKAGE}.{former}", _Former(f"{PACKAGE}.{former}"))
