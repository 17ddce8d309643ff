"""The globs of `include` and `exclude` over site keys."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase

from mhc_compile.config import Config


def is_chosen(key: str, config: Config) -> bool:
    """Whether the options ask for a site of this key."""
    included = not config.include or any(fnmatchcase(key, glob) for glob in config.include)
    return included and not any(fnmatchcase(key, glob) for glob in config.exclude)


def unmatched(config: Config, keys: Collection[str]) -> str:
    """What to tell about the first glob that matches none of the keys, "" if each matches one."""
    for name, globs in (("include", config.include), ("exclude", config.exclude)):
        for glob in globs:
            if not any(fnmatchcase(key, glob) for key in keys):
                return _no_match(name, glob, list(dict.fromkeys(keys)))
    return ""


def _no_match(name: str, glob: str, keys: list[str]) -> str:
    shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
    there = f"the sites are {shown}" if keys else "the model has no sites"
    return f"{name}={glob!r} matches no site: {there}; write a glob over these keys, for example '*.mlp'"
