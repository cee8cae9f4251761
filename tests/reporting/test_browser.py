"""The report in a real browser; needs chromium."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.reporting.html import render
from tests import needs

from . import browser_check, sample_record
from .test_html import VARIANTS

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.core.record import BuildRecord

pytestmark = [
    pytest.mark.proof,
    needs.marked(None if browser_check.chromium() else needs.program("chromium", "chromium")),
]


@pytest.mark.parametrize("record", VARIANTS.values(), ids=VARIANTS)
def test_no_scrolling_sideways_no_request_no_complaint(record: BuildRecord, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text(render(record, sample_record.samples(record)), encoding="utf-8")
    for seen in browser_check.check(report, tmp_path):
        assert seen.inner_width == seen.width
        assert seen.scroll_width <= seen.inner_width
        assert seen.requests == ()
        assert seen.complaints == ()
        assert seen.overlapping_labels == 0
        assert seen.picture.stat().st_size > 10_000
