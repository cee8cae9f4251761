"""What several tests of the board's script read, and none changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .bundles import real_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """The files of a target that answers on this machine."""
    return real_files(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """The files of a target whose model answers otherwise."""
    return real_files(tmp_path_factory.mktemp("other"), bias=5.0)


@pytest.fixture(scope="session")
def bundle(real: Mapping[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that answers on this machine."""
    from .bundles import Maker, release

    return Maker({"pi": (real, release())}).make(tmp_path_factory.mktemp("bundle") / "bundle")
