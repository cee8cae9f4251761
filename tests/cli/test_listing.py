"""What `edgebuild plan` prints: ids whole, and a reason once however much it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.cli.listing import show_plans
from edgebuild.planning.plan import make_plan
from tests.planning.test_plan import inputs, profile

if TYPE_CHECKING:
    import pytest


def test_ids_are_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(inputs(profile("a-profile-with-a-rather-long-name-of-its-own")))
    show_plans([plan])
    said = capsys.readouterr().out
    for candidate in plan.candidates:
        assert candidate.id in said


def test_a_reason_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    show_plans([make_plan(inputs(time_s=1, refused=(("b", "needs avx2"),)))])
    said = " ".join(capsys.readouterr().out.split())
    assert "Not tried: b: needs avx2" in said
    reason = "left out to stay inside 1 s: it takes about 10 s, and nothing is left for it"
    assert f"Not tried: {reason}: a/int8-edgebuild-u8s8, a/int8-onnxruntime-u8s8, a/int8-nncf-u8s8" in said
    assert said.count(reason) == 1
