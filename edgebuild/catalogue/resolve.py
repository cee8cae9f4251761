"""Profile + target + probe → the resolved target, the only thing that later stages see."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from edgebuild.catalogue.profiles import CORES_ALL, CORES_HALF, Profile, Rule
from edgebuild.catalogue.project_tables import LimitsTable
from edgebuild.catalogue.tables import unknown
from edgebuild.core.artifact import Fp16Meaning, Int8Scheme, Precision, Setting
from edgebuild.core.capabilities import EMULATED_FACT
from edgebuild.core.measurement import UNKNOWN
from edgebuild.core.values import Value
from edgebuild.devices.messages import whole_number
from edgebuild.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import TypeVar

    from edgebuild.catalogue.targets import Facts, Target
    from edgebuild.core.values import Json

    R = TypeVar("R", bound=Rule)

Settings: TypeAlias = tuple[tuple[str, Setting], ...]

#: Kernels, firmware and graphics take their share before Linux counts memory; more than this is another board.
_MEMORY_SHARE = 0.8


class ResolvedProfile(Value):
    """One way to compile for one device. ``precisions`` and ``settings`` are what is raced.

    ``features`` are what its kernels can do beyond that, such as ``2:4`` sparsity.
    """

    name: str
    backend: str
    arch: str
    isa: tuple[str, ...]
    cores: int | None
    precisions: tuple[Precision, ...]
    settings: tuple[Settings, ...]
    channel_multiple: int
    accelerator: str | None = None
    features: tuple[str, ...] = ()

    def key_fields(self) -> dict[str, Json]:
        """Return all that may shape a result; the name is a label."""
        return self.model_dump(mode="json", exclude={"name"})

    @property
    def fp16(self) -> Fp16Meaning | None:
        """What fp16 means here; ``None`` where it isn't raced."""
        return next((p.fp16 for p in self.precisions if p.kind == "fp16"), None)

    @property
    def schemes(self) -> tuple[Int8Scheme, ...]:
        """The 8-bit schemes with calibrated ranges that are raced, best first."""
        return tuple(dict.fromkeys(p.scheme for p in self.precisions if p.scheme is not None and p.kind == "int8"))


class ResolvedTarget(Value):
    """What a target is on the device at hand. ``refused`` holds (profile, reason) for those that can't be used."""

    name: str
    profiles: tuple[ResolvedProfile, ...]
    refused: tuple[tuple[str, str], ...] = ()
    limits: LimitsTable = LimitsTable()
    memory_bytes: int | None = None

    def key_fields(self) -> dict[str, Json]:
        """Return all that may shape a plan; names are labels."""
        return {
            "profiles": [profile.key_fields() for profile in self.profiles],
            "refused": [reason for _, reason in self.refused],
            "limits": self.limits.model_dump(mode="json"),
            "memory_bytes": self.memory_bytes,
        }


def resolve(
    target: Target, profiles: Mapping[str, Profile], probe: Mapping[str, str], *, threads: int | None = None
) -> ResolvedTarget:
    """Return what ``target`` is on the device that ``probe`` describes (empty: as the target's facts say).

    ``probe`` holds, as text, ``arch``, ``isa`` (features with spaces between), ``cpu``, ``board``, ``cores``,
    ``memory_bytes``, ``gpu_architecture`` and ``accelerators``; a missing or ``unknown`` reading contradicts nothing,
    and neither does the board's name where a reading ``emulated`` is among them. ``threads`` is the only thread count
    to keep, if given. Raises ``ConfigError`` with every contradiction between facts and probe, and every profile that
    doesn't exist. A target that edgebuild can't work on yet is no contradiction: all its profiles are refused.
    """
    reachable = any(profiles[name].device_work for name in target.profiles if name in profiles)
    # Where nothing could be done on the device anyway, that is the reason, not that the device is another one.
    readings = {name: value for name, value in probe.items() if value != UNKNOWN} if reachable else {}
    problems = [f"profiles: {unknown('profile', name, profiles)}" for name in target.profiles if name not in profiles]
    problems += _contradictions(target.facts, readings)
    arch = readings.get("arch") or (target.facts.arch.value if target.facts.arch else None)
    if arch is None and not problems:
        problems.append("[facts].arch: isn't stated, and no device was probed")
    if problems or arch is None:
        raise ConfigError(f'target "{target.name}"', tuple(problems), hint="Is it the right device for this target?")
    isa = _isa(target.facts, readings)
    cores = _number(readings, "cores") or (target.facts.cores.value if target.facts.cores else None)
    usable, refused = [], []
    for profile in (profiles[name] for name in target.profiles):
        reason = refusal(profile, arch, isa) or _lacking(profile, target.facts, readings)
        if reason is None:
            features = _features(profile, isa, _gpu(target.facts, readings))
            usable.append(_resolved(profile, arch, isa, cores, threads, features))
        else:
            refused.append((profile.name, reason))
    stated_memory = target.facts.memory_bytes.value if target.facts.memory_bytes else None
    return ResolvedTarget(
        name=target.name,
        profiles=tuple(usable),
        refused=tuple(refused),
        limits=target.limits,
        memory_bytes=_number(readings, "memory_bytes") or stated_memory,
    )


def _contradictions(facts: Facts, readings: Mapping[str, str]) -> Iterator[str]:
    if facts.arch and "arch" in readings and readings["arch"] != facts.arch.value:
        yield f'[facts].arch: should be "{facts.arch.value}", the device is "{readings["arch"]}"'
    gpu = readings.get("gpu_architecture")
    if facts.gpu_architecture and gpu is not None and gpu != facts.gpu_architecture.value:
        yield f'[facts].gpu_architecture: should be "{facts.gpu_architecture.value}", the device\'s is "{gpu}"'
    if facts.isa and "isa" in readings:
        missing = sorted(set(facts.isa.value) - set(readings["isa"].split()))
        if missing:
            yield f"[facts].isa: the device's CPU lacks {', '.join(missing)}"
    # An emulated device has its target's kind of CPU and no board.
    names = [] if EMULATED_FACT in readings else [readings[name] for name in ("cpu", "board") if name in readings]
    if facts.known_as and names and not any(facts.known_as.value in name for name in names):
        yield f'[facts].known_as: should be "{facts.known_as.value}", the device is "{names[0]}"'
    memory = _number(readings, "memory_bytes")
    if facts.memory_bytes and memory is not None and memory < _MEMORY_SHARE * facts.memory_bytes.value:
        yield (
            f"[facts].memory_bytes: should be {facts.memory_bytes.value / 2**30:.1f} GiB, "
            f"the device has {memory / 2**30:.1f} GiB"
        )


def _number(readings: Mapping[str, str], name: str) -> int | None:
    return whole_number(readings.get(name, ""))


def _isa(facts: Facts, readings: Mapping[str, str]) -> frozenset[str]:
    if "isa" in readings:
        return frozenset(readings["isa"].split())
    return frozenset(facts.isa.value if facts.isa else ())


def refusal(profile: Profile, arch: str, isa: frozenset[str]) -> str | None:
    """Return why nothing can be made by a profile for a CPU of this architecture and features; None where it can."""
    if arch not in profile.requires_arch:
        return f"is for {' or '.join(profile.requires_arch)}, the device is {arch}"
    missing = sorted(set(profile.requires) - isa)
    if missing:
        return f"needs a CPU with {', '.join(missing)}"
    return None if profile.device_work else profile.why_no_device_work


def _lacking(profile: Profile, facts: Facts, readings: Mapping[str, str]) -> str | None:
    """Return why the profile's accelerator can't be used: the device's word counts before the target's."""
    if profile.accelerator is None:
        return None
    if "accelerators" in readings:
        offered, who = tuple(readings["accelerators"].split()), f"{profile.backend} finds none on the device"
    else:
        offered, who = facts.accelerators.value if facts.accelerators else (), "the target is not known to have one"
    return None if profile.accelerator in offered else f"needs the accelerator {profile.accelerator}: {who}"


def _first(rules: Iterable[R], isa: frozenset[str]) -> R | None:
    return next((rule for rule in rules if isa.issuperset(rule.requires)), None)


def _resolved(
    profile: Profile,
    arch: str,
    isa: frozenset[str],
    cores: int | None,
    threads: int | None,
    features: tuple[str, ...],
) -> ResolvedProfile:
    channels = _first(profile.channels, isa)
    relevant = {
        name
        for rule in (*profile.fp16, *profile.bf16, *profile.int8, *profile.channels, *profile.features)
        for name in rule.requires
    }
    return ResolvedProfile(
        name=profile.name,
        backend=profile.backend,
        arch=arch,
        isa=tuple(sorted(isa & (relevant | set(profile.requires)))),
        cores=cores,
        precisions=tuple(_precisions(profile, isa)),
        settings=tuple(dict.fromkeys(_settings(entry, cores, threads) for entry in profile.settings)),
        channel_multiple=channels.multiple if channels else 1,
        accelerator=profile.accelerator,
        features=features,
    )


def _features(profile: Profile, isa: frozenset[str], gpu: tuple[int, ...]) -> tuple[str, ...]:
    """Return what the profile's rules say that CPU and GPU can do; ``gpu`` is empty where it isn't known."""
    holding = (
        rule
        for rule in profile.features
        if isa.issuperset(rule.requires) and (rule.gpu_architecture is None or gpu >= _version(rule.gpu_architecture))
    )
    return tuple(sorted({name for rule in holding for name in rule.names}))


def _gpu(facts: Facts, readings: Mapping[str, str]) -> tuple[int, ...]:
    """Return the GPU's compute capability: the device's word, else the target's; empty where neither says it."""
    stated = facts.gpu_architecture.value if facts.gpu_architecture else ""
    return _version(readings.get("gpu_architecture", stated))


def _version(text: str) -> tuple[int, ...]:
    parts = [whole_number(part) for part in text.split(".")]
    return () if None in parts else tuple(part for part in parts if part is not None)


def _precisions(profile: Profile, isa: frozenset[str]) -> Iterator[Precision]:
    for kind in profile.precisions:
        if kind == "fp32":
            yield Precision(kind="fp32")
        elif kind == "fp16":
            rule = _first(profile.fp16, isa)
            if rule is not None:
                yield Precision(kind="fp16", fp16=rule.meaning)
        elif kind == "bf16":
            if _first(profile.bf16, isa) is not None:
                yield Precision(kind="bf16")
        elif kind == "int8-dynamic":
            schemes = _first(profile.int8, isa)
            if schemes is not None:
                # Activations are uint8 whatever static ones are: DynamicQuantizeLinear makes no other codes.
                scheme = Int8Scheme(activations="uint8", reduce_range=schemes.schemes[0].reduce_range)
                yield Precision(kind="int8-dynamic", scheme=scheme)
        elif kind == "int8-storage":
            yield Precision(kind="int8-storage")
        else:
            schemes = _first(profile.int8, isa)
            for scheme in schemes.schemes if schemes else ():
                for quantiser in profile.quantisers:
                    yield Precision(kind="int8", scheme=scheme, quantiser=quantiser)


def _settings(entry: Mapping[str, Setting], cores: int | None, threads: int | None) -> Settings:
    """Return one setting with numbers for words; words stay where the number of cores isn't known."""
    settled: dict[str, Setting] = {}
    for name, value in entry.items():
        settled[name] = value
        if name == "threads" and threads is not None:
            settled[name] = threads
        elif cores is not None and value in (CORES_ALL, CORES_HALF):
            settled[name] = cores if value == CORES_ALL else max(1, cores // 2)
    return tuple(sorted(settled.items()))
