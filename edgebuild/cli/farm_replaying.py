"""`bench --replay RECORD`: a farm measures a record again, and whether both agree is the exit code."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

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


def run_farm_replay(record: str, *, farm: str | None, junit: Path | None, as_json: bool) -> int:
    """Let a farm measure a record again, print whether both agree, and return the exit code."""
    with installed():
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
    if as_json:
        told = None if replayed is None else replayed.model_dump(mode="json")
        say(json.dumps({"job": job.model_dump(mode="json"), "replay": told}, indent=2))
    elif replayed is not None:
        say(words)
    publish(code, words, "replay", device, junit)
    return code
