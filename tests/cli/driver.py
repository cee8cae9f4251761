"""The command line with short protocols: every stage runs for real, only its launches are few and brief.

A shared or noisy machine must not fail a test of behaviour, so no launch is invalidated for switches or stolen time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before what is installed: other distributions leave a package "tests" there.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from edgebuild.backends.ort.host import OnnxRuntime
from edgebuild.measuring import evaluate, protocols, session, side
from tests.cli.short import SHORT

for name, launches in (("SCREEN", 1), ("SCREEN_APART", 1), ("CERTIFY", 2), ("CERTIFY_APART", 2)):
    given = getattr(protocols, name)
    short = {**SHORT, "bursts": min(given.bursts, 4), "launches": launches, "max_launches": launches}
    setattr(protocols, name, given.model_copy(update=short))
session.ANCHOR_SAMPLE_S = 0.05
side.MEMORY_S = 0.05
evaluate.SILENCE_S = float(os.environ.get("TEST_SILENCE_S", evaluate.SILENCE_S))
if "TEST_DEVICE_FILE" in os.environ:
    OnnxRuntime.device_file = Path(os.environ["TEST_DEVICE_FILE"])

if __name__ == "__main__":
    from edgebuild.cli import main

    main()
