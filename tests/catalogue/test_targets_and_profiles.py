from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.catalogue.profiles import load_profiles
from edgebuild.catalogue.shipped import pick, shipped_folder
from edgebuild.catalogue.targets import load_targets
from edgebuild.core.artifact import Fp16Meaning
from edgebuild.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

PROFILE = """\
title = "A phone"
backend = "onnxruntime"
requires_arch = ["aarch64"]
precisions = ["fp32"]
settings = [{ threads = 1 }]
"""


def test_what_ships() -> None:
    assert set(load_profiles()) == {"arm-onnx", "intel-openvino", "jetson-dla", "jetson-tensorrt", "x86-onnx"}
    assert set(load_targets()) == {
        "generic-aarch64",
        "generic-aarch64-dotprod",
        "intel-core-ultra",
        "intel-n100",
        "jetson-agx-orin",
        "jetson-orin-nano-8gb",
        "jetson-orin-nx-16gb",
        "jetson-thor",
        "raspberry-pi-4",
        "raspberry-pi-5",
        "this-machine",
        "x86-64-no-vnni",
    }


def test_every_target_names_profiles_that_exist_and_fit_its_architecture() -> None:
    profiles = load_profiles()
    for target in load_targets().values():
        assert set(target.profiles) <= set(profiles)
        if target.facts.arch is not None:
            for name in target.profiles:
                assert target.facts.arch.value in profiles[name].requires_arch


def test_every_fact_of_a_device_model_has_a_source_and_says_whether_it_was_read() -> None:
    for target in load_targets().values():
        facts = [fact for _, fact in target.facts if fact is not None]
        assert facts or target.name == "this-machine"
        for fact in facts:
            assert len(fact.source) > 10
            assert fact.date <= "2100"
            assert fact.verified == "believed" or fact.verified >= fact.date


def test_this_machine_expects_nothing() -> None:
    assert all(fact is None for _, fact in load_targets()["this-machine"].facts)


def test_the_last_rule_of_every_list_holds_everywhere() -> None:
    for profile in load_profiles().values():
        for rules in (profile.fp16, profile.int8, profile.channels):
            assert not rules or rules[-1].requires == ()


def test_fp16_is_storage_on_x86_without_fp16_arithmetic() -> None:
    profiles = load_profiles()
    for name in ("x86-onnx", "intel-openvino"):
        assert profiles[name].fp16[-1].meaning is Fp16Meaning.STORAGE


def test_tensorrt_gets_symmetric_8_bit_only() -> None:
    for rule in load_profiles()["jetson-tensorrt"].int8:
        for scheme in rule.schemes:
            assert scheme.symmetric_activations
            assert (scheme.activations, scheme.weights) == ("int8", "int8")


def test_files_beside_the_project_are_added(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "targets").mkdir()
    (tmp_path / "profiles" / "phone.toml").write_text(PROFILE)
    (tmp_path / "targets" / "my-phone.toml").write_text('title = "Mine"\nprofiles = ["phone"]\n')
    assert load_profiles(tmp_path)["phone"].backend == "onnxruntime"
    assert load_targets(tmp_path)["my-phone"].name == "my-phone"
    assert "my-phone" not in load_targets()


def test_a_shipped_name_cannot_be_taken(tmp_path: Path) -> None:
    (tmp_path / "targets").mkdir()
    path = tmp_path / "targets" / "intel-n100.toml"
    path.write_text('title = "Mine"\nprofiles = ["x86-onnx"]\n')
    with pytest.raises(ConfigError) as caught:
        load_targets(tmp_path)
    assert caught.value.problems == (f'{path}: "intel-n100" ships with edgebuild; give the file another name',)


def test_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    one, two = tmp_path / "profiles" / "one.toml", tmp_path / "profiles" / "two.toml"
    one.write_text(PROFILE.replace("aarch64", "").replace("fp32", "fp33"))
    two.write_text(PROFILE + 'device_work = false\n[[fp16]]\nmeaning = "storage"\nsource = "x"\ndate = "soon"\n')
    with pytest.raises(ConfigError) as caught:
        load_profiles(tmp_path)
    assert caught.value.problems == (
        f'{one}: requires_arch#1: must not be empty, got ""',
        f'{one}: precisions#1: must be "fp32", "fp16", "bf16", "int8", "int8-dynamic" or "int8-storage", '
        'got "fp33"; did you mean "fp32"?',
        f'{two}: [[fp16]]#1.date: must be a date such as "2026-11-22", got "soon"',
        f"{two}: [[fp16]]#1.verified: is missing",
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("device_work = false", "needs `why_no_device_work` exactly where `device_work` is false"),
        ('why_no_device_work = "x"', "needs `why_no_device_work` exactly where `device_work` is false"),
    ],
)
def test_a_profile_that_contradicts_itself(tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "profiles").mkdir()
    path = tmp_path / "profiles" / "one.toml"
    path.write_text(f"{PROFILE}{line}\n")
    with pytest.raises(ConfigError) as caught:
        load_profiles(tmp_path)
    assert caught.value.problems == (f"{path}: {problem}",)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_a_precision_needs_its_rules(tmp_path: Path, precision: str) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "one.toml").write_text(PROFILE.replace("fp32", precision))
    with pytest.raises(ConfigError, match=rf"{precision} needs \[\[{precision}\]\] rules"):
        load_profiles(tmp_path)


def test_an_unknown_target_is_suggested() -> None:
    with pytest.raises(UsageError) as caught:
        pick("targets", "raspberry-pi5", load_targets())
    assert caught.value.message == 'Unknown target "raspberry-pi5"; did you mean "raspberry-pi-5"?'
    assert caught.value.exit_code == 2
    assert shipped_folder("targets").is_dir()
