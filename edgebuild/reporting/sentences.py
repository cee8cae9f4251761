"""What a build found out, in sentences: the verdict, and what it doesn't prove. Pure; terminal and page share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.core.measurement import UNKNOWN
from edgebuild.core.verdict import Outcome
from edgebuild.reporting import formatting

if TYPE_CHECKING:
    from edgebuild.core.measurement import LatencySummary, Layer
    from edgebuild.core.record import BuildRecord, CandidateRecord
    from edgebuild.core.verdict import CrossCheck, Drop, Verdict

_ORDER = ("chosen", "finalist", "dominated", "screened", "unraced", "inconclusive", "refused", "failed")
EMULATED = "emulated"
_NOT_SEEN = (
    "Nothing here was seen on a board: its CPU was emulated. What was computed is what that CPU's kernels compute, on "
    "a sample; no speed or energy follows from it, and memory holds the emulator's own share."
)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """How differences of the metric are written: in points, or in the metric's own units (``name`` is empty)."""

    factor: float
    name: str


def unit_of(record: BuildRecord) -> Unit:
    """Return points where the budget is stated in points, else the metric's own unit.

    What a point is depends on the metric's scale; the budget is known both ways and says it.
    """
    points = record.budget.points
    drop = next((d for c in record.candidates if (d := drop_of(c))), None)
    if points is None or drop is None or drop.budget <= 0:
        return Unit(factor=1.0, name="")
    return Unit(factor=points / drop.budget, name="points")


def ordered(record: BuildRecord) -> tuple[CandidateRecord, ...]:
    """Return the candidates as every table numbers them: by status, then by latency, then by id."""

    def rank(c: CandidateRecord) -> tuple[int, float, str]:
        latency = latency_of(c)
        return _ORDER.index(c.status), latency.point_ms if latency else float("inf"), c.id

    return tuple(sorted(record.candidates, key=rank))


def find(record: BuildRecord, candidate_id: str | None) -> CandidateRecord | None:
    """Return the candidate with this id, if the build has it."""
    return next((c for c in record.candidates if c.id == candidate_id), None)


def subject(record: BuildRecord) -> CandidateRecord | None:
    """Return whom the details are about: the chosen candidate, else the kept one, else the one that drops least."""
    judged = [(c.test is None, d.drop, c.id, c) for c in record.candidates if (d := drop_of(c))]
    least = min(judged, key=lambda j: j[:3])[3] if judged else None
    return find(record, record.chosen) or find(record, record.kept) or least


def role(record: BuildRecord, candidate: CandidateRecord) -> str:
    """Return what the build calls this candidate: chosen, reference, or the nearest of those that missed."""
    if candidate.id == record.chosen:
        return "chosen"
    return "reference" if candidate.id == record.baseline else "nearest" if candidate == subject(record) else ""


def latency_of(candidate: CandidateRecord) -> LatencySummary | None:
    """Return the certified latency, else the screened one."""
    return candidate.measured.latency or candidate.screened.latency


def verdict_of(candidate: CandidateRecord) -> Verdict | None:
    """Return the verdict on the sealed test set, else the one on validation."""
    return candidate.test or candidate.validation


def drop_of(candidate: CandidateRecord) -> Drop | None:
    """Return the drop on the sealed test set, else the one on validation."""
    return next((v.drop for v in (candidate.test, candidate.validation) if v and v.drop), None)


def reasons_of(candidate: CandidateRecord) -> tuple[str, ...]:
    """Return the reason of the status, then the notes and what verdicts that didn't accept add; nothing twice."""
    verdicts = [v for v in (candidate.test, candidate.validation) if v and v.outcome is not Outcome.ACCEPTED]
    check = candidate.crosscheck
    gap = (f"cross-check: {check.explanation}",) if check and check.counts else ()
    notes = (note.text for note in candidate.notes)
    found = dict.fromkeys((*(r for v in verdicts for r in v.reasons), *gap, *notes))
    return (candidate.reason, *(r for r in found if r not in candidate.reason))


def drop_text(drop: Drop, unit: Unit) -> str:
    """Return ``0.31 [−0.05, 0.67] points``."""
    text = formatting.with_interval(drop.drop * unit.factor, drop.low * unit.factor, drop.high * unit.factor)
    return f"{text} {unit.name}".rstrip()


def size_ratio(candidate: CandidateRecord, reference: CandidateRecord | None) -> str | None:
    """Return ``3.61× smaller`` (or larger, or the same size), or ``None`` where a size is missing."""
    if reference is None or not candidate.size_bytes or not reference.size_bytes:
        return None
    ratio = reference.size_bytes / candidate.size_bytes
    if abs(ratio - 1) < 0.01:
        return "the same size"
    return f"{formatting.number(ratio)}× smaller" if ratio > 1 else f"{formatting.number(1 / ratio)}× larger"


def closeness_text(candidate: CandidateRecord) -> str:
    """Return how near the outputs are to the reference's, as far as it was measured."""
    near = candidate.closeness
    parts = [
        f"{formatting.number(near.sqnr_db)} dB signal to noise" if near and near.sqnr_db is not None else "",
        f"{near.kl_nats:.3g} nats KL" if near and near.kl_nats is not None else "",
        f"{formatting.percent(near.agreement)} agreement" if near and near.agreement is not None else "",
    ]
    return ", ".join(p for p in parts if p) or "not measured"


def crosscheck_text(check: CrossCheck) -> str:
    """Return what the cross-check found, on which sample."""
    return f"{check.explanation} [{check.sample}]" if check.sample else check.explanation


def by_precision(layers: tuple[Layer, ...]) -> list[tuple[str, int, float]]:
    """Return (precision, layer count, time in µs), the most time first."""
    names = dict.fromkeys(layer.precision for layer in layers)
    own = {name: [layer.time_us or 0.0 for layer in layers if layer.precision == name] for name in names}
    return sorted(((name, len(us), sum(us)) for name, us in own.items()), key=lambda s: (-s[2], -s[1], s[0]))


def evidence(drop: Drop, record: BuildRecord) -> str:
    """Return on what the drop rests: interval level, sample count, split, and which opening of the sealed test set."""
    groups = f" in {drop.groups:,} groups" if drop.groups is not None else ""
    seal = f", {record.test_set.text}" if record.test_set and drop.split == "test" else ""
    split = f"{mark(record)} {drop.split}".strip()
    return f"{formatting.percent(drop.level)} interval, n = {drop.samples:,} {split} samples{groups}{seal}"


def verdict_sentence(record: BuildRecord) -> str:
    """Return the result in one sentence: what was chosen, against what, how sure, and on which device."""
    return f"Emulated ({record.emulated.text}): {_sentence(record)}" if record.emulated else _sentence(record)


def mark(record: BuildRecord) -> str:
    """Return what stands next to every status of such a build; empty where the device was a real one."""
    return EMULATED if record.emulated else ""


def qualified(word: str, record: BuildRecord) -> str:
    """Return a word on the result, marked where the device was no real one."""
    return f"{word} ({mark(record)})" if mark(record) else word


def _sentence(record: BuildRecord) -> str:
    chosen = find(record, record.chosen)
    where = f"on {record.device}"
    if chosen is None or record.outcome != "ok":
        return f"Judged {where}, budget {record.budget.text}: {record.summary.rstrip('.')}{_decided_by(record)}."
    drop = drop_of(chosen)
    judged = "never judged for accuracy"
    if drop is not None:
        lost = f"{drop_text(drop, unit_of(record))} of {drop.metric}"
        judged = f"losing {lost} where the budget is {record.budget.text} ({evidence(drop, record)})"
    if chosen.id == record.baseline:
        kept = f"The reference artifact {chosen.id} stays"
        rate = f", {formatting.throughput(chosen.measured.throughput)}" if chosen.measured.throughput else ""
        return f"{kept}: nothing inside the budget and limits beats it, {judged}{rate}, {where}."
    parts = [formatting.speed(chosen.measured.versus_reference)] if chosen.measured.versus_reference else []
    parts += [formatting.throughput(chosen.measured.throughput)] if chosen.measured.throughput else []
    smaller = size_ratio(chosen, find(record, record.baseline))
    parts += [smaller] if smaller else []
    return f"{chosen.id} replaces the reference artifact: {', '.join([*parts, judged])}, measured {where}."


def _decided_by(record: BuildRecord) -> str:
    """How many more samples would decide, where the sentence on the nearest candidate doesn't say so already."""
    # What was never measured isn't decided by samples.
    judged = [c for c in record.candidates if c.status != "unraced"]
    needed = [d.needed_samples for c in judged if (d := drop_of(c)) and d.needed_samples]
    nearest = find(record, record.kept)
    said = nearest is not None and (drop := drop_of(nearest)) is not None and drop.needed_samples is not None
    if record.emulated or record.outcome != "inconclusive" or not needed or said:
        return ""
    return f"; about {min(needed):,} more samples would decide"


def decoding_text(candidate: CandidateRecord) -> str:
    """Return what the weights file of a candidate costs when it loads; empty where there is none, or no time."""
    latency, memory = latency_of(candidate), candidate.measured.memory
    parts = []
    if latency and latency.decode_ms is not None:
        parts.append(f"loads in {formatting.load_text(latency)}")
    if memory and memory.decode_peak_bytes is not None:
        parts.append(f"peak memory while decoding {formatting.bytes_text(memory.decode_peak_bytes)}")
    return "; ".join(parts)


def emulation_lines(record: BuildRecord) -> tuple[str, ...]:
    """Return what an emulated device showed of each candidate in addition to its accuracy, numbered as every table."""
    lines = [f"{i:>2} {emulation_text(c)}" for i, c in enumerate(ordered(record), 1) if c.measured.emulation]
    return ("Emulated: no time was taken. An instruction count is no time either.", *lines) if lines else ()


def emulation_text(candidate: CandidateRecord) -> str:
    """Return parity, memory and instructions of a candidate under emulation."""
    seen, memory = candidate.measured.emulation, candidate.measured.memory
    parts = [EMULATED]
    if seen and seen.parity is not None:
        parts.append(f"outputs within {seen.parity:.2g} of the reference's largest")
    if memory:
        own = (
            f" of which the emulator's {formatting.bytes_text(memory.emulator_bytes)}" if memory.emulator_bytes else ""
        )
        parts.append(f"peak memory {formatting.bytes_text(memory.peak_bytes)}{own}")
    if seen and seen.instructions:
        most = sorted(seen.instructions, key=lambda pair: (-pair[1], pair[0]))
        named = ", ".join(f"{name.replace('_', ' ')} {count / 1e6:.3g}" for name, count in most if count)
        parts.append(f"{seen.total / 1e6:.4g} million instructions an inference ({named})")
    elif seen and seen.not_counted:
        parts.append(f"instructions not counted: {seen.not_counted}")
    return "; ".join(parts)


def not_proven(record: BuildRecord) -> tuple[str, ...]:
    """Return what a reader must not conclude from this build, in sentences."""
    chosen = find(record, record.chosen)
    said = _gaps(record, chosen) if chosen else ["No candidate was chosen, so nothing here is a recommendation."]
    if record.emulated:
        said.insert(0, _NOT_SEEN)
    screened = sum(
        1 for c in record.candidates if (c.screened.latency or c.screened.throughput) and not c.measured.latency
    )
    if screened:
        who = "1 candidate was" if screened == 1 else f"{screened} candidates were"
        said.append(f"{who} only screened: those times rank candidates, they prove nothing.")
    if record.resolution is not None:
        least = formatting.percent(record.resolution)
        said.append(f"A latency difference under {least} can go unnoticed on this device in this build.")
    unknown = sorted({f.name for f in (*record.facts, *record.environment) if f.value == UNKNOWN})
    if unknown:
        said.append(f"This device couldn't say: {', '.join(unknown)}. Nothing here rests on them.")
    said.append("The figures hold for this device in the configuration below, not for others of its kind.")
    if not any(c.measured.energy for c in record.candidates):
        said.append("No energy figure is part of this build: no readable sensor was found.")
    said.append("No sustained-load (heat) figure is part of this build.")
    return tuple(said)


def _gaps(record: BuildRecord, chosen: CandidateRecord) -> list[str]:
    gaps: list[str] = []
    if chosen.measured.latency is None:
        gaps.append("The chosen candidate's latency was never certified; its screened time is no result.")
    if chosen.test is None:
        gaps.append("The chosen candidate was not scored on the sealed test set; its drop is the one it was chosen by.")
    if chosen.id != record.baseline and chosen.measured.versus_reference is None:
        gaps.append("The chosen candidate's latency was not compared with the reference artifact's.")
    verdict = verdict_of(chosen)
    for check in verdict.limits if verdict else ():
        if check.measured is None:
            gaps.append(f"The limit {check.name} was not measured, so it is not met.")
        elif check.outcome is Outcome.INCONCLUSIVE:
            gaps.append(f"Whether the limit {check.name} holds is inconclusive.")
    short = [p for p in (chosen.measured.latency.percentiles if chosen.measured.latency else ()) if p.value_ms is None]
    gaps += [f"{formatting.percentile_name(p)} latency isn't stated: it needs {p.needs_n:,} samples." for p in short]
    if verdict and len(verdict.slices) > 1:
        gaps.append("Slice intervals are each at their own level; among many slices some look bad by chance.")
    return gaps
