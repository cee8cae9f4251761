"""What does judging one candidate take, and do the intervals from few draws hold what they promise?

    python benchmarks/judging.py

Made-up outputs of the sizes that real models give. What is computed is told in processor time of its thread, so that a
busy machine changes nothing; a slow callable sleeps, and is told by the clock. Takes some minutes, most of them for the
coverage. mAP needs pycocotools. Writes its page to docs/results/.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from evidence import write_results

from edgebuild.core.budget import Budget
from edgebuild.judging.judge import Evaluated, judge
from edgebuild.judging.metrics import Metric, named_metric
from edgebuild.judging.own_metrics import by_samples, custom
from edgebuild.judging.pace import Pace
from edgebuild.judging.resampling import bootstrap, bootstrap_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMAND = "python benchmarks/judging.py"
LIMIT_S = 5.0
TRIALS = 1_000
RANDOM = np.random.default_rng(0)


def dice(outputs: Any, targets: Any) -> float:
    found = outputs["y"] > 0.5
    return float(2 * (found & (targets > 0)).sum() / (found.sum() + targets.sum()))


def parts(outputs: Any, targets: Any) -> Any:
    found, axes = outputs["y"] > 0.5, (1, 2, 3)
    return np.stack([2 * (found & (targets > 0)).sum(axis=axes), found.sum(axis=axes) + targets.sum(axis=axes)], axis=1)


def ratio(entries: Any) -> float:
    hits, total = entries.sum(axis=0)
    return float(hits / total)


def slow(seconds: float) -> Metric:
    """A callable that takes so long for all 40 maps, and less for fewer."""

    def function(outputs: Any, targets: Any) -> float:
        time.sleep(seconds * len(targets) / 40)
        return dice(outputs, targets)

    return custom(function, name="dice", direction="maximise", scale=(0, 1))


def classes(samples: int, count: int) -> tuple[Any, Any, Any]:
    scores = RANDOM.normal(size=(samples, count)).astype(np.float32)
    labels = np.where(RANDOM.random(samples) < 0.8, scores.argmax(axis=1), RANDOM.integers(0, count, samples))
    return scores, scores + 0.1 * RANDOM.normal(size=scores.shape).astype(np.float32), labels


def maps() -> tuple[Any, Any, Any]:
    likely = RANDOM.random((40, 1, 160, 160)).astype(np.float32)
    near = np.clip(likely + 0.02 * RANDOM.normal(size=likely.shape), 0, 1).astype(np.float32)
    return likely, near, (RANDOM.random(likely.shape) < likely).astype(np.int64)


def texts(samples: int) -> tuple[Any, Any, Any]:
    wanted = np.array(["".join(RANDOM.choice(list("abcdefgh "), 25)) for _ in range(samples)])
    found = [text[:5] + "x" + text[6:] if RANDOM.random() < 0.3 else text for text in wanted]
    return wanted.astype(object), np.array(found, dtype=object), wanted


def boxes(images: int) -> tuple[Any, Any, Any]:
    sides: list[list[Any]] = [[], [], []]
    for _ in range(images):
        corner = RANDOM.uniform(0, 400, (RANDOM.integers(1, 15), 2))
        truth = np.column_stack([corner, corner + RANDOM.uniform(10, 100, corner.shape)])
        label = RANDOM.integers(0, 20, len(truth))
        for side in sides[:2]:
            found = np.repeat(truth, 6, axis=0) + RANDOM.normal(0, 2, (6 * len(truth), 4))
            found[:, 2:] = np.maximum(found[:, 2:], found[:, :2])
            side.append(np.column_stack([found, RANDOM.random(len(found)), np.repeat(label, 6)]))
        sides[2].append(np.column_stack([truth, label]))
    listed = [np.fromiter(side, dtype=object, count=images) for side in sides]
    return listed[0], listed[1], listed[2]


def cases() -> Iterator[tuple[str, Metric, tuple[Any, Any, Any]]]:
    for name in ("accuracy", "f1_macro", "auroc", "cohen_kappa"):
        yield "10,000 samples, 10 classes", named_metric(name), classes(10_000, 10)
    yield "5,000 samples, 1,000 classes", named_metric("f1_macro"), classes(5_000, 1_000)
    yield "40 maps of 160 x 160", named_metric("mean_iou"), maps()
    yield "3,000 texts of 25 letters", named_metric("cer"), texts(3_000)
    yield "500 images, 21,000 boxes", named_metric("box_f1"), boxes(500)
    if find_spec("pycocotools"):
        yield "500 images, 21,000 boxes", named_metric("coco_map"), boxes(500)
    yield "40 maps, a callable of 37 ms", slow(0.037), maps()
    yield "40 maps, a callable of 1 s", slow(1.0), maps()
    own = by_samples(parts, ratio, name="dice", direction="maximise", scale=(0, 1))
    yield "40 maps, `per_sample` and `combine`", own, maps()


def judged(data: str, metric: Metric, arrays: tuple[Any, Any, Any]) -> dict[str, Any]:
    reference, artifact, targets = arrays
    wall, computed = time.perf_counter(), time.thread_time()
    verdict = judge(
        Evaluated(reference={"y": reference}, artifact={"y": artifact}, targets=targets),
        metric,
        Budget(relative=0.02),
        split="validation",
    )
    took = {"clock_s": time.perf_counter() - wall, "computing_s": time.thread_time() - computed}
    method = verdict.drop.method if verdict.drop is not None else "; ".join(verdict.reasons)
    seconds = took["clock_s"] if "callable" in data else took["computing_s"]
    return {"metric": metric.name, "data": data, "method": method, "seconds": seconds, **took}


class Clock:
    """A clock that only the metric moves, so that a wanted number of draws fits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def covered(samples: int, call_s: float, draw: Callable[[], tuple[Any, Any]]) -> dict[str, Any]:
    """How often the interval of a ratio of sums holds the truth, 0.02, and how often it lies below."""
    clock, held, below, method = Clock(), 0, 0, ""
    for trial in range(TRIALS):
        lost, total = draw()

        def drop(counts: Any, lost: Any = lost, total: Any = total) -> float:
            clock.now += call_s * counts.sum() / samples
            return float(counts @ lost / (counts @ total))

        found = bootstrap(
            drop,
            samples,
            None,
            estimate=float(lost.sum() / total.sum()),
            level=0.95,
            seed=trial,
            span=1.0,
            widest=1.0,
            most=200,
            batches=True,
            pace=Pace(clock=clock),
        )
        held, below, method = held + (found.low <= 0.02 <= found.high), below + (found.high < 0.02), found.method
    return {"samples": samples, "method": method, "coverage": held / TRIALS, "too_low": below / TRIALS}


def coverages() -> Iterator[dict[str, Any]]:
    for samples in (20, 40, 200):

        def draw(samples: int = samples) -> tuple[Any, Any]:
            total = RANDOM.integers(5, 50, samples)
            return total * RANDOM.normal(0.02, 0.1, samples), total

        for call_s in (0.001, 0.07, 0.3, 2.0):
            yield covered(samples, call_s, draw)


def rare(samples: int, share: float, size: float) -> dict[str, Any]:
    """How often the upper bound lies below the truth where few samples lose so much, with and without the floor."""
    below = {1.0: 0, 0.0: 0}
    for trial in range(TRIALS):
        drops = np.where(RANDOM.random(samples) < share, size, 0.0)
        for span in below:
            high = bootstrap_mean(drops, None, level=0.95, seed=trial, span=span).high
            below[span] += high < share * size
    return {
        "samples": samples,
        "share": share,
        "size": size,
        "too_low": below[1.0] / TRIALS,
        "alone": below[0.0] / TRIALS,
    }


def process_s() -> float:
    """Processor time until another process could call a metric of a project that imports torch."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import torch, edgebuild.judging.own_metrics"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Judge, simulate, write."""
    rows = [judged(*case) for case in cases()]
    simulated = list(coverages())
    failing = [rare(n, share, size) for n in (100, 1_000) for share in (0.01, 0.03) for size in (1.0, 0.2)]
    start_s = process_s()
    slowest = max(rows, key=lambda row: row["seconds"])
    fast = sum(row["seconds"] <= LIMIT_S for row in rows)
    text = (
        "One verdict on made-up outputs, drops of classes included. Processor time; of callables, which sleep, the "
        "clock's.\n\n"
        "| metric | data | interval | s |\n|---|---|---|---|\n"
        + "".join(f"| {r['metric']} | {r['data']} | {r['method']} | {r['seconds']:.2f} |\n" for r in rows)
        + f"\n{fast} of {len(rows)} take {LIMIT_S:.0f} s or less; the slowest {slowest['seconds']:.1f} s.\n\n"
        f"How often a 95 % interval holds the true drop of a ratio of sums, {TRIALS:,} simulated data sets each, at "
        "the numbers of draws that metrics of different cost get; `too low` is how often its upper bound, which "
        "budgets are judged by, lies below the truth (2.5 % are meant).\n\n"
        "| interval | covered | too low |\n|---|---|---|\n"
        + "".join(f"| {r['method']} | {r['coverage']:.1%} | {r['too_low']:.1%} |\n" for r in simulated)
        + f"\nOver all: {np.mean([r['coverage'] for r in simulated]):.1%}.\n\n"
        "How often the upper bound lies below the truth where few samples lose something and the others nothing, of a "
        "metric on [0, 1], and how often it would by resampling alone:\n\n"
        "| samples | share that loses | what it loses | too low | resampling alone |\n|---|---|---|---|---|\n"
        + "".join(
            f"| {r['samples']:,} | {r['share']:.0%} | {r['size']:g} | {r['too_low']:.1%} | {r['alone']:.1%} |\n"
            for r in failing
        )
        + f"\nOther processes don't call a metric: until one that imports torch could begin, {start_s:.1f} s of "
        "processor time are gone, for each, of the 5 s that a verdict may take.\n"
    )
    write_results(
        "judging",
        "Judging",
        COMMAND,
        text,
        {"judged": rows, "coverage": simulated, "rare": failing, "process_s": start_s},
    )


if __name__ == "__main__":
    main()
