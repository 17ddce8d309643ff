"""The command line, `mhc-compile COMMAND`: runs a command of `commands/`, and makes an exit code of its errors.

Tracing, model libraries and rich are imported inside functions, so that `--help` and usage errors answer at once.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence

from mhc_compile.commands.arguments import build_parser
from mhc_compile.errors import MhcError

OK = 0
USER_ERROR = 2  # what argparse exits with, too
INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; `sys.argv` by default.

    Returns:
        The exit code: 0, 2 (user error), 70 (internal error) or 130 (interrupted). See docs/cli.md.
    """
    arguments = build_parser().parse_args(argv)
    try:
        importlib.import_module(f"mhc_compile.commands.{arguments.command}").run(arguments)
    except MhcError as error:
        return _fail("error", str(error), USER_ERROR, arguments.debug)
    except KeyboardInterrupt:
        return _fail("interrupted", "no report was finished", INTERRUPTED, arguments.debug)
    except Exception as error:
        hint = "" if arguments.debug else "\nThis is a defect: please report it with the output of --debug."
        return _fail("internal error", f"{type(error).__name__}: {error}{hint}", INTERNAL_ERROR, arguments.debug)
    return OK


def _fail(title: str, message: str, code: int, debug: bool) -> int:
    from mhc_compile.commands.console import print_error  # late

    if debug:
        traceback.print_exc()
    print_error(title, message)
    return code


if __name__ == "__main__":
    sys.exit(main())
