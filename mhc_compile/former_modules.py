"""Where pickles of earlier versions look for classes: the modules of today, under the names of then."""

from __future__ import annotations

import importlib
import sys

PACKAGE = __name__.rpartition(".")[0]
FORMER = {
    "backend": "dynamo.backend",
    "doors": "model.doors",
    "header": "twin.header",
    "hosts": "twin.hosts",
    "hyper_connections": "twin.hyper_connections",
    "owner": "model.owner",
    "passes.steps": "passes.plan.steps",
}
"""Name of a module then -> now. All of them are imported with the package anyway."""


def know_former_modules() -> None:
    """Let `import` find them. They become no attributes of the package: `mhc_compile.backend` is a function."""
    for former, now in FORMER.items():
        sys.modules.setdefault(f"{PACKAGE}.{former}", importlib.import_module(f"{PACKAGE}.{now}"))
