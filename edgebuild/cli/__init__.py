"""The command line: the only place that prints."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and end the process with the documented exit code."""
    # Set before anything imports the libraries that ask for it: edgebuild sends nothing anywhere.
    os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
    from edgebuild.cli.app import app
    from edgebuild.cli.console import run

    sys.exit(run(app))
