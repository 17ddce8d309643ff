"""`mhc-compile connections`: what a site can compute."""

from __future__ import annotations

import argparse
import json

from mhc_compile.commands.console import new_console
from mhc_compile.commands.target import check_width


def run(arguments: argparse.Namespace) -> None:
    """Print the table of connections."""
    check_width(arguments)
    from mhc_compile.report import connections  # late

    if arguments.json:
        print(json.dumps(connections.to_dict(arguments.n, arguments.channels), indent=2))
        return
    from mhc_compile.report.terminal import render_connections  # late

    found = connections.rows(arguments.n, arguments.channels)
    render_connections(found, new_console(arguments.width), n=arguments.n, channels=arguments.channels)
