"""`bench`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgebuild.cli.answering import Answer
from edgebuild.cli.console import stop_if_interrupted
from edgebuild.cli.output import make_console
from edgebuild.core.artifact import Setting
from edgebuild.core.files import ABSENT, why_not_plain
from edgebuild.core.measurement import Comparison, Energy, LatencySummary, Layer, Memory
from edgebuild.core.values import Value
from edgebuild.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgebuild.benching.bench import BenchResult


#: A size of an axis, below a billion.
_SIZE = re.compile(r"[1-9][0-9]{0,8}")


class LocalModel(Value):
    """What was measured of one model; ``artifact_digest`` is of what ran, its settings included."""

    model: str
    artifact_digest: str
    backend: str
    settings: dict[str, Setting]
    size_bytes: int
    summary: LatencySummary
    memory: Memory
    energy: Energy | None
    layers: tuple[Layer, ...]


class LocalBench(Value):
    """One or two models of one session on this machine, or on a device of the inventory.

    ``comparison`` holds the first against the second. ``anchor_ms`` are the medians of the anchor's launches, in their
    order; raw samples are in ``folder``.
    """

    protocol: str
    device: str
    folder: str
    anchor_ms: tuple[float, ...]
    comparison: Comparison | None
    results: tuple[LocalModel, ...]


def run_benching(
    model: Path,
    against: Path | None,
    *,
    backend: str | None,
    shape: tuple[str, ...],
    threads: int | None,
    quick: bool,
    device: str | None,
    native: bool,
) -> Answer:
    """Measure here, or on a device of the inventory."""
    from edgebuild.benching.bench import BenchRequest
    from edgebuild.cli.progress import make_progress
    from edgebuild.pipeline import bench

    require_models(model, against)
    request = BenchRequest(
        model=model,
        against=against,
        backend=backend,
        shape=sizes_of(shape),
        threads=threads,
        quick=quick,
        device=device,
        native_libraries=native,
    )
    report = bench(request, progress=make_progress(), check=stop_if_interrupted)

    def told() -> None:
        show_results(report.results, report.comparison, report.protocol)
        make_console().print(f"\nDevice {report.device}; raw samples in {report.folder}", soft_wrap=True)

    value = LocalBench(
        protocol=report.protocol,
        device=report.device,
        folder=str(report.folder),
        anchor_ms=report.anchor_ms,
        comparison=report.comparison,
        results=tuple(map(_model, report.results)),
    )
    return Answer(value=value, text=told)


def _model(result: BenchResult) -> LocalModel:
    return LocalModel(
        model=result.model,
        artifact_digest=result.artifact_digest,
        backend=result.backend,
        settings=dict(result.settings),
        size_bytes=result.size_bytes,
        summary=result.summary,
        memory=result.memory,
        energy=result.energy,
        layers=result.layers,
    )


def require_one(model: Path | None) -> Path:
    """Return the model that is to be measured; raises ``UsageError`` where there is none."""
    if model is None:
        raise UsageError(
            "There is nothing to measure.", hint="Name an .onnx, an .xml, or an artifact's folder, or --replay RECORD."
        )
    return model


def require_models(*paths: Path | None) -> None:
    """Raise ``UsageError`` for a path that can't be a model."""
    for path in filter(None, paths):
        why = None if path.is_dir() else why_not_plain(path)
        if why is not None:
            what = f"{path}: no such file." if why == ABSENT else f"{path} {why}."
            raise UsageError(what, hint="Name an .onnx, an .xml, or an artifact's folder.")


def sizes_of(entries: tuple[str, ...]) -> dict[str, int]:
    """Return the sizes that ``--shape`` gives."""
    sizes = {}
    for entry in entries:
        name, _, size = entry.rpartition("=")
        if not name or not _SIZE.fullmatch(size):
            raise UsageError(f"can't read --shape {entry!r}", hint="write NAME=SIZE, such as batch=1")
        sizes[name] = int(size)
    return sizes


def show_results(results: Sequence[BenchResult], comparison: Comparison | None, protocol: str) -> None:
    """Print what was measured, side by side, and the verdict."""
    from rich.table import Table
    from rich.text import Text

    console = make_console()
    table = Table("", *[result.model for result in results], box=None, pad_edge=False)
    for name, cells in _rows(results):
        table.add_row(name, *map(Text, cells))
    console.print(table)
    if comparison is not None:
        console.print(f"\n{comparison_words(comparison, *[r.model for r in results])}")
    if protocol == "screen":
        console.print("\nMeasured with the screen protocol: it ranks, it proves nothing.")


def _rows(results: Sequence[BenchResult]) -> list[tuple[str, list[str]]]:
    from edgebuild.reporting.formatting import (
        bytes_text,
        load_text,
        percentile_name,
        percentile_text,
        settings_text,
        with_interval,
    )

    first = results[0].summary.percentiles
    rows = [
        ("backend", [r.backend for r in results]),
        ("settings", [settings_text(r.settings) for r in results]),
        ("size", [bytes_text(r.size_bytes) for r in results]),
        ("launches", [str(r.summary.launches) for r in results]),
        (
            "latency, ms (95 % interval)",
            [with_interval(r.summary.point_ms, r.summary.low_ms, r.summary.high_ms) for r in results],
        ),
    ]
    for index, percentile in enumerate(first):
        rows.append((percentile_name(percentile), [percentile_text(r.summary.percentiles[index]) for r in results]))
    rows += [
        ("load", [load_text(r.summary) for r in results]),
        ("first inference, ms", [f"{r.summary.first_inference_ms:.2f}" for r in results]),
        ("peak memory", [bytes_text(r.memory.peak_bytes) for r in results]),
        ("energy", ["no sensor" if r.energy is None else f"{r.energy.net_j_per_inference:.3g} J" for r in results]),
        ("layers run in", [_precisions(r) for r in results]),
    ]
    return rows


def _precisions(result: BenchResult) -> str:
    counts: dict[str, int] = {}
    for layer in result.layers:
        counts[layer.precision] = counts.get(layer.precision, 0) + 1
    return ", ".join(f"{count}x {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def comparison_words(comparison: Comparison, name: str, other: str) -> str:
    """Say a comparison in a sentence."""
    import math

    ratio, low, high = (math.exp(value) for value in (comparison.effect, comparison.low, comparison.high))
    verdict = {
        "better": "is faster than",
        "worse": "is slower than",
        "equivalent": "is as fast as",
        "inconclusive": "is statistically tied with",
    }[comparison.outcome]
    resolution = f"; resolution here: {comparison.resolution:.1%}" if comparison.resolution is not None else ""
    details = f"{low:.3f} to {high:.3f}, {comparison.pairs} pairs{resolution}"
    return f"{name} {verdict} {other}: {ratio:.3f}x its latency ({details})."
