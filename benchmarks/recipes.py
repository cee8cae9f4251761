"""Every recipe of examples/fashion-mnist on ONNX Runtime and OpenVINO: what it loses, how fast it is, how large.

    python benchmarks/recipes.py --train    compresses, compiles and evaluates; times nothing: a busy machine will do
    python benchmarks/recipes.py            builds, measures and writes docs/results/recipes.md: on a quiet machine
    … --recipe NAME …                       these recipes only

One build tries all recipes, with one thread everywhere. It certifies four finalists at most; so the best candidate of
each recipe on each runtime is then measured once more beside the original's fp32 and best int8, all in one session
under the certify protocol, so that every ratio is of launches paired by round.

The project is a copy of the example in the cache, with a store of its own: what is trained isn't trained again, a
stopped run goes on where it was, and a finished build is kept until that folder is deleted.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evidence import write_results

import examples
from edgebuild.building import compress, context, making, plans, prepare, projects, splits, targets
from edgebuild.building.context import HOME, Options
from edgebuild.building.evaluation import Evaluation, FailedCandidate
from edgebuild.building.race import make_bench
from edgebuild.building.record import find_build, load_record
from edgebuild.building.results import disturbed, summarised
from edgebuild.cli.progress import make_progress
from edgebuild.core.files import cache_home
from edgebuild.core.steps import never_stop
from edgebuild.devices.hold import hold_device
from edgebuild.errors import UsageError
from edgebuild.measuring import session
from edgebuild.measuring.protocols import CERTIFY
from edgebuild.pipeline import build
from edgebuild.reporting.formatting import bytes_text, with_interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgebuild.building.context import BuildContext
    from edgebuild.building.evaluation import Built
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.catalogue.project import Project
    from edgebuild.core.measurement import Comparison
    from edgebuild.core.record import BuildRecord, CandidateRecord
    from edgebuild.measuring.session import SessionResult

WORK = cache_home() / "recipes-benchmark" / "fashion-mnist"
COMMAND = "python benchmarks/recipes.py"
#: All launches are made in one go: a second look at one pair would launch every arm again.
PROTOCOL = CERTIFY.model_copy(update={"max_launches": CERTIFY.launches})
SIZES = re.compile(r"([\d,]+) → ([\d,]+) multiply-accumulates, ([\d,]+) → ([\d,]+) parameters")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A recipe (the original has no name) on one runtime: its best candidate, and the two of the original beside it."""

    recipe: str
    profile: str
    best: CandidateRecord
    plain: str
    int8: str | None


def copied() -> Project:
    """Return the copy of the example, for one thread; its data are the example's."""
    source = examples.EXAMPLES / WORK.name
    left_out = shutil.ignore_patterns(HOME, "data", "__pycache__")
    shutil.copytree(source, WORK, ignore=left_out, dirs_exist_ok=True)
    text = (source / "edgebuild.toml").read_text().replace("\n[build]\n", "\n[build]\nthreads = 1\n")
    (WORK / "edgebuild.toml").write_text(text)
    data = source / "data"
    if data.is_dir() and not (WORK / "data").exists():
        (WORK / "data").symlink_to(data)
    return projects.load_project(WORK)


@contextlib.contextmanager
def made(project: Project, options: Options) -> Iterator[tuple[BuildContext, ModelInputs, Sequence[Built]]]:
    """Do all that a build does before it measures; steps that were done before come from the store."""
    with (
        context.open_build(project, options, progress=make_progress()) as opened,
        targets.open_targets(opened, options.targets) as (at,),
    ):
        common = prepare.prepare(at, prepare.import_model(at))
        plan, at = plans.plan_target(at, common)
        models = compress.compress_models(plan, common, at)
        split = splits.JudgedSplit.whole("validation", common.validation, common.reference)
        yield at, common, making.make_candidates(plan, models, common, split, at).built


def train(project: Project, options: Options) -> None:
    """Do everything but the timing, and say what took long."""
    started = time.monotonic()
    with made(project, options) as (at, _, built):
        for step in at.executor.records:
            if step.label.startswith("recipe "):
                print(f"{step.seconds:8.1f} s  {'reused' if step.reused else 'done  '}  {step.label}")
        for each in built:
            if isinstance(each, FailedCandidate):
                print(f"{each.planned.id}: {each.reason}")
            elif each.planned.recipe and each.verdict:
                print(f"{each.planned.id}: {each.verdict.outcome}, {examples.drop_text(each.verdict.drop)}")
    print(f"{time.monotonic() - started:.0f} s in all")


def finished(project: Project, options: Options) -> BuildRecord:
    """Return a build of the recipes that are asked for, made now where the newest isn't one."""
    with contextlib.suppress(UsageError):
        record = load_record(find_build(WORK / HOME))
        if {c.spec.recipe for c in record.candidates if c.spec.recipe} == set(options.recipes):
            return record
    (record,) = build(project, options, progress=make_progress())
    return record


def rows_of(record: BuildRecord) -> list[Row]:
    """Return the original and every recipe on every runtime; a recipe's best candidate is the fastest in screening."""

    def speed(candidate: CandidateRecord) -> tuple[float, str]:
        latency = candidate.screened.latency
        return latency.point_ms if latency else math.inf, candidate.id

    rows = []
    for profile in dict.fromkeys(c.spec.profile for c in record.candidates):
        here = [c for c in record.candidates if c.spec.profile == profile and c.spec.precision.kind != "fp16"]
        original = [c for c in here if not c.spec.recipe]
        plain = next(c for c in original if c.spec.precision.kind == "fp32")
        quantised = [c for c in original if c.spec.precision.kind == "int8" and c.screened.latency]
        int8 = min(quantised, key=speed, default=None)
        held: dict[str, Any] = {"plain": plain.id, "int8": int8.id if int8 else None}
        rows += [Row(recipe="", profile=profile, best=c, **held) for c in (plain, int8) if c]
        for recipe in dict.fromkeys(c.spec.recipe for c in here if c.spec.recipe):
            best = min((c for c in here if c.spec.recipe == recipe), key=speed)
            rows.append(Row(recipe=recipe, profile=profile, best=best, **held))
    return sorted(rows, key=lambda row: row.profile)


def measured(project: Project, options: Options, rows: Sequence[Row]) -> SessionResult:
    """Measure the best of all rows in one session."""
    with made(project, options) as (at, common, built):
        by_id = {each.planned.id: each for each in built}
        arms = []
        for row in rows:
            each = by_id[row.best.id]
            if row.best.screened.latency and isinstance(each, Evaluation):
                arms.append(
                    session.Arm(
                        id=row.best.id,
                        artifact=each.artifact,
                        folder=each.folder,
                        inputs=common.validation.path,
                        inputs_digest=common.validation.entry.digest,
                        keep=row.best.id == row.plain,
                    )
                )
        with hold_device(at.client, "benchmark: recipes", progress=at.progress, check=never_stop):
            return session.measure(make_bench(at), PROTOCOL, arms, title="Certifying recipes")


def figures(row: Row, result: SessionResult) -> dict[str, Any]:
    """Return a row as numbers: accuracy, size and status from the build's record, times from the session."""
    best = row.best
    verdict = best.test or best.validation
    sizes = [[int(n.replace(",", "")) for n in found] for note in best.notes for found in SIZES.findall(note.text)]
    found: dict[str, Any] = {
        "recipe": row.recipe,
        "profile": row.profile,
        "candidate": best.id,
        "status": best.status,
        "reason": best.reason,
        "drop": verdict.drop.model_dump(mode="json") if verdict and verdict.drop else None,
        "size_bytes": best.size_bytes,
        "macs": [sizes[0][0], sizes[-1][1]] if sizes else None,
        "parameters": [sizes[0][2], sizes[-1][3]] if sizes else None,
    }
    if best.id in result.measurements and best.id not in {**result.failed, **disturbed(result, [best.id])}:
        found["latency"] = latency_of(result, best.id)
        for name, other in (("versus_fp32", row.plain), ("versus_int8", row.int8)):
            compared = session.compare_arms(result, best.id, other) if other and other != best.id else None
            found[name] = ratio(compared) if compared else None
    return found


def latency_of(result: SessionResult, arm: str) -> dict[str, Any] | None:
    """The latencies of an arm as numbers."""
    found = summarised(result, arm, 1).latency
    return found.model_dump(mode="json") if found else None


def ratio(compared: Comparison) -> dict[str, float | str]:
    """A comparison as the ratio of times, below 1 where the candidate is faster."""
    low, high = math.exp(compared.low), math.exp(compared.high)
    return {"ratio": math.exp(compared.effect), "low": low, "high": high, "outcome": compared.outcome}


def line(row: Row, found: dict[str, Any]) -> str:
    """One row of the page's table."""
    verdict = row.best.test or row.best.validation
    drop = verdict.drop if verdict else None
    lost = f"{examples.drop_text(drop)} ({drop.split}, {row.best.status})" if drop else row.best.status
    latency, sizes = found.get("latency"), (found["macs"], found["parameters"])
    cells = [
        row.recipe or "the original",
        row.best.spec.precision.label,
        *(f"{before:,} → {after:,}" if before != after else f"{after:,}" for before, after in filter(None, sizes)),
        *["–"] * sizes.count(None),
        lost,
        with_interval(latency["point_ms"], latency["low_ms"], latency["high_ms"]) if latency else "–",
        *(times(found.get(name)) for name in ("versus_fp32", "versus_int8")),
        bytes_text(row.best.size_bytes),
    ]
    return f"| {' | '.join(cells)} |"


def times(found: dict[str, Any] | None) -> str:
    """A ratio with its interval and what it is called."""
    return f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}], {found['outcome']}" if found else "–"


def ends(row: Row, found: dict[str, Any]) -> list[str]:
    """Where the inferences of a chain ended, and its slow end."""
    latency = found.get("latency")
    if not latency or not latency["exits"]:
        return []
    where = ", ".join(f"{share:.1%} at {name}" for name, share in latency["exits"])
    slow = next(each["value_ms"] for each in latency["percentiles"] if each["p"] == 99)
    return ["", f"Inferences of `{row.recipe}` ended: {where}; p99 {slow:.4g} ms."]


def page(record: BuildRecord, rows: Sequence[Row], numbers: Sequence[dict[str, Any]]) -> str:
    """Return the page's text."""
    head = (
        "| recipe | best as | multiply-accumulates | parameters | points lost | latency, ms | / fp32 | / int8 | file |",
        "|---|---|---|---|---|---|---|---|---|",
    )
    lines = [
        f"Fashion-MNIST, ResNet-8, one thread. **{record.outcome}**: {record.summary}. Budget {record.budget.text}.",
        "",
        "`best as` is the precision that was fastest in screening, of those not refused on validation; a recipe "
        "without a latency was refused in all. Latency is the median, of `early` the mean, under the certify protocol, "
        f"all rows in one session of {PROTOCOL.launches} launches each, with the runtime settings that come first in "
        "the profile; `/ fp32` and `/ int8` are times over those of the original on the same runtime, paired by round. "
        "Points lost are against the original in torch, with 95 % intervals.",
    ]
    for profile in dict.fromkeys(row.profile for row in rows):
        pairs = [(row, found) for row, found in zip(rows, numbers, strict=True) if row.profile == profile]
        lines += ["", f"## {profile}", "", *head, *(line(row, found) for row, found in pairs)]
        lines += [told for row, found in pairs for told in ends(row, found)]
    lines += ["", "## What each recipe did", ""]
    for name in dict.fromkeys(row.recipe for row in rows if row.recipe):
        best = next(row.best for row in rows if row.recipe == name)
        notes = [note.text for note in best.notes if note.topic != "settings"] or [best.reason]
        lines += [f"**{name}**", "", *(f"- {note}" for note in notes), ""]
    built = examples.section(record).partition("\n")[2].strip()
    return "\n".join([*lines, "## The build", "", built])


def main() -> None:
    """Do what was asked for."""
    parser = argparse.ArgumentParser(description="Measure the recipes of examples/fashion-mnist.")
    parser.add_argument("--train", action="store_true", help="everything but the timing")
    parser.add_argument("--recipe", nargs="+", metavar="NAME", help="these only")
    arguments, project = parser.parse_args(), copied()
    every = tuple(recipe.name for recipe in project.recipes)
    chosen = tuple(arguments.recipe or every)
    command = COMMAND if chosen == every else f"{COMMAND} --recipe {' '.join(chosen)}"
    options = Options(targets=("this-machine",), recipes=chosen, command=command)
    if arguments.train:
        train(project, options)
        return
    record = finished(project, options)
    rows = rows_of(record)
    result = measured(project, options, rows)
    numbers = [figures(row, result) for row in rows]
    told = {"rows": numbers, "build": record.model_dump(mode="json", exclude={"facts", "steps"})}
    text = page(record, rows, numbers)
    if left := [name for name in every if name not in chosen]:
        text += f"\n\nNot measured yet: {', '.join(left)}."
    print(write_results("recipes", "The recipes of fashion-mnist", command, text, told))


if __name__ == "__main__":
    main()
