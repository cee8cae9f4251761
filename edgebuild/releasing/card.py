"""The model card: Markdown from evidence, with what isn't known said as plainly as what is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgebuild.core.artifact import TensorSpec
    from edgebuild.releasing.values import BuildFolder, TargetRelease

#: More would hide what follows.
LABELS_SHOWN = 10


def model_card(release: TargetRelease, build: BuildFolder) -> bytes:
    """Return the card of one target."""
    return ("\n".join(_lines(release, build)) + "\n").encode()


def _lines(release: TargetRelease, build: BuildFolder) -> Iterator[str]:
    record = build.record
    yield f"# {release.project} {release.version} for {release.target}"
    yield ""
    yield f"`{release.candidate}`: {release.precision}, {release.size_bytes:,} bytes" + (
        f", by recipe {release.recipe}." if release.recipe else "."
    )
    yield f"Built {record.started_at[:10]} as {record.build_id}; {record.summary}."
    yield ""
    yield "## Measured"
    yield ""
    yield "| what | value |"
    yield "|---|---|"
    yield from (f"| {what} | {value} |" for what, value in _measured(release))
    yield ""
    yield f"On {release.device}, with {_settings(release)}. Raw samples: `evidence/`."
    yield ""
    yield "## How it is called"
    yield ""
    yield "| | name | shape | type |"
    yield "|---|---|---|---|"
    yield from (_tensor("input", each) for each in release.contract.inputs)
    yield from (_tensor("output", each) for each in release.contract.outputs)
    yield from _meant(release)
    for kind, name in (("before", release.contract.preprocess), ("after", release.contract.postprocess)):
        if name is not None:
            yield f"\nThe project's `{name}` runs {kind} the model; it is code of the project's, and not released."
    yield ""
    yield "## Where it runs"
    yield ""
    yield from (f"- {line}" for line in _needs(release))
    yield ""
    yield "## Limits"
    yield ""
    yield from (f"- {line}" for line in release.limits)


def _measured(release: TargetRelease) -> Iterator[tuple[str, str]]:
    drop, latency = release.accuracy, release.latency
    if drop is not None:
        yield (
            f"{drop.metric} on {drop.samples:,} test samples",
            f"{drop.artifact:.4f}; the original has {drop.reference:.4f}",
        )
        yield (
            "how much worse it is",
            f"{drop.drop:.4f} [{drop.low:.4f}, {drop.high:.4f}] ({drop.level:.4g} interval, {drop.method}); "
            f"the budget was {release.budget.text}",
        )
        yield "the test set", release.test_set.text
    if latency is not None:
        interval = f" [{latency.low_ms:.4g}, {latency.high_ms:.4g}]" if latency.low_ms and latency.high_ms else ""
        yield "latency", f"{latency.point_ms:.4g}{interval} ms, {latency.launches} launches"
    if release.memory_bytes is not None:
        yield "peak memory of its process", f"{release.memory_bytes / 2**20:.1f} MiB"
    if release.resolution is not None:
        yield "smallest difference in latency that could be told there", f"{release.resolution:.1%}"


def _settings(release: TargetRelease) -> str:
    return " ".join(f"{name}={str(value).lower()}" for name, value in sorted(release.settings.items())) or "defaults"


def _tensor(kind: str, spec: TensorSpec) -> str:
    return f"| {kind} | `{spec.name}` | {' × '.join(map(str, spec.shape)) or 'a number'} | {spec.dtype} |"


def _meant(release: TargetRelease) -> Iterator[str]:
    """Say what the project says of the numbers; nothing checks it."""
    for each in release.meaning.inputs:
        axes = f", axes {each.layout}" if each.layout else ""
        mean = ", ".join(f"{value:g}" for value in each.mean) or "0"
        std = ", ".join(f"{value:g}" for value in each.std) or "1"
        yield f"\n`{each.name}` = (raw × {each.scale:g} - mean) / std, with mean {mean} and std {std}{axes}."
    for output in release.meaning.outputs:
        shown = ", ".join(output.labels[:LABELS_SHOWN])
        more = f" and {len(output.labels) - LABELS_SHOWN:,} more" if len(output.labels) > LABELS_SHOWN else ""
        yield f"\n`{output.name}`: {len(output.labels):,} classes, {shown}{more}. `release.json` has them all."


def _needs(release: TargetRelease) -> Iterator[str]:
    needs = release.requires
    yield f"{needs.architecture}, {needs.os}"
    yield f"{needs.runtime} {needs.runtime_version}, exactly"
    if needs.isa:
        yield f"CPU features: {', '.join(needs.isa)}"
    if needs.memory_bytes is not None:
        yield f"{needs.memory_bytes / 2**20:.0f} MiB of memory for its process"
    yield from (f"{name} {value}" for name, value in sorted(needs.facts.items()))
