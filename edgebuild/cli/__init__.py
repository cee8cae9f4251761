"""The command line: the only place that prints."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _app() -> Callable[..., object]:
    from edgebuild.cli.app import app

    return app


def main() -> None:
    """Run the command line and end the process with the documented exit code."""
    try:
        from edgebuild.cli.console import run_process

        code = run_process(_app)
    except KeyboardInterrupt:  # while the modules above were imported
        sys.stderr.write("edgebuild: Interrupted.\n")
        code = 130
    sys.exit(code)
