"""What several tests of the board's script read, and none changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .bundles import Maker, real_files, release
from .installs import answering_from

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
    return Maker({"pi": (real, release())}).make(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture
def parrot(tmp_path: Path, real: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of a target that answers right at once, without the runtime."""
    monkeypatch.setenv("EXPECTED", str(tmp_path / "logits.npy"))
    return answering_from(tmp_path / "logits.npy", real)
