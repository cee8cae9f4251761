"""`doctor`: what this machine has, and what to do about each gap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edgebuild.cli.output import make_console, say
from edgebuild.errors import EnvironmentGap

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from edgebuild.backends.protocol import Backend

#: State, what it is, what was found, what to do.
Row: TypeAlias = tuple[str, str, str, str]

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
    unfit = _unfit(probe)
    found = [*_backends(table, unfit), *_tools(unfit), *_machine(probe, Path("/sys"))]
    rows = Table("", "What", "Found", "What to do", box=None, pad_edge=False)
    for state, what, value, advice in found:
        rows.add_row(*map(Text, (state, what, value, advice)))  # not markup: hints hold square brackets
    make_console().print(rows)
    usable = any(backend.installed() is not None for backend in table.values())
    return 0 if usable else EnvironmentGap.exit_code


def _unfit(probe: Mapping[str, str]) -> Mapping[str, str]:
    """Return the backends that no profile uses on a CPU like this one's, and why not."""
    from edgebuild.catalogue.profiles import load_profiles
    from edgebuild.catalogue.resolve import refusal

    arch, isa = probe.get("arch", UNKNOWN), frozenset(probe.get("isa", "").split())
    reasons: dict[str, list[str | None]] = {}
    for profile in load_profiles().values():
        reasons.setdefault(profile.backend, []).append(None if arch == UNKNOWN else refusal(profile, arch, isa))
    return {name: why[0] for name, why in reasons.items() if why[0] is not None and None not in why}


def _backends(table: Mapping[str, Backend], unfit: Mapping[str, str]) -> Iterator[Row]:
    for name, backend in table.items():
        version = backend.installed()
        if version is not None:
            yield OK, f"backend {name}", version, ""
        elif name in unfit:
            yield NOTE, f"backend {name}", "not installed", f"nothing: it {unfit[name]}"
        else:
            yield GAP, f"backend {name}", "not installed", backend.install_hint


def _tools(unfit: Collection[str]) -> Iterator[Row]:
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
            if extra in unfit:
                continue
            yield GAP, name, "not installed", f"{why}: pip install 'edgebuild[{extra}]'"


def _machine(probe: Mapping[str, str], sysfs: Path) -> Iterator[Row]:
    for name in ("arch", "cpu", "cores", "memory_bytes", "kernel", "os", "python"):
        yield OK if probe.get(name, UNKNOWN) != UNKNOWN else NOTE, name, probe.get(name, UNKNOWN), ""
    vnni = sorted(set(probe.get("isa", "").split()) & {"avx_vnni", "avx512_vnni", "asimddp"})
    if vnni:
        yield OK, "int8 dot product", ", ".join(vnni), ""
    elif probe.get("arch") == "x86_64":
        advice = "nothing: int8 weights are kept in 7 bits here, so that nothing saturates"
        yield NOTE, "int8 dot product", "none", advice
    else:
        yield NOTE, "int8 dot product", "none", "nothing: int8 gains less speed here"
    yield _governor(probe, sysfs)
    yield _energy(probe, sysfs)


def _governor(probe: Mapping[str, str], sysfs: Path) -> Row:
    governor = probe.get("governor", UNKNOWN)
    if governor == "performance":
        return OK, "clock governor", governor, ""
    clocks = sysfs / "devices/system/cpu/cpu0/cpufreq"
    if "performance" in _read(clocks / "scaling_available_governors").split():
        advice = (
            "for steadier figures: echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        )
    elif governor == UNKNOWN and probe.get("virtualised") == "yes":
        advice = "nothing: a virtual machine shows no clocks; results are for the 'deployed' mode"
    else:
        advice = "nothing: clocks can't be set here; results are for the 'deployed' mode"
    return NOTE, "clock governor", governor, advice


def _energy(probe: Mapping[str, str], sysfs: Path) -> Row:
    sensor = probe.get("power_sensor", UNKNOWN)
    if sensor != UNKNOWN:
        return OK, "energy sensor", sensor, ""
    if any((sysfs / "class/powercap").glob("*/energy_uj")):
        advice = "until the next start: sudo chmod a+r /sys/class/powercap/*/energy_uj"
    else:
        advice = "nothing: this machine shows none, so energy stays unknown"
    return NOTE, "energy sensor", UNKNOWN, advice


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


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
