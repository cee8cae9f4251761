"""Every shipped target and profile: where each fact is from, what it resolves to, and that no name decides anything."""

from __future__ import annotations

import shutil
from datetime import date
from typing import TYPE_CHECKING

import pytest

from edgebuild.catalogue.profiles import load_profiles
from edgebuild.catalogue.resolve import resolve
from edgebuild.catalogue.shipped import shipped_folder
from edgebuild.catalogue.sources import BELIEVED, Sourced
from edgebuild.catalogue.targets import load_targets
from edgebuild.core.artifact import Fp16Meaning
from edgebuild.errors import EnvironmentGap
from edgebuild.planning.inputs import PlanInputs
from edgebuild.planning.plan import Plan, make_plan, plan_digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.catalogue.profiles import Profile
    from edgebuild.catalogue.targets import Target

PROFILES = load_profiles()
TARGETS = load_targets()
PROMISED = (
    "jetson-orin-nano-8gb",
    "jetson-orin-nx-16gb",
    "jetson-agx-orin",
    "jetson-thor",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "generic-aarch64",
    "generic-aarch64-dotprod",
    "intel-n100",
    "intel-core-ultra",
    "x86-64-no-vnni",
)
MODELS = sorted(set(TARGETS) - {"this-machine"})
#: Enough of this machine for the one target that states nothing.
X86 = {"arch": "x86_64", "isa": "sse2 avx2 avx512f avx512_vnni", "cores": "2", "memory_bytes": str(8 * 2**30)}


def facts_of(target: Target) -> dict[str, Sourced]:
    return {name: fact for name, fact in target.facts if fact is not None}


def rules_of(profile: Profile) -> list[Sourced]:
    return [*profile.fp16, *profile.int8, *profile.channels, *profile.features]


SOURCED = [(f"{name}.{fact}", value) for name in MODELS for fact, value in facts_of(TARGETS[name]).items()] + [
    (f"{name}#{index}", rule) for name, profile in PROFILES.items() for index, rule in enumerate(rules_of(profile))
]


def test_every_promised_target_ships() -> None:
    assert set(PROMISED) <= set(TARGETS)


@pytest.mark.parametrize(("where", "fact"), SOURCED, ids=[where for where, _ in SOURCED])
def test_a_fact_says_where_it_is_from_and_whether_anyone_looked(where: str, fact: Sourced) -> None:
    assert len(fact.source) > 10, where
    written = date.fromisoformat(fact.date)
    assert fact.verified == BELIEVED or date.fromisoformat(fact.verified) >= written, where


@pytest.mark.parametrize("name", MODELS)
def test_facts_alone_give_a_profile_or_a_stated_refusal(name: str) -> None:
    resolved = resolve(TARGETS[name], PROFILES, {})
    assert len(resolved.profiles) + len(resolved.refused) == len(TARGETS[name].profiles) > 0
    assert all(reason for _, reason in resolved.refused)
    for profile in resolved.profiles:
        assert profile.precisions
        assert profile.settings


@pytest.mark.parametrize("name", MODELS)
def test_whoever_can_be_emulated_is_so_by_a_core_with_the_features_that_are_stated(name: str) -> None:
    facts = TARGETS[name].facts
    if facts.emulator_core is not None:
        assert facts.arch is not None
        assert facts.arch.value == "aarch64"
        assert facts.isa is not None
        assert ("asimddp" in facts.isa.value) == (facts.emulator_core.value != "cortex-a72")


def test_the_raspberry_pis_and_the_generic_cores_can_be_emulated() -> None:
    cores = {name: TARGETS[name].facts.emulator_core for name in MODELS}
    assert {name: core.value for name, core in cores.items() if core is not None} == {
        "raspberry-pi-4": "cortex-a72",
        "raspberry-pi-5": "cortex-a76",
        "generic-aarch64": "cortex-a72",
        "generic-aarch64-dotprod": "cortex-a76",
    }


def test_without_vnni_weights_keep_a_bit_in_reserve() -> None:
    for profile in resolve(TARGETS["x86-64-no-vnni"], PROFILES, {}).profiles:
        assert profile.schemes[0].reduce_range


@pytest.mark.parametrize(("name", "first"), [("raspberry-pi-5", "s8s8"), ("raspberry-pi-4", "u8s8")])
def test_the_scheme_that_took_fewer_instructions_comes_first(name: str, first: str) -> None:
    (profile,) = resolve(TARGETS[name], PROFILES, {}).profiles
    assert profile.schemes[0].label == first
    assert {scheme.label for scheme in profile.schemes} == {"s8s8", "u8s8"}


def test_fp16_on_arm_is_called_what_is_built() -> None:
    (profile,) = resolve(TARGETS["raspberry-pi-5"], PROFILES, {}).profiles
    assert profile.fp16 is Fp16Meaning.STORAGE


def plan_of(target: Target, profiles: Mapping[str, Profile]) -> Plan:
    probe = X86 if target.facts.arch is None else {}
    resolved = resolve(target, profiles, probe)
    return make_plan(PlanInputs(target=resolved, objective="latency", budget="points = 2", quantisable_ops=3))


def told(target: Target, profiles: Mapping[str, Profile]) -> str:
    """The digest of a target's plan, or every reason why there is none, without the target's name."""
    try:
        return plan_digest(plan_of(target, profiles))
    except EnvironmentGap as gap:
        return gap.message.replace(target.name, "TARGET", 1)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_renamed_copy_in_a_project_has_the_same_plan(tmp_path: Path, name: str) -> None:
    (tmp_path / "targets").mkdir()
    shutil.copy(shipped_folder("targets") / f"{name}.toml", tmp_path / "targets" / "zz-mine.toml")
    copy = load_targets(tmp_path)["zz-mine"]
    assert told(copy, load_profiles(tmp_path)) == told(TARGETS[name], PROFILES)


@pytest.mark.parametrize("name", ["raspberry-pi-5", "jetson-orin-nano-8gb"])
def test_also_where_this_version_works_on_every_profile(tmp_path: Path, name: str) -> None:
    """Independent of which backends are reached today: all profiles are taken as usable."""
    open_to_all = {
        key: profile.model_copy(update={"device_work": True, "why_no_device_work": None})
        for key, profile in PROFILES.items()
    }
    (tmp_path / "targets").mkdir()
    shutil.copy(shipped_folder("targets") / f"{name}.toml", tmp_path / "targets" / "zz-mine.toml")
    shipped, mine = plan_of(TARGETS[name], open_to_all), plan_of(load_targets(tmp_path)["zz-mine"], open_to_all)
    assert shipped.candidates
    assert (shipped.target, mine.target) == (name, "zz-mine")
    assert plan_digest(mine) == plan_digest(shipped)
    assert mine.model_dump_json().replace("zz-mine", name) == shipped.model_dump_json()
