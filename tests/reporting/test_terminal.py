from __future__ import annotations

import io
from html import unescape
from typing import TYPE_CHECKING

import pytest
from rich.console import Console, RenderableType

from edgebuild.errors import UsageError
from edgebuild.reporting import sentences
from edgebuild.reporting.formatting import clean
from edgebuild.reporting.html import render
from edgebuild.reporting.terminal import comparison_table, explain, summary

from . import sample_record
from .test_html import VARIANTS

if TYPE_CHECKING:
    from edgebuild.core.record import BuildRecord


def printed(renderable: RenderableType, *, width: int = 80, color: bool = False) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=color, no_color=not color, legacy_windows=False).print(renderable)
    return out.getvalue()


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("record", VARIANTS.values(), ids=VARIANTS)
def test_a_summary_fits_80_columns_and_names_every_candidate_and_reason(record: BuildRecord) -> None:
    text = printed(summary(record))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text
    for c in record.candidates:
        for said in (c.reason, *(note.text for note in c.notes)):
            assert squeezed(clean(said)) in squeezed(text)


def test_what_is_the_same_of_several_candidates_is_said_once() -> None:
    record = sample_record.full()
    alike = tuple(c.model_copy(update={"reason": "for want of time", "notes": ()}) for c in record.candidates)
    statuses = {c.status for c in alike}
    text = printed(summary(record.model_copy(update={"candidates": alike})))
    assert len(statuses) < len(alike)
    assert text.count(": for want of time") == len(statuses)


def test_figures_are_never_cut_at_80_columns() -> None:
    text = printed(summary(sample_record.full()))
    for part in ("0.412", "[0.407, 0.417]", "96.0 KiB", "71.3 MiB", "[−0.030, 0.070]", "inconclusive", "reference"):
        assert part in text


def test_markup_and_control_characters_of_names_are_shown_not_obeyed() -> None:
    record = sample_record.full(project="[bold red]x[/]", device="a\x1b[31mb")
    text = printed(summary(record))
    assert "[bold red]x[/]" in text
    assert "\x1b" not in text
    assert "\x1b[31mb" not in printed(summary(record), color=True)


def test_targets_stand_side_by_side() -> None:
    records = [sample_record.full(target="one"), sample_record.full(target="two", chosen=None, outcome="missed"),
               sample_record.full(target="three", chosen="onnxruntime/fp32/2")]  # fmt: skip
    text = printed(comparison_table(records))
    assert max(len(line) for line in text.splitlines()) <= 80
    for part in ("one", "two", "three", "accepted", "budget", "missed", "0.952"):
        assert part in text


@pytest.mark.parametrize("candidate_id", [c.id for c in sample_record.full().candidates])
def test_every_candidate_can_be_explained(candidate_id: str) -> None:
    record = sample_record.full()
    text = printed(explain(record, candidate_id))
    assert max(len(line) for line in text.splitlines()) <= 80
    c = next(c for c in record.candidates if c.id == candidate_id)
    assert squeezed(c.reason) in squeezed(text)


def test_an_explanation_says_where_points_and_time_went() -> None:
    text = printed(explain(sample_record.full(), "openvino/int8-edgebuild-u8s8/2"))
    for part in ("0.31 [0.07, 0.55] points", "31.4 dB", "Shirt", "Convolution", "i8", "2.31×", "threads=2",
                 "parameter scheme changed", "reused: nothing changed"):  # fmt: skip
        assert part in text


def test_a_cross_check_is_told_with_its_sample_and_a_gap_among_the_reasons() -> None:
    record = sample_record.full()
    name = "openvino/int8-edgebuild-u8s8/2"
    chosen = next(c for c in record.candidates if c.id == name)
    assert chosen.crosscheck is not None
    told = squeezed("rounding that adds up [32 of 10,000 validation frames, spread evenly]")
    assert told in squeezed(printed(explain(record, name)))
    assert told in squeezed(unescape(render(record, {})))
    assert not any("cross-check" in reason for reason in sentences.reasons_of(chosen))
    gap = chosen.crosscheck.model_copy(update={"cause": "layer", "explanation": "Conv c saturates"})
    assert "cross-check: Conv c saturates" in sentences.reasons_of(chosen.model_copy(update={"crosscheck": gap}))


def test_what_decoding_a_weights_file_takes_is_told_everywhere() -> None:
    record = sample_record.full()
    name = "openvino/int8-edgebuild-u8s8/2"
    chosen = next(c for c in record.candidates if c.id == name)
    latency, memory = chosen.measured.latency, chosen.measured.memory
    assert latency is not None
    assert memory is not None
    assert "decoding" not in printed(summary(record)) + unescape(render(record, {}))
    found = {
        "latency": latency.model_copy(update={"decode_ms": 1.25, "decoded_bytes": 98_304}),
        "memory": memory.model_copy(update={"decode_peak_bytes": 50 * 2**20}),
    }
    update = {"measured": chosen.measured.model_copy(update=found)}
    packed = record.model_copy(
        update={"candidates": tuple(c.model_copy(update=update) if c is chosen else c for c in record.candidates)}
    )
    for text in (printed(summary(packed)), printed(explain(packed, name)), unescape(render(packed, {}))):
        assert squeezed("16.5 ms, 1.25 ms of it decoding 96.0 KiB of weights") in squeezed(text)
        assert squeezed("50.0 MiB") in squeezed(text)


def test_the_steps_of_other_candidates_are_left_out() -> None:
    assert "parameter scheme changed" not in printed(explain(sample_record.full(), "onnxruntime/fp32/2"))


def test_an_unknown_candidate_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as raised:
        explain(sample_record.full(), "nonsense")
    assert "onnxruntime/fp32/2" in raised.value.hint


def test_a_screened_time_is_marked() -> None:
    assert "~0.470" in printed(summary(sample_record.full()))
    assert "itisnoresult" in squeezed(printed(explain(sample_record.full(), "openvino/int8-ort-u8s8/2")))
