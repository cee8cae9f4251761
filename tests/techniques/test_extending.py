"""The technique of docs/extending.md is one, as it is printed there."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.testing.techniques import check_technique

if TYPE_CHECKING:
    import pytest

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def test_the_technique_of_the_docs_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    code = next(block for block in blocks if "class Halve(" in block)
    module = types.ModuleType("my_package")
    monkeypatch.setitem(sys.modules, "my_package", module)
    exec(compile(code, str(PAGE), "exec"), module.__dict__)  # noqa: S102 - our own page
    check_technique(module.Halve, tmp_path, layer="7", next="9")
