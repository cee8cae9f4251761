"""What the emulator is made of, decided without any of it: packages, sources, the files of a CPU, and refusals."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edgebuild.devices.emulator import cores, recipe, setup
from edgebuild.errors import EnvironmentGap

if TYPE_CHECKING:
    from pathlib import Path

HOST = recipe.Host(arch="x86_64", distribution="debian", codename="bookworm", missing=(), runtime="1.32.0")
DEB822 = """\
Types: deb
URIs: mirror://debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: mirror://debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: mirror://other
Suites: nodistro
Components: main
"""


def test_debian_on_x86_is_set_up_on() -> None:
    assert recipe.refusal(HOST) is None


@pytest.mark.parametrize(
    ("host", "word"),
    [
        (replace(HOST, distribution="fedora"), "fedora"),
        (replace(HOST, arch="aarch64"), "aarch64"),
        (replace(HOST, missing=("apt-get", "pip")), "apt-get, pip"),
    ],
)
def test_what_is_not_possible_is_one_sentence(host: recipe.Host, word: str) -> None:
    why = recipe.refusal(host)
    assert why is not None
    assert word in why
    assert why.count(".") == 1


def test_a_refusal_ends_the_set_up_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "read_host", lambda: replace(HOST, distribution="fedora"))
    with pytest.raises(EnvironmentGap, match="fedora"):
        setup.set_up(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_command_that_fails_is_told_in_its_own_words() -> None:
    with pytest.raises(EnvironmentGap, match="lists can't be fetched: E: no network"):
        setup._run(["sh", "-c", "echo noise; echo 'E: no network' >&2; exit 100"], "The lists can't be fetched")


def test_a_part_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        (part / "half").touch()
        raise EnvironmentGap("no network")

    with pytest.raises(EnvironmentGap):
        setup._whole(tmp_path / "root", fail)
    assert not list(tmp_path.iterdir())
    setup._whole(tmp_path / "root", lambda part: (part / "all").touch())
    setup._whole(tmp_path / "root", fail)
    assert [path.name for path in tmp_path.rglob("*")] == ["root", "all"]


def test_a_damaged_emulator_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "read_host", lambda: HOST)
    manifest = tmp_path / "emulator" / HOST.key / setup.MANIFEST
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    with pytest.raises(EnvironmentGap, match="damaged") as caught:
        setup.set_up(tmp_path)
    assert "Remove" in caught.value.hint


def test_another_release_or_runtime_is_another_emulator() -> None:
    keys = {HOST.key, replace(HOST, codename="trixie").key, replace(HOST, runtime="1.33.0").key}
    assert len(keys) == 3
    assert replace(HOST, missing=("gcc",)).key == HOST.key


def test_only_this_releases_archive_is_asked() -> None:
    kept = dict(
        recipe.sources_of("bookworm", [("debian.sources", DEB822), ("old.list", "deb mirror://old buster main")])
    )
    assert list(kept) == ["debian.sources"]
    assert "mirror://debian-security" in kept["debian.sources"]
    assert "nodistro" not in kept["debian.sources"]


def test_one_line_sources_lose_their_architecture() -> None:
    text = "# deb mirror://no bookworm main\ndeb [arch=amd64] mirror://debian bookworm main\ndeb mirror://x sid main\n"
    ((name, kept),) = recipe.sources_of("bookworm", [("sources.list", text)])
    assert name == "sources.list"
    assert kept.split() == ["deb", "mirror://debian", "bookworm", "main"]


def test_stanzas_for_the_hosts_architecture_serve_the_guests_too() -> None:
    text = "Types: deb\nArchitectures: amd64\nURIs: mirror://debian\nSuites: bookworm\nComponents: main\n"
    ((_, kept),) = recipe.sources_of("bookworm", [("debian.sources", text)])
    assert "Architectures" not in kept


def test_qemu_brings_only_libraries_that_are_missing() -> None:
    closure = "qemu-user:amd64\n  Depends: libc6:amd64\nlibc6:amd64\nlibcapstone4:amd64\nzlib1g:amd64\n<virtual>\n"
    assert recipe.libraries_to_fetch(closure, ["zlib1g"]) == ("qemu-user:amd64", "libcapstone4:amd64")


def test_the_guests_python_is_the_releases() -> None:
    assert recipe.python_of("Package: python3-minimal\nVersion: 3.11.2-1+b1\n") == "3.11"
    assert recipe.python_of("N: nothing") is None
    assert "libpython3.11-stdlib" in recipe.guest_packages("3.11")


def test_the_runtime_is_the_hosts() -> None:
    assert "onnxruntime==1.32.0" in recipe.wheels(HOST)
    assert "onnxruntime" in recipe.wheels(replace(HOST, runtime=None))


def test_the_cpus_files_say_what_is_emulated_and_name_its_features() -> None:
    found = cores.features(1 << 1 | 1 << 20, 1 << 13)
    assert found == ("asimd", "asimddp", "i8mm")
    files = cores.system_files(cores.KNOWN["cortex-a76"], found, "7.2.0")
    cpuinfo = files["proc/cpuinfo"]
    assert "Features\t: asimd asimddp i8mm\n" in cpuinfo
    assert "CPU part\t: 0xd0b\n" in cpuinfo
    assert "emulated" in cpuinfo
    assert "emulated" in files["etc/os-release"]
    assert files["proc/meminfo"] == ""
    assert files["sys/devices/system/cpu/cpu0/regs/identification/midr_el1"] == "0x00000000414fd0b1\n"


def test_every_core_that_targets_name_is_known() -> None:
    from edgebuild.catalogue.targets import load_targets

    named = {t.facts.emulator_core.value for t in load_targets().values() if t.facts.emulator_core is not None}
    assert named <= set(cores.KNOWN)


@pytest.mark.parametrize(
    "name", ["with space", "it's", 'say "hi"', "$HOME `id` $(id)", "new\nline", "back\\slash", "*?[x]", "ü😀"]
)
def test_the_start_script_takes_any_path_as_it_is(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    qemu = folder / "qemu"
    qemu.write_text('#!/bin/sh\nprintf "%s\\0" "$PYTHONPATH" "$LD_LIBRARY_PATH" "$@"\n')
    qemu.chmod(0o755)
    emulator = setup.Emulator(
        folder=folder,
        qemu=str(qemu),
        libraries=str(folder / "lib"),
        python_version="3.11",
        versions={},
        why_no_counts="",
    )
    start = folder / "python"
    start.write_text(emulator._start(folder / "core", "cortex-a72"))
    start.chmod(0o755)
    shown = subprocess.run([str(start), "-c", "x y"], check=True, capture_output=True, cwd=tmp_path).stdout
    prefix = str(folder / "core")
    assert shown.decode().split("\0")[:-1] == [
        str(folder / "site"),
        str(folder / "lib"),
        *("-L", prefix, "-cpu", "cortex-a72", "-U", "LD_LIBRARY_PATH", "-0", str(start)),
        *(f"{prefix}/usr/bin/python3.11", "-c", "x y"),
    ]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"qemu": 1}', "\x00", "[" * 100_000, '{"qemu": "/x", "extra": 1}'])
def test_a_damaged_manifest_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / setup.MANIFEST).write_text(text)
    with pytest.raises(EnvironmentGap, match="is damaged"):
        setup._open(tmp_path)


def test_a_colon_in_the_path_is_said(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentGap, match="a colon ends"):
        setup.set_up(tmp_path / "a:b")
