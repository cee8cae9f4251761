from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.catalogue.profiles import load_profiles
from edgebuild.catalogue.resolve import ResolvedTarget, resolve
from edgebuild.catalogue.shipped import shipped_folder
from edgebuild.catalogue.targets import CountFact, Facts, Target, load_targets
from edgebuild.core.artifact import Int8Scheme
from edgebuild.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

PROFILES = load_profiles()
TARGETS = load_targets()

X86 = {"arch": "x86_64", "isa": "sse2 avx2", "cores": "4", "memory_bytes": str(8 * 2**30), "cpu": "AMD EPYC"}
N100 = X86 | {"isa": "sse2 avx2 avx_vnni", "cpu": "Intel(R) N100"}


def here(**changes: str) -> ResolvedTarget:
    return resolve(TARGETS["this-machine"], PROFILES, X86 | changes)


def test_this_machine_by_its_probe() -> None:
    resolved = here()
    assert [profile.name for profile in resolved.profiles] == ["intel-openvino", "x86-onnx"]
    assert resolved.refused == (("arm-onnx", "is for aarch64, the device is x86_64"),)
    assert resolved.memory_bytes == 8 * 2**30
    assert all(profile.cores == 4 for profile in resolved.profiles)


def test_the_first_rule_that_holds_chooses_the_scheme() -> None:
    for isa, reduced in (("avx2", True), ("avx2 avx_vnni", False), ("avx2 avx512f avx512_vnni", False)):
        for profile in here(isa=isa).profiles:
            assert profile.schemes[0].reduce_range is reduced
            assert profile.channel_multiple == (16 if "avx512f" in isa else 8)


def test_int8_is_raced_for_every_scheme_and_quantiser() -> None:
    (ort,) = (profile for profile in here().profiles if profile.backend == "onnxruntime")
    raced = [(p.quantiser, p.scheme) for p in ort.precisions if p.kind == "int8"]
    assert len(raced) == len(set(raced)) == 4
    assert {quantiser for quantiser, _ in raced} == {"edgebuild", "onnxruntime"}


def test_settings_have_numbers_and_no_doubles() -> None:
    (ort,) = (profile for profile in here(cores="1").profiles if profile.backend == "onnxruntime")
    assert len(ort.settings) == len(set(ort.settings)) == 3, "all cores and one thread are the same on one core"
    assert {dict(setting)["threads"] for setting in ort.settings} == {1}


def test_the_thread_count_of_the_user_is_the_only_one() -> None:
    resolved = resolve(TARGETS["this-machine"], PROFILES, X86, threads=3)
    for profile in resolved.profiles:
        assert {dict(setting)["threads"] for setting in profile.settings} == {3}


def test_a_cpu_that_is_too_old_refuses_the_profile() -> None:
    resolved = here(isa="sse2")
    assert resolved.profiles == ()
    assert dict(resolved.refused)["x86-onnx"] == "needs a CPU with avx2"


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"this-machine"}))
def test_every_target_resolves_from_its_facts_alone(name: str) -> None:
    resolved = resolve(TARGETS[name], PROFILES, {})
    assert len(resolved.profiles) + len(resolved.refused) == len(TARGETS[name].profiles)
    for refused, reason in resolved.refused:
        profile = PROFILES[refused]
        lacking = profile.accelerator is not None and f"needs the accelerator {profile.accelerator}" in reason
        assert lacking or (not profile.device_work and reason == profile.why_no_device_work)


@pytest.mark.parametrize("name", ["raspberry-pi-5", "jetson-thor"])
def test_a_target_that_this_machine_is_not_is_a_contradiction(name: str) -> None:
    with pytest.raises(ConfigError, match="arch"):
        resolve(TARGETS[name], PROFILES, X86)


def test_a_profile_without_device_work_is_refused_with_its_reason() -> None:
    update = {"device_work": False, "why_no_device_work": "has no backend yet in this version of edgebuild"}
    profiles = {**PROFILES, "jetson-tensorrt": PROFILES["jetson-tensorrt"].model_copy(update=update)}
    resolved = resolve(TARGETS["jetson-thor"], profiles, {})
    assert [profile.name for profile in resolved.profiles] == ["arm-onnx"]
    assert dict(resolved.refused)["jetson-tensorrt"] == update["why_no_device_work"]


def test_another_gpu_is_a_contradiction() -> None:
    assert resolve(TARGETS["jetson-agx-orin"], PROFILES, {"gpu_architecture": "8.7"}).profiles
    with pytest.raises(ConfigError, match=r'gpu_architecture: should be "8\.7", the device\'s is "11\.0"'):
        resolve(TARGETS["jetson-agx-orin"], PROFILES, {"gpu_architecture": "11.0"})


@pytest.mark.parametrize("name", ["jetson-agx-orin", "jetson-orin-nano-8gb"])
def test_an_accelerator_is_used_where_the_device_has_one_and_refused_elsewhere(name: str) -> None:
    expected = name == "jetson-agx-orin"
    lacks = "needs the accelerator dla: the target is not known to have one"
    finds_none = "needs the accelerator dla: tensorrt finds none on the device"
    for accelerators, used, reason in ((None, expected, lacks), ("dla", True, ""), ("none", False, finds_none)):
        probe = {"accelerators": accelerators} if accelerators else {}
        resolved = resolve(TARGETS[name], PROFILES, probe)
        assert [p.name for p in resolved.profiles if p.accelerator == "dla"] == (["jetson-dla"] if used else [])
        assert dict(resolved.refused).get("jetson-dla", "") == ("" if used else reason)


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"this-machine"}))
def test_sparse_kernels_are_there_where_a_profile_names_them(name: str) -> None:
    resolved = resolve(TARGETS[name], PROFILES, {"accelerators": "dla"} if "jetson" in name else {})
    found = {profile.name: profile.features for profile in resolved.profiles}
    assert found == {each: ("2:4",) if each == "jetson-tensorrt" else () for each in found}


@pytest.mark.parametrize(
    ("stated", "read", "has"),
    [
        ("7.2", None, False),
        ("8.0", None, True),
        ("11.0", None, True),
        (None, None, False),
        (None, "8.7", True),
        (None, "7.2", False),
        (None, "unknown", False),
        (None, "strange", False),
    ],
)
def test_a_feature_may_ask_for_a_gpu_and_one_that_is_not_known_has_it_not(
    stated: str | None, read: str | None, has: bool
) -> None:
    orin = TARGETS["jetson-agx-orin"]
    gpu = orin.facts.gpu_architecture
    assert gpu is not None
    fact = gpu.model_copy(update={"value": stated}) if stated else None
    target = orin.model_copy(update={"facts": orin.facts.model_copy(update={"gpu_architecture": fact})})
    resolved = resolve(target, PROFILES, {"gpu_architecture": read} if read else {})
    (profile,) = [each for each in resolved.profiles if each.name == "jetson-tensorrt"]
    assert profile.features == (("2:4",) if has else ())


def test_facts_alone_say_nothing_of_this_machine() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(TARGETS["this-machine"], PROFILES, {})
    assert caught.value.problems == ("[facts].arch: isn't stated, and no device was probed",)


def test_the_device_that_is_meant() -> None:
    assert resolve(TARGETS["intel-n100"], PROFILES, N100).refused == ()


def test_contradictions_are_told_all_at_once() -> None:
    wrong = {"arch": "aarch64", "isa": "asimd", "memory_bytes": str(2**30), "board": "Some Board", "cores": "1"}
    with pytest.raises(ConfigError) as caught:
        resolve(TARGETS["intel-n100"], PROFILES, wrong)
    assert caught.value.source == 'target "intel-n100"'
    assert caught.value.problems == (
        '[facts].arch: should be "x86_64", the device is "aarch64"',
        "[facts].isa: the device's CPU lacks avx2, avx_vnni",
        '[facts].known_as: should be "N100", the device is "Some Board"',
    )


def with_memory(stated_bytes: int) -> Target:
    sourced = {"source": "a data sheet", "date": "2026-11-22", "verified": "believed"}
    facts = Facts(memory_bytes=CountFact(value=stated_bytes, **sourced))
    return TARGETS["this-machine"].model_copy(update={"name": "board", "facts": facts})


def test_less_memory_is_another_board() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(with_memory(8 * 2**30), PROFILES, X86 | {"memory_bytes": str(4 * 2**30)})
    assert caught.value.problems == ("[facts].memory_bytes: should be 8.0 GiB, the device has 4.0 GiB",)


def test_unknown_readings_contradict_nothing() -> None:
    unknown = dict.fromkeys(N100, "unknown")
    assert resolve(TARGETS["intel-n100"], PROFILES, unknown) == resolve(TARGETS["intel-n100"], PROFILES, {})


def test_what_the_kernel_keeps_of_the_memory_is_no_contradiction() -> None:
    resolved = resolve(with_memory(8 * 2**30), PROFILES, X86 | {"memory_bytes": str(int(7.4 * 2**30))})
    assert resolved.memory_bytes == int(7.4 * 2**30)


def test_a_profile_that_does_not_exist() -> None:
    target = TARGETS["intel-n100"].model_copy(update={"profiles": ("x86-onx",)})
    with pytest.raises(ConfigError) as caught:
        resolve(target, PROFILES, N100)
    assert caught.value.problems == ('profiles: unknown profile "x86-onx"; did you mean "x86-onnx"?',)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_renamed_copy_is_the_same_apart_from_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "targets").mkdir()
    shutil.copy(shipped_folder("targets") / f"{name}.toml", tmp_path / "targets" / "mine.toml")
    probe = X86 if name == "this-machine" else {}
    mine = resolve(load_targets(tmp_path)["mine"], PROFILES, probe)
    shipped = resolve(TARGETS[name], PROFILES, probe)
    assert mine.key_fields() == shipped.key_fields()
    assert mine.model_copy(update={"name": name}) == shipped
    assert mine.name == "mine"


def test_a_renamed_profile_makes_the_same_keys(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    shutil.copy(shipped_folder("profiles") / "x86-onnx.toml", tmp_path / "profiles" / "mine.toml")
    profiles = load_profiles(tmp_path)
    base = TARGETS["intel-n100"]
    one = resolve(base.model_copy(update={"profiles": ("mine",)}), profiles, N100)
    two = resolve(base.model_copy(update={"profiles": ("x86-onnx",)}), profiles, N100)
    assert one.key_fields() == two.key_fields()
    assert one.profiles[0].name == "mine"


@given(
    st.sets(st.sampled_from(["avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_fp16", "sse2"])),
    st.integers(1, 256),
)
def test_features_that_no_rule_asks_for_change_nothing(isa: set[str], cores: int) -> None:
    plain = here(isa=" ".join(sorted(isa)), cores=str(cores))
    more = here(isa=" ".join([*sorted(isa), "popcnt", "rdrand"]), cores=str(cores))
    assert plain == more
    for profile in plain.profiles:
        assert profile.precisions[0].kind == "fp32"
        assert all(isinstance(dict(setting)["threads"], int) for setting in profile.settings)


@pytest.mark.parametrize(
    ("profile", "arch", "isa", "raced"),
    [
        ("intel-openvino", "x86_64", "avx2 avx512_bf16", True),
        ("intel-openvino", "x86_64", "avx2 amx_bf16", True),
        ("intel-openvino", "x86_64", "avx2 avx512_vnni", False),
        ("arm-onnx", "aarch64", "asimd bf16", True),
        ("arm-onnx", "aarch64", "asimd asimddp", False),
        ("x86-onnx", "x86_64", "avx2 avx512_bf16", False),
    ],
)
def test_bf16_is_raced_where_profile_and_cpu_have_it(profile: str, arch: str, isa: str, raced: bool) -> None:
    target = Target(name="t", title="t", profiles=(profile,))
    resolved = resolve(target, PROFILES, {"arch": arch, "isa": isa})
    assert ("bf16" in {p.label for p in resolved.profiles[0].precisions}) == raced


@pytest.mark.parametrize(("profile", "arch", "isa"), [("x86-onnx", "x86_64", "avx2"), ("arm-onnx", "aarch64", "asimd")])
def test_dynamic_int8_takes_uint8_activations_and_7_bits_where_static_does(profile: str, arch: str, isa: str) -> None:
    resolved = resolve(Target(name="t", title="t", profiles=(profile,)), PROFILES, {"arch": arch, "isa": isa})
    (found,) = resolved.profiles
    (dynamic,) = (p for p in found.precisions if p.kind == "int8-dynamic")
    assert dynamic.scheme == Int8Scheme(activations="uint8", reduce_range=profile == "x86-onnx")
    assert dynamic.scheme.label in dynamic.label
    assert len(found.schemes) == 2
