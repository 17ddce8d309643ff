"""Import the user's Python files the way Python itself would, without getting in the way of other modules."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from itertools import takewhile
from pathlib import Path
from types import ModuleType

_ALIAS = "mhc_compile_target_"
"""Begins the name of a module whose own name is taken, such as that of `inspect.py`."""


def import_file(path: Path) -> ModuleType:
    """The module in a file.

    A file in a package (folders with `__init__.py`) is imported as a part of it, so its relative imports work. So do
    those of a file in folders without `__init__.py`, seen from the working directory. What is called like another
    module, as `inspect.py` is, gets another name, and leaves that to the other.

    Raises:
        Exception: what the code of the file raises.
    """
    root, parts = _place(path)
    if len(parts) > 1 or path.name == "__init__.py":
        return _import_part(root, parts)
    try:
        return _execute(_free_name(path), path)
    except ImportError as error:
        if "relative import" not in str(error):
            raise
        root = _root_without_init(path)
        return _import_part(root, path.relative_to(root).with_suffix("").parts)


@contextmanager
def importable(file: Path | None, *, first: bool = True) -> Iterator[None]:
    """Let the user's code import its neighbours, as `python file.py` or `python -m package.file` would.

    Args:
        file: that holds the code; None for a module by name, looked for in the working directory.
        first: neighbours go before modules of the same name. While it runs other code than the user's, they should not.
    """
    here = str(Path.cwd())
    root = here if file is None else str(_place(file)[0])
    # Files of a package may be called like modules of Python itself: their folder is asked when nobody else is left.
    late = [entry for entry in (root, str(file.parent) if file else here, here) if entry not in sys.path]
    late = list(dict.fromkeys(late))
    sys.path[:] = [*([root] if first else []), *sys.path, *late]
    try:
        yield
    finally:
        for entry in [*([root] if first else []), *late]:  # what the code itself has added stays
            if entry in sys.path:
                sys.path.remove(entry)


def file_of(target: str) -> Path | None:
    """The Python file that a target names, if it has the form `file.py:factory`."""
    place = target.rpartition(":")[0]
    return Path(place).expanduser().resolve() if place.endswith(".py") else None


def _place(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder from which a file is imported, and its name there: `("pkg", "net")` in the folder of `pkg`."""
    packages = list(takewhile(lambda folder: (folder / "__init__.py").is_file(), path.parents))
    root = packages[-1].parent if packages else path.parent
    parts = path.relative_to(root).with_suffix("").parts
    return root, parts[:-1] if packages and path.name == "__init__.py" else parts


def _root_without_init(path: Path) -> Path:
    """The working directory, if the file lies in a folder of it; else the folder around that of the file."""
    here = Path.cwd()
    return here if here in path.parent.parents else path.parent.parent


def _import_part(root: Path, parts: Sequence[str]) -> ModuleType:
    """Import a module of the package `parts[0]` in `root`."""
    folder = root / parts[0]
    init = folder / "__init__.py"
    name = parts[0]
    if not init.is_file() or _is_taken(name, folder):
        name = _alias(name)
        if name not in sys.modules or list(sys.modules[name].__path__) != [str(folder)]:
            _forget(name)
            if init.is_file():
                _execute(name, init, [str(folder)])
            else:
                _namespace(name, folder)
    return importlib.import_module(".".join((name, *parts[1:])))


def _is_taken(name: str, place: Path) -> bool:
    """Whether a name is that of another module than the one at `place`, or cannot be one."""
    if not name.isidentifier() or name in sys.stdlib_module_names:
        return True
    if name not in sys.modules:
        return False
    module = sys.modules[name]
    places = [*getattr(module, "__path__", ()), getattr(module, "__file__", None)]
    return not any(entry and Path(entry).resolve() == place for entry in places)


def _free_name(path: Path) -> str:
    """The name of a file of its own: without its ending, if nothing else is called so."""
    others = [entry for entry in sys.path if entry and Path(entry).resolve() != path.parent]
    installed = path.stem not in sys.modules and path.stem.isidentifier() and PathFinder.find_spec(path.stem, others)
    return _alias(path.stem) if installed or _is_taken(path.stem, path) else path.stem


def _alias(name: str) -> str:
    return _ALIAS + re.sub(r"\W", "_", name)


def _execute(name: str, path: Path, folders: list[str] | None = None) -> ModuleType:
    """Run a file as the module of this name; `folders` hold its parts, if it is a package."""
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folders)
    assert spec is not None and spec.loader is not None  # holds for every path that ends in .py
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and pickle look their module up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        if before is not None:
            sys.modules[name] = before
        raise
    return module


def _namespace(name: str, folder: Path) -> None:
    """A package without code of its own."""
    module = sys.modules[name] = ModuleType(name)
    module.__path__ = [str(folder)]


def _forget(name: str) -> None:
    """Drop a package that another target had under the same name, with its parts."""
    for known in [known for known in sys.modules if known == name or known.startswith(f"{name}.")]:
        del sys.modules[known]
