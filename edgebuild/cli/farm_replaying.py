"""`bench --replay RECORD`: a farm measures a record again, and whether both agree is the exit code."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from edgebuild.cli.answering import Answer
from edgebuild.cli.farm_benching import followed, make_ready, publish, verdict
from edgebuild.cli.farm_running import installed
from edgebuild.cli.output import harmless, plain, say
from edgebuild.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.releasing.replay import Agreement

#: What the command ends with; a job without a result ends it as `bench` does.
EXIT_CODES: Mapping[Agreement, int] = {"agrees": 0, "disagrees": 3, "inconclusive": 4}


def require_alone(*others: Any) -> None:
    """Raise ``UsageError`` where what is on record is given once more."""
    if any(others):
        raise UsageError(
            "--replay measures what is on record, as it was measured, on the device of the record.",
            hint="Leave the model and all options out but --farm, --junit and --json.",
        )


def run_farm_replay(record: str, *, farm: str | None, junit: Path | None) -> Answer:
    """Let a farm measure a record again, and return whether both agree, which is the exit code."""
    with installed():
        from edgebuild.cli.farm_tables import FarmReplay
        from edgebuild.farm import benching, replaying
        from edgebuild.farm.client import FarmClient
        from edgebuild.farm.endpoint import address_of
        from edgebuild.farm.results import BenchResult

    make_ready(junit)
    with contextlib.closing(FarmClient(address_of(farm))) as client:
        recorded = replaying.find(client, record)
        device = recorded.record.device
        say(f"{record}: {plain(recorded.record.model)} on {device}", error=True)
        job = followed(client, benching.submit(client, recorded.arguments, target=None, device=device))
        result = None if job.result is None else BenchResult.model_validate(job.result)
        replayed = None
        if result is not None:
            replayed = replaying.judge(recorded.record, replaying.measured_again(client, recorded, result))
    if replayed is None:
        code, words = verdict(job, result)
        say(words, error=True)
    else:
        code, words = EXIT_CODES[replayed.agreement], harmless(replayed.text).replace("\n", " ")
    publish(code, words, "replay", device, junit)
    return Answer(
        value=FarmReplay(job=job, replay=replayed), text=lambda: None if replayed is None else say(words), code=code
    )
