from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from edgebuild.core.budget import Budget
from edgebuild.reporting import sentences
from edgebuild.reporting.formatting import clean
from edgebuild.reporting.html import render

from . import sample_record

if TYPE_CHECKING:
    from edgebuild.core.record import BuildRecord

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Collects the text and every tag, and fails on unbalanced ones."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def ids(self) -> list[str]:
        return [i for _, attrs in self.tags if (i := attrs.get("id"))]


def page_of(record: BuildRecord) -> Page:
    return Page(render(record, sample_record.samples(record, per_launch=40)))


VARIANTS = {
    "full": sample_record.full(),
    "hostile": sample_record.hostile(),
    "no candidates": sample_record.full(
        candidates=(), chosen=None, outcome="missed", summary="Nothing could be measured"
    ),
    "one candidate": sample_record.full(candidates=sample_record.full().candidates[:1]),
    "missed": sample_record.full(chosen=None, outcome="missed", summary="No candidate stays inside the budget"),
    "inconclusive": sample_record.full(chosen=None, outcome="inconclusive", summary="No candidate could be certified"),
    "reference stays": sample_record.full(chosen="onnxruntime/fp32/2"),
    "by size": sample_record.full(objective="size"),
    "by memory": sample_record.full(objective="memory"),
    "bare": sample_record.bare(),
}


@pytest.mark.parametrize("record", VARIANTS.values(), ids=VARIANTS)
def test_every_build_gives_a_balanced_page_that_asks_for_nothing(record: BuildRecord) -> None:
    page = page_of(record)
    assert {t for t, _ in page.tags}.isdisjoint({"script", "img", "link", "iframe", "object", "base", "form"})
    for _, attrs in page.tags:
        assert not any(name.startswith("on") or name in {"src", "srcset", "action"} for name in attrs)
        assert (attrs.get("href") or "#").startswith("#")
    assert len(page.ids()) == len(set(page.ids()))
    targets = {(attrs.get("href") or "")[1:] for tag, attrs in page.tags if tag == "a"}
    assert targets <= set(page.ids())


@pytest.mark.parametrize("record", VARIANTS.values(), ids=VARIANTS)
def test_every_candidate_is_there_with_its_reason(record: BuildRecord) -> None:
    text = page_of(record).text
    for c in record.candidates:
        shown = " ".join(clean(c.id).split())
        assert shown in text
        for said in (c.reason, *(note.text for note in c.notes)):
            assert " ".join(clean(said).split()) in text


def test_the_page_names_no_place_outside_of_itself() -> None:
    page = render(sample_record.full(), {})
    assert not re.search(r"https?:|src=|@import|url\(", page)


def test_hostile_text_stays_text() -> None:
    page = render(sample_record.hostile(), {})
    assert "<script" not in page
    assert "<img" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "<script>alert('1')</script>" in unescape(page)


def test_the_verdict_comes_first_and_says_everything() -> None:
    text = page_of(sample_record.full()).text
    sentence = sentences.verdict_sentence(sample_record.full())
    assert sentence in text
    assert text.index(sentence) < text.index("Lower left is better")
    for part in ("2.31× [2.26, 2.36] faster", "3.60× smaller", "0.31 [0.07, 0.55] points", "2 points", "n = 10,000",
                 "opening 1", "synthetic CPU"):  # fmt: skip
        assert part in sentence


def test_a_missed_build_shows_its_summary_and_the_nearest() -> None:
    text = page_of(VARIANTS["missed"]).text
    assert "Budget missed" in text
    assert "No candidate stays inside the budget" in text
    assert "The nearest: openvino/int8-edgebuild-u8s8/2" in text


def test_what_is_not_proven_is_said() -> None:
    text = page_of(sample_record.full()).text
    for part in ("n/a, needs 6,636", "6 candidates were only screened", "governor, power sensors",
                 "energy, mJ was not measured",
                 "under 1.8 %"):  # fmt: skip
        assert part in text


def test_a_screened_time_is_never_shown_bare() -> None:
    text = page_of(sample_record.full()).text
    assert text.count("screened only") >= sum(
        1 for c in sample_record.full().candidates if c.screened.latency and not c.measured.latency
    )
    assert "screened only, no result" in page_of(sample_record.bare()).text


def test_tables_have_heads_and_drawings_have_names() -> None:
    page = page_of(sample_record.full())
    tables = sum(1 for tag, _ in page.tags if tag == "table")
    assert tables == sum(1 for tag, _ in page.tags if tag == "caption")
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")
    for tag, attrs in page.tags:
        if tag == "svg":
            assert attrs.get("aria-label") or attrs.get("aria-hidden") == "true"


def test_a_drop_in_own_units_is_not_called_points() -> None:
    record = sample_record.full(budget=Budget(relative=0.01))
    assert sentences.unit_of(record).name == ""
    assert "0.0031 [0.0007, 0.0055] of accuracy" in sentences.verdict_sentence(record)


def test_samples_would_decide_what_was_measured_and_nothing_else() -> None:
    record = sample_record.full(chosen=None, outcome="inconclusive", summary="No candidate could be certified")
    assert "; about 4,200 more samples would decide." in sentences.verdict_sentence(record)
    unmeasured = [each.model_copy(update={"status": "unraced"}) for each in record.candidates]
    disturbed = record.model_copy(update={"candidates": tuple(unmeasured)})
    assert "more samples" not in sentences.verdict_sentence(disturbed)
