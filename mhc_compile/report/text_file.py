"""A text file that a report is written to."""

from __future__ import annotations

from pathlib import Path

from mhc_compile.errors import InvalidOptionError


def check_file(path: str | Path, what: str, suffixes: tuple[str, ...], example: str) -> Path:
    """The path of a file that can be written.

    Args:
        path: where to.
        what: what the file is, for the message.
        suffixes: how its name may end.
        example: a name that would do.

    Raises:
        InvalidOptionError: it ends otherwise, its directory does not exist, or it is a directory.
    """
    target = Path(path)
    if target.suffix.lower() not in suffixes:
        raise InvalidOptionError(f"the {what} {str(path)!r} has no {suffixes[0]} suffix: write for example {example}")
    if not target.parent.is_dir():
        raise InvalidOptionError(f"the directory of {str(path)!r} does not exist: create it or write another path")
    if target.is_dir():
        raise InvalidOptionError(f"{str(path)!r} is a directory: write the path of a file")
    return target


def write_text(path: Path, text: str) -> None:
    """Write the file.

    Raises:
        InvalidOptionError: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidOptionError(f"{str(path)!r} cannot be written ({error.strerror}): write another path") from error
