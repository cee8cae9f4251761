"""`doctor`: what this machine has, and what to do about each gap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from edgebuild.cli.answering import Answer
from edgebuild.cli.output import make_console, say
from edgebuild.core.values import Value
from edgebuild.errors import EnvironmentGap

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from edgebuild.backends.protocol import Backend

State: TypeAlias = Literal["ok", "gap", "note"]
OK: State = "ok"
GAP: State = "gap"
NOTE: State = "note"
UNKNOWN = "unknown"


class Row(NamedTuple):
    """Something of this machine, and what to do about it."""

    state: State
    what: str
    found: str
    advice: str


class Finding(Value):
    """Something of this machine: a gap is what keeps it from something, and ``advice`` what to do about it."""

    state: State
    what: str
    found: str
    advice: str


class Difference(Value):
    """A fact that shapes results: ``then`` in the build, and ``now``; "absent" where there is none."""

    name: str
    then: str
    now: str


class Health(Value):
    """This machine: what was found; or, against the build of an id, what differs from it."""

    findings: tuple[Finding, ...] = ()
    against: str | None = None
    differences: tuple[Difference, ...] = ()


def examine(against: str | None, project: Path) -> Answer:
    """Return what was found; exit code 6 when nothing can be built here or something differs from ``against``."""
    from edgebuild.backends.table import backends
    from edgebuild.fleet.provider import probe_here

    table = backends()
    probe = probe_here(table)
    if against is not None:
        return _differences(against, project, probe)
    unfit = _unfit(probe)
    found = [*_backends(table, unfit), *_tools(unfit), *_machine(probe, Path("/sys"))]
    usable = any(backend.installed() is not None for backend in table.values())
    return Answer(
        value=Health(findings=tuple(Finding(**row._asdict()) for row in found)),
        text=lambda: _show(found),
        code=0 if usable else EnvironmentGap.exit_code,
    )


def _show(found: Iterable[Row]) -> None:
    from rich.table import Table
    from rich.text import Text

    rows = Table("", "What", "Found", "What to do", box=None, pad_edge=False)
    for row in found:
        rows.add_row(*map(Text, row))  # not markup: hints hold square brackets
    make_console().print(rows)


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
            yield Row(OK, f"backend {name}", version, "")
        elif name in unfit:
            yield Row(NOTE, f"backend {name}", "not installed", f"nothing: it {unfit[name]}")
        else:
            yield Row(GAP, f"backend {name}", "not installed", backend.install_hint)


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
            yield Row(OK, name, metadata.version(name), "")
        except metadata.PackageNotFoundError:
            if extra in unfit:
                continue
            yield Row(GAP, name, "not installed", f"{why}: pip install 'edgebuild[{extra}]'")


def _machine(probe: Mapping[str, str], sysfs: Path) -> Iterator[Row]:
    for name in ("arch", "cpu", "cores", "memory_bytes", "kernel", "os", "python"):
        found = probe.get(name, UNKNOWN)
        yield Row(OK if found != UNKNOWN else NOTE, name, found, "")
    vnni = sorted(set(probe.get("isa", "").split()) & {"avx_vnni", "avx512_vnni", "asimddp"})
    if vnni:
        yield Row(OK, "int8 dot product", ", ".join(vnni), "")
    elif probe.get("arch") == "x86_64":
        advice = "nothing: int8 weights are kept in 7 bits here, so that nothing saturates"
        yield Row(NOTE, "int8 dot product", "none", advice)
    else:
        yield Row(NOTE, "int8 dot product", "none", "nothing: int8 gains less speed here")
    yield _governor(probe, sysfs)
    yield _energy(probe, sysfs)


def _governor(probe: Mapping[str, str], sysfs: Path) -> Row:
    governor = probe.get("governor", UNKNOWN)
    if governor == "performance":
        return Row(OK, "clock governor", governor, "")
    clocks = sysfs / "devices/system/cpu/cpu0/cpufreq"
    if "performance" in _read(clocks / "scaling_available_governors").split():
        advice = (
            "for steadier figures: echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        )
    elif governor == UNKNOWN and probe.get("virtualised") == "yes":
        advice = "nothing: a virtual machine shows no clocks; results are for the 'deployed' mode"
    else:
        advice = "nothing: clocks can't be set here; results are for the 'deployed' mode"
    return Row(NOTE, "clock governor", governor, advice)


def _energy(probe: Mapping[str, str], sysfs: Path) -> Row:
    sensor = probe.get("power_sensor", UNKNOWN)
    if sensor != UNKNOWN:
        return Row(OK, "energy sensor", sensor, "")
    if any((sysfs / "class/powercap").glob("*/energy_uj")):
        advice = "until the next start: sudo chmod a+r /sys/class/powercap/*/energy_uj"
    else:
        advice = "nothing: this machine shows none, so energy stays unknown"
    return Row(NOTE, "energy sensor", UNKNOWN, advice)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _differences(against: str, project: Path, probe: Mapping[str, str]) -> Answer:
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
    different = tuple(
        Difference(name=name, then=then.get(name, "absent"), now=now.get(name, "absent"))
        for name in sorted(set(now) | set(then))
        if now.get(name) != then.get(name)
    )
    return Answer(
        value=Health(against=record.build_id, differences=different),
        text=lambda: _show_differences(record.build_id, different),
        code=EnvironmentGap.exit_code if different else 0,
    )


def _show_differences(build: str, different: Sequence[Difference]) -> None:
    for each in different:
        say(f"{each.name}: {each.then} in build {build}, {each.now} now")
    if different:
        say("Results of that build need not repeat here: steps that these shape are run again.")
    else:
        say(f"Nothing differs from build {build}.")
