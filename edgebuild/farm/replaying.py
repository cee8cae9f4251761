"""A record measured again on its own device: what it takes, and whether both agree once the board's drift is out."""

from __future__ import annotations

import math
import re
import statistics as stdlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgebuild.errors import UsageError
from edgebuild.farm import comparing
from edgebuild.farm.arguments import BenchArguments, read_arguments
from edgebuild.farm.comparing import ALIKE
from edgebuild.farm.memory import Origin, WholeRecord, id_of
from edgebuild.farm.results import BenchResult
from edgebuild.farm.values import Health, Job, Message, Shelved
from edgebuild.measuring.distributions import t_quantile
from edgebuild.releasing.replay import Agreement, Drift, compared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgebuild.farm.client import FarmClient

_ID = re.compile(r"m[0-9a-f]{15}")


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A record that can be measured again: with what arguments, and ``place``, which of their models it is of."""

    record: WholeRecord
    arguments: BenchArguments
    place: int


class Ratio(Message):
    """What was measured now to what is on record, with its 95 % interval."""

    ratio: float
    low: float
    high: float


class Replayed(Message):
    """Whether a record, measured again as ``again``, agrees. ``model`` is the model's ratio, the board's taken out.

    ``board`` is the anchor's ratio. ``reasons`` say why the two sessions can't be held against each other.
    """

    record: str
    again: str
    agreement: Agreement
    model: Ratio | None = None
    board: Ratio | None = None
    board_moved: Literal["yes", "no", "unknown"]
    reasons: tuple[str, ...] = ()
    text: str


def find(farm: FarmClient, record: str) -> Recorded:
    """Return a record that can be measured again; raises ``UsageError`` that says why it can't."""
    if not _ID.fullmatch(record):
        raise UsageError(
            f"{record[:80]!r} is no id of a record.", hint="`edgebuild farm history MODEL` lists those of a model."
        )
    found = farm.ask("GET", f"/api/records/{record}", WholeRecord)
    if found.origin is Origin.USER or not found.job:
        raise UsageError(
            f"{record} was measured by {found.owner} through a relay: its artifact isn't in the farm.",
            hint="`edgebuild bench ARTIFACT --farm …` measures one that you have.",
        )
    _require_device(farm, found)
    job = farm.ask("GET", f"/api/jobs/{found.job}", Job)
    arguments = read_arguments(job.spec.arguments)
    ran = [] if job.result is None else [arm.artifact for arm in BenchResult.model_validate(job.result).arms]
    if found.artifact not in ran:
        raise UsageError(f"The job {found.job} doesn't say which of its models {record} is of.")
    models = [model for model in (arguments.model, arguments.against) if model is not None]
    gone = next((file for model in models for file in model.files if not farm.has(file.sha256)), None)
    if gone is not None:
        raise UsageError(
            f"The farm hasn't {gone.path} of {record} any more.",
            hint="`edgebuild bench MODEL --farm …` measures a file that you have, and sends it.",
        )
    return Recorded(record=found, arguments=arguments, place=ran.index(found.artifact))


def measured_again(farm: FarmClient, recorded: Recorded, result: BenchResult) -> WholeRecord:
    """Return what the farm kept of the session that measured a record again."""
    again = id_of(result.evidence, result.arms[recorded.place].artifact)
    return farm.ask("GET", f"/api/records/{again}", WholeRecord)


def _require_device(farm: FarmClient, record: WholeRecord) -> None:
    devices = {each.name: each for each in farm.ask("GET", "/api/devices", tuple[Shelved, ...])}
    there = devices.get(record.device)
    if there is None:
        why = "isn't in the farm any more"
    elif there.health is Health.RETIRED:
        why = "is retired"
    elif there.target != record.target:
        why = f"is of {there.target} now, and was of {record.target}"
    else:
        return
    raise UsageError(
        f"{record.device} {why}, and {record.id} can be measured again on no other device.",
        hint=f"`edgebuild bench MODEL --target {record.target}` measures on another one.",
    )


def judge(then: WholeRecord, now: WholeRecord) -> Replayed:
    """Return whether what was measured now agrees with the record. Pure.

    The anchor's ratio is taken out of the model's, and what isn't known of it widens the interval. Where the board's
    anchor moved by more than 5 % and the rest disagrees too, nobody can tell which it was: that is inconclusive.
    Sessions of another artifact, or of a device that was another, show their ratio, and are inconclusive.
    """
    drift = _drift(then.measured.anchor_ms, now.measured.anchor_ms)
    found = compared(then.measured.latency, now.measured.latency, drift)
    moved = _moved(drift)
    reasons = list(_reasons(then, now))
    if not reasons and found is None:
        reasons = ["one of the two sessions has no interval"]
    agreement: Agreement = "inconclusive"
    if not reasons and found is not None and (found.agreement, moved) != ("disagrees", "yes"):
        agreement = found.agreement
    said = {"agrees": f"{now.id} agrees with {then.id}", "disagrees": f"{now.id} disagrees with {then.id}"}
    words = said.get(agreement, "inconclusive")
    words += f": {'; '.join(reasons)}" if reasons else ""
    parts = [words, f"{now.point_ms:.4g} ms now, {then.point_ms:.4g} ms on record"]
    if found is not None:
        out = "" if drift is None else ", the board's drift taken out"
        parts.append(f"that is {_shown(found.ratio, found.low, found.high)}{out}")
    board = None if drift is None else _ratio(drift)
    parts.append(_board(board, moved))
    return Replayed(
        record=then.id,
        again=now.id,
        agreement=agreement,
        model=None if found is None else Ratio(ratio=found.ratio, low=found.low, high=found.high),
        board=board,
        board_moved=moved,
        reasons=tuple(reasons),
        text=". ".join(parts) + ".",
    )


def _reasons(then: WholeRecord, now: WholeRecord) -> Sequence[str]:
    one, other = then.measured, now.measured
    found = [] if then.artifact == now.artifact else ["the same files make another artifact now"]
    found += [] if one.backend == other.backend else [f"it ran in {one.backend[:64]}, and now in {other.backend[:64]}"]
    found += [] if one.settings == other.settings else ["it runs with other settings now"]
    return (*found, *comparing.another(then.environment, now.environment))


def _drift(then: Sequence[float], now: Sequence[float]) -> Drift | None:
    """Return how the anchor moved, or None of fewer than three launches of it.

    The spread is pooled: launches of one model on one board differ alike in both sessions (Student's t, a difference of
    two means).
    """
    logs = [[math.log(ms) for ms in each if 0 < ms < math.inf] for each in (then, now)]
    degrees = sum(map(len, logs)) - 2
    if not all(logs) or degrees < 1:
        return None
    means = [stdlib.fmean(each) for each in logs]
    squares = sum((value - mean) ** 2 for each, mean in zip(logs, means, strict=True) for value in each)
    error = math.sqrt(squares / degrees * sum(1 / len(each) for each in logs))
    return Drift(effect=means[1] - means[0], half=t_quantile(0.975, degrees) * error)


def _moved(drift: Drift | None) -> Literal["yes", "no", "unknown"]:
    if drift is None:
        return "unknown"
    bound = math.log1p(ALIKE)
    if abs(drift.effect) - drift.half > bound:
        return "yes"
    return "no" if abs(drift.effect) + drift.half <= bound else "unknown"


def _ratio(drift: Drift) -> Ratio:
    low, high = drift.effect - drift.half, drift.effect + drift.half
    return Ratio(ratio=math.exp(drift.effect), low=math.exp(low), high=math.exp(high))


def _board(board: Ratio | None, moved: str) -> str:
    if board is None:
        return "Whether the board drifted isn't known: one of the sessions has no anchor"
    words = {
        "yes": "The board itself drifted",
        "no": "The board is what it was",
        "unknown": "Whether the board drifted can't be told",
    }
    return f"{words[moved]}: its anchor takes {_shown(board.ratio, board.low, board.high)}"


def _shown(ratio: float, low: float, high: float) -> str:
    return f"{ratio:.3f}x [{low:.3f}, {high:.3f}]"
