"""`doctor`: what this machine has, and what to do about each gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.cli.output import make_console, say
from edgebuild.errors import EnvironmentGap

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

OK, GAP, NOTE = "ok", "gap", "note"
UNKNOWN = "unknown"


def run_doctor(against: str | None, project: Path) -> int:
    """Print what was found; return 0, or 6 when nothing can be built here or something differs from ``against``."""
    from rich.table import Table
    from rich.text import Text

    from edgebuild.backends.table import backends
    from edgebuild.fleet.provider import probe_here

    table = backends()
    probe = probe_here(table)
    if against is not None:
        return _differences(against, project, probe)
    found = [*_backends(table), *_tools(), *_machine(probe)]
    rows = Table("", "What", "Found", "What to do", box=None, pad_edge=False)
    for state, what, value, advice in found:
        rows.add_row(*map(Text, (state, what, value, advice)))  # not markup: hints hold square brackets
    make_console().print(rows)
    usable = any(backend.installed() is not None for backend in table.values())
    return 0 if usable else EnvironmentGap.exit_code


def _backends(table: Mapping[str, object]) -> Iterator[tuple[str, str, str, str]]:
    for name, backend in table.items():
        version = backend.installed()  # type: ignore[attr-defined]
        if version is None:
            yield GAP, f"backend {name}", "not installed", backend.install_hint  # type: ignore[attr-defined]
        else:
            yield OK, f"backend {name}", version, ""


def _tools() -> Iterator[tuple[str, str, str, str]]:
    from importlib import metadata

    for name, why, extra in (
        ("torch", "for models given as a factory", "torch"),
        ("torch-pruning", "for the technique prune-structured", "compress"),
        ("tensorly", "for the technique factorise", "compress"),
        ("pycocotools", "for the metrics coco_map and coco_map50", "detection"),
        ("nncf", "for NNCF's int8 as a candidate", "openvino"),
        ("onnxruntime", "for the reference and calibration", "onnxruntime"),
    ):
        try:
            yield OK, name, metadata.version(name), ""
        except metadata.PackageNotFoundError:
            yield GAP, name, "not installed", f"{why}: pip install 'edgebuild[{extra}]'"


def _machine(probe: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    for name in ("arch", "cpu", "cores", "memory_bytes", "kernel", "os", "python"):
        yield OK if probe.get(name, UNKNOWN) != UNKNOWN else NOTE, name, probe.get(name, UNKNOWN), ""
    isa = set(probe.get("isa", "").split())
    vnni = sorted(isa & {"avx_vnni", "avx512_vnni", "asimddp"})
    yield (
        (OK, "int8 dot product", ", ".join(vnni), "")
        if vnni
        else (NOTE, "int8 dot product", "none", "int8 weights are kept in 7 bits here, so that nothing saturates")
    )
    governor = probe.get("governor", UNKNOWN)
    if governor in {UNKNOWN, "performance"}:
        advice = (
            "clocks can't be read (a virtual machine?): results are for the 'deployed' mode"
            if governor == UNKNOWN
            else ""
        )
        yield NOTE if advice else OK, "clock governor", governor, advice
    else:
        yield NOTE, "clock governor", governor, "for steadier figures: cpupower frequency-set -g performance"
    sensors = [value for name, value in probe.items() if "power" in name or "energy" in name]
    readable = any(value not in {UNKNOWN, ""} for value in sensors)
    yield (
        (OK, "energy sensor", "readable", "")
        if readable
        else (
            NOTE,
            "energy sensor",
            UNKNOWN,
            "energy stays unknown; on Intel: sudo chmod a+r /sys/class/powercap/*/energy_uj",
        )
    )


def _differences(against: str, project: Path, probe: Mapping[str, str]) -> int:
    """Compare this machine with what a build ran with."""
    from edgebuild.building.record import find_build, load_record
    from edgebuild.cli.building import home_of
    from edgebuild.devices.probe import configuration_of
    from edgebuild.execution.versions import installed_versions

    record = load_record(find_build(home_of(project), against))
    now = {f"version of {name}": version for name, version in installed_versions()}
    then = {f"version of {name}": version for name, version in record.versions}
    now |= {fact.name: fact.value for fact in configuration_of(probe)}
    then |= {fact.name: fact.value for fact in configuration_of({f.name: f.value for f in record.facts})}
    different = [name for name in sorted(set(now) | set(then)) if now.get(name) != then.get(name)]
    for name in different:
        say(f"{name}: {then.get(name, 'absent')} in build {record.build_id}, {now.get(name, 'absent')} now")
    if not different:
        say(f"Nothing differs from build {record.build_id}.")
        return 0
    say("Results of that build need not repeat here: steps that these shape are run again.")
    return EnvironmentGap.exit_code
