"""What may be released, and what a release says of its limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.core.record import EmulatedDevice
from edgebuild.core.verdict import Outcome
from edgebuild.releasing.rules import unreleasable
from edgebuild.releasing.values import BuildFolder
from tests.reporting.sample_record import full

if TYPE_CHECKING:
    from edgebuild.core.record import BuildRecord, CandidateRecord


def reasons(record: BuildRecord, changed: tuple[str, ...] = (), **fields: Any) -> tuple[str, ...]:
    build = BuildFolder(home=Path("home"), folder=Path("home/builds/b"), record=record, **fields)
    return unreleasable(build, changed)


def with_chosen(**changes: Any) -> BuildRecord:
    record = full()
    chosen = next(each for each in record.candidates if each.id == record.chosen)
    others = tuple(each for each in record.candidates if each.id != record.chosen)
    changed: CandidateRecord = chosen.model_copy(update=changes)
    return record.model_copy(update={"candidates": (changed, *others)})


def test_a_build_that_was_measured_and_accepted_may_be_released() -> None:
    assert reasons(full()) == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"outcome": "missed", "chosen": None}, "it ended as missed"),
        ({"outcome": "inconclusive"}, "it ended as inconclusive"),
        ({"emulated": EmulatedDevice(cpu="Cortex-A76")}, "emulated Cortex-A76, and measured nowhere"),
        ({"test_set": None}, "never scored on the test set"),
    ],
)
def test_what_a_record_lacks_is_a_reason(changes: dict[str, Any], said: str) -> None:
    (reason,) = reasons(full(**changes))
    assert said in reason


def test_a_verdict_that_does_not_accept_is_a_reason() -> None:
    chosen = next(each for each in full().candidates if each.id == full().chosen)
    assert chosen.test is not None
    refused = chosen.test.model_copy(update={"outcome": Outcome.REFUSED, "reasons": ("too far off",)})
    assert "is refused: too far off" in reasons(with_chosen(test=refused))[0]
    emulated = chosen.test.model_copy(update={"emulated": True})
    assert "rests on an emulated CPU" in reasons(with_chosen(test=emulated))[0]


def test_what_was_never_measured_is_not_released_as_fast() -> None:
    measured = type(full().candidates[0].measured)()
    assert "was never measured" in reasons(with_chosen(measured=measured))[0]
    assert reasons(with_chosen(measured=measured).model_copy(update={"objective": "size"})) == ()


def test_every_reason_is_told_at_once() -> None:
    found = reasons(full(test_set=None), changed=("measurements/x",), missing=("golden/golden.json",))
    assert [reason.split()[0] for reason in found] == ["openvino/int8-edgebuild-u8s8/2", "its", "its"]
