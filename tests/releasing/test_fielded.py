"""Which devices of an inventory can load a release."""

from __future__ import annotations

from typing import Any

import pytest

from edgebuild.fleet.inventory import DeviceEntry
from edgebuild.releasing.fielded import fielded
from edgebuild.releasing.values import TargetRelease
from tests.releasing.bundles import files_of

RELEASE = TargetRelease.model_validate_json(files_of("pi5")["release.json"])
FACTS = {
    "arch": "aarch64",
    "isa": "asimd asimddp",
    "memory_bytes": "4000000000",
    "os": "Debian GNU/Linux 12",
    "runtime.onnxruntime": "1.32.0",
}


def board(name: str, facts: dict[str, str], **fields: Any) -> DeviceEntry:
    given: dict[str, Any] = {"target": "pi5", "address": "pi@desk", "host_keys": ("ssh-ed25519 AAAA",), **fields}
    return DeviceEntry(name=name, facts=facts, **given)


def needs(**fields: Any) -> TargetRelease:
    return RELEASE.model_copy(update={"requires": RELEASE.requires.model_copy(update=fields)})


def test_a_device_like_the_one_that_was_measured_can_load_it() -> None:
    (found,) = fielded(needs(isa=("asimd", "asimddp"), memory_bytes=10**6), [board("desk", FACTS)])
    assert (found.device, found.runtime, found.system) == ("desk", "onnxruntime 1.32.0", "Debian GNU/Linux 12")
    assert found.misfits == found.doubts == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"runtime.onnxruntime": "1.31.0"}, "onnxruntime must be 1.32.0, it is 1.31.0 here"),
        ({"runtime.onnxruntime": "unknown"}, "onnxruntime must be 1.32.0, it isn't here"),
        ({"arch": "x86_64"}, "architecture must be aarch64"),
        ({"isa": "asimd"}, "the CPU lacks asimddp"),
        ({"memory_bytes": "1000"}, "1 MB of memory are needed"),
    ],
)
def test_each_difference_is_told(change: dict[str, str], words: str) -> None:
    (found,) = fielded(needs(isa=("asimddp",), memory_bytes=10**6), [board("desk", {**FACTS, **change})])
    assert len(found.misfits) == 1
    assert words in found.misfits[0]


def test_other_targets_and_emulators_are_left_out_and_the_rest_is_by_name() -> None:
    emulator = DeviceEntry(name="qemu", target="pi5", kind="emulator", core="cortex-a76", facts=FACTS)
    entries = [board("b", FACTS), board("a", {}), emulator, board("jetson", FACTS, target="jetson")]
    found = fielded(RELEASE, entries)
    assert [each.device for each in found] == ["a", "b"]
    assert found[0].system == "unknown"
    assert any("architecture" in each for each in found[0].misfits)
