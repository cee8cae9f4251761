"""The command line: the only place that prints."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and end the process with the documented exit code."""
    from edgebuild.cli.app import app
    from edgebuild.cli.console import run

    sys.exit(run(app))
