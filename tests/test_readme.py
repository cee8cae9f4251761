"""The package's README names exactly the folders that there are."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "edgebuild"


def test_every_folder_has_one_line_and_every_line_a_folder() -> None:
    named = re.findall(r"^\| `(\w+)/` \| .+ \|$", (PACKAGE / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(init.parent.name for init in PACKAGE.glob("*/__init__.py"))
