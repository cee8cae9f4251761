"""What all tests have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from edgebuild.devices.runner.turns import OVERRIDE
from edgebuild.measuring import session, side

if TYPE_CHECKING:
    from collections.abc import Iterator

from . import needs

# Properties hold on slow and on shared machines too.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def brief_measuring(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of behaviour don't wait for figures that nobody reads; proofs measure as a build does."""
    if request.node.get_closest_marker("proof") is None:
        monkeypatch.setattr(session, "ANCHOR_SAMPLE_S", 0.05)
        monkeypatch.setattr(side, "MEMORY_S", 0.05)


@pytest.fixture(scope="session", autouse=True)
def lock_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A run of tests waits for no other one and for no measurement: only proofs measure anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(OVERRIDE, str(tmp_path_factory.mktemp("machine") / "lock"))
        yield


@pytest.fixture(autouse=True)
def lock_of_the_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proofs measure as a build does, one at a time on the whole machine."""
    if request.node.get_closest_marker("proof") is not None:
        monkeypatch.delenv(OVERRIDE, raising=False)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was skipped for want of a package, with the command that brings it."""
    skipped = terminalreporter.stats.get("skipped", [])
    if line := needs.summary(report.longrepr[2] for report in skipped if isinstance(report.longrepr, tuple)):
        terminalreporter.write_line(line)
