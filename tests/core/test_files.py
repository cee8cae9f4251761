"""Places that the surroundings name."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.core.files import home_folder

if TYPE_CHECKING:
    import pytest


def test_an_empty_home_is_none_and_not_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")
    assert home_folder() == Path(pwd.getpwuid(os.getuid()).pw_dir)
    monkeypatch.setenv("HOME", "/somewhere")
    assert home_folder() == Path("/somewhere")
