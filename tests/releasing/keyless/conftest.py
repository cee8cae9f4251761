"""A pretended Sigstore that answers on this machine, and a bundle to sign."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.releasing.bundles import make_bundle
from tests.releasing.keyless.pretend_sigstore import PretendSigstore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def pretend() -> PretendSigstore:
    return PretendSigstore()


@pytest.fixture
def url(pretend: PretendSigstore) -> Iterator[str]:
    with pretend.served() as address:
        yield address


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")
