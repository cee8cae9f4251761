"""Whatever a device says of itself, the inventory can be read again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebuild.devices.messages import one_line
from edgebuild.fleet.inventory import DeviceEntry, load_inventory, save_entry

if TYPE_CHECKING:
    from pathlib import Path


def entry(facts: dict[str, str]) -> DeviceEntry:
    return DeviceEntry(name="board", target="t", kind="emulator", core="cortex-a72", facts=facts)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(tmp_path / "devices.toml"))
    return tmp_path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(facts=st.dictionaries(st.text(), st.text(), max_size=4))
def test_whatever_text_is_written_is_read_as_what_can_be_shown_of_it(facts: dict[str, str], here: Path) -> None:
    save_entry(entry(facts))
    found = load_inventory()["board"].facts
    assert found == {one_line(key): one_line(value) for key, value in facts.items()}
    save_entry(entry(found))
    assert load_inventory()["board"].facts == found


@pytest.mark.parametrize(
    ("text", "kept"),
    [("😀 board", "😀 board"), ("\ud83d", "\ufffd"), ("a\x00\x1b\x7f\u202e\n\"'\\", "a\ufffd\ufffd\ufffd\ufffd \"'\\")],
)
def test_surrogates_and_controls_do_not_brick_it(text: str, kept: str, here: Path) -> None:
    save_entry(entry({"cpu": text, text: "x"}))
    assert load_inventory()["board"].facts == {"cpu": kept, kept: "x"}
