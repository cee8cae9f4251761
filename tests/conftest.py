"""What all tests have in common."""

from __future__ import annotations

import pytest

from edgebuild.measuring import session, side

from . import needs


@pytest.fixture(autouse=True)
def brief_measuring(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of behaviour don't wait for figures that nobody reads; proofs measure as a build does."""
    if request.node.get_closest_marker("proof") is None:
        monkeypatch.setattr(session, "ANCHOR_SAMPLE_S", 0.05)
        monkeypatch.setattr(side, "MEMORY_S", 0.05)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was skipped for want of a package, with the command that brings it."""
    skipped = terminalreporter.stats.get("skipped", [])
    if line := needs.summary(report.longrepr[2] for report in skipped if isinstance(report.longrepr, tuple)):
        terminalreporter.write_line(line)
