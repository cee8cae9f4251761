"""The user's data and model as they are now: every build reads them, and what is read decides what is reused.

Code alone doesn't say what a callable yields or what a factory loads: the files behind it may have changed. So samples
are read and digested each time, a factory's tensors too. ``[data].data_version`` says that samples are what they were,
``[model].model_version`` that tensors are; ``<home>/data.json`` keeps what they were then. ``--reread`` reads them all
the same.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from edgebuild.catalogue.samples import Split, open_split
from edgebuild.core.values import canonical_json, digest_file, digest_json
from edgebuild.errors import DataError
from edgebuild.measuring.session_folder import write_atomic
from edgebuild.models.steps import MaterialiseData, call_for_samples, unsteady

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from edgebuild.building.context import BuildContext
    from edgebuild.catalogue.project import Project
    from edgebuild.core.artifact import TensorSpec
    from edgebuild.core.data import Sample
    from edgebuild.core.steps import Step
    from edgebuild.execution.executor import StepResult
    from edgebuild.models.described import Described

#: In data.json, beside the splits.
MODEL = "model"
#: In a time box so many samples are asked for twice, to see whether they are the same; else all are.
STEADY_SAMPLES = 32


def materialise(context: BuildContext, split: Split) -> StepResult:
    """Return one split of the user's data on disk: what is stored where the samples are the same, else read again.

    All stages see the same samples. A project's first build writes them while it reads them; later ones expect to find
    them stored.
    """
    project = context.project
    if split in context.data:
        return context.data[split]
    source = getattr(project.data, split)
    if source is None:
        raise DataError(f"The project has no {split} data.", hint=f"Add [data].{split} to edgebuild.toml.")
    label = f"read the {split} data"
    if source.endswith(".npz"):
        inputs = {"file": project.folder / source}
        context.data[split] = context.run(_step(project, source, ""), inputs, label=label)
    elif context.executor.known(label):
        context.data[split] = context.run(_read(context, split, source, None), {}, label=label)
    else:
        with context.executor.work_folder(label) as folder:
            step = _read(context, split, source, folder)
            made = folder if folder is not None and any(folder.iterdir()) else None
            context.data[split] = context.run(step, {}, label=label, made=made)
    return context.data[split]


def sample_specs(project: Project) -> tuple[TensorSpec, ...]:
    """Samples come in the sizes that ship; only how many of them make a batch is left open."""
    return tuple(batch_open(spec, project) for spec in project.sample_specs)


def batch_open(spec: TensorSpec, project: Project) -> TensorSpec:
    """Return an input in the sizes that ship, but for its first axis."""
    return spec.model_copy(update={"shape": (*spec.shape[:1], *project.shipped_shape(spec.shape[1:]))})


def _step(project: Project, source: str, content: str) -> MaterialiseData:
    return MaterialiseData(
        source=source,
        specs=sample_specs(project),
        stateful=project.stateful,
        content=content,
    )


class _Samples:
    """Opens a split when it is asked for: data that aren't read need no import of the user's code."""

    def __init__(self, project: Project, split: Split) -> None:
        self._project, self._split = project, split

    def __call__(self) -> Iterable[Sample]:
        opened = open_split(self._project, self._split)
        return opened() if opened is not None else ()


def _read(context: BuildContext, split: Split, source: str, folder: Path | None) -> MaterialiseData:
    """Return the step for the samples that the callable yields now, or did when their version was declared.

    What it yields now is written into ``folder``, if one is given.
    """
    project = context.project
    known = _Known(context.home / "data.json", split, _declared(context, source))
    if known.content and not context.options.reread:
        step = _step(project, source, known.content)
        if _unread(context, split, step, known):
            return step
    content = _digest(context, split, source) if folder is None else _written(context, split, source, folder)
    _keep(context, split, content, known)
    return _step(project, source, content)


def describe_first(context: BuildContext, split: Split, count: int, peek: Callable[[], Described]) -> Described:
    """Return what is in the first samples of a split: what ``peek`` finds, or found under a declared version.

    What it finds in fewer, because there was no time for more, isn't kept.
    """
    from edgebuild.models.described import DescribeFirst, read_described, write_described

    project, source = context.project, getattr(context.project.data, split)
    known = _Known(context.home / "data.json", f"{split}, first {count}", _declared(context, source))
    if not known.declared or source.endswith(".npz"):
        return peek()
    specs, stateful = sample_specs(project), project.stateful
    step = DescribeFirst(source=source, specs=specs, stateful=stateful, samples=count, content=known.content)
    label = f"describe the first {split} data"
    if known.content and not context.options.reread and _unread(context, split, step, known):
        return read_described(context.run(step, {}, label=label).path)
    found = peek()
    if not found.whole and found.samples < count:
        return found
    _keep(context, split, found.identity, known)
    with context.executor.work_folder(label) as folder:
        if folder is not None:
            write_described(found, folder)
            context.run(step.model_copy(update={"content": found.identity}), {}, label=label, made=folder)
    return found


def _unread(context: BuildContext, split: Split, step: Step, known: _Known) -> bool:
    """Whether what was made of a split under its declared version is there, and so it isn't read; says so."""
    there = context.stored(step, {})
    if there:
        context.say(
            "data",
            f"{split} data not read: [data].data_version is {context.project.data.data_version!r}, "
            f"as when they were read on {known.at[:10]}",
        )
    return there


def _keep(context: BuildContext, split: Split, content: str, known: _Known) -> None:
    """Remember what was read under a declared version; says so where it isn't what it was."""
    if known.content and known.content != content:
        context.say(
            "data",
            f"the {split} data changed although [data].data_version is still {context.project.data.data_version!r}; "
            "give them a new version, so that every build notices",
        )
    if known.declared:
        known.keep(content)


def _digest(context: BuildContext, split: Split, source: str, most: int | None = None) -> str:
    """Return the digest of the first ``most`` samples, by default of all."""
    from edgebuild.models.dataset import digest_samples

    project = context.project
    with context.progress.task(f"Reading {source}") as task:
        return digest_samples(
            call_for_samples(_Samples(project, split), source),
            specs=sample_specs(project),
            stateful=project.stateful,
            source=source,
            task=task,
            check=context.check,
            most=most,
        )


def _written(context: BuildContext, split: Split, source: str, folder: Path) -> str:
    """Write all samples into a folder, and return their digest.

    They are asked for twice, in a time box only the first ones; raises ``DataError`` where they differ.
    """
    from edgebuild.models.dataset import write_dataset
    from edgebuild.models.digests import SamplesDigest

    first = None if context.options.time_s is None else STEADY_SAMPLES
    project, digest = context.project, SamplesDigest(first)
    with context.progress.task(f"Reading {source}") as task:
        write_dataset(
            call_for_samples(_Samples(project, split), source),
            folder,
            specs=sample_specs(project),
            stateful=project.stateful,
            source=source,
            task=task,
            check=context.check,
            digest=digest,
        )
    if _digest(context, split, source, first) != digest.begun:
        raise unsteady(source)
    return digest.value


def _declared(context: BuildContext, source: str) -> str:
    """Return what a declared version stands for; empty where none is declared. Other code may yield other samples."""
    project = context.project
    version = project.data.data_version
    if version is None:
        return ""
    specs = [spec.model_dump(mode="json") for spec in sample_specs(project)]
    return digest_json([source, version, context.code.digest, specs, project.stateful])


class _Known:
    """What a split's samples or the model's tensors were when they were last read under what is declared now.

    Nothing where that can't be read.
    """

    def __init__(self, path: Path, what: str, declared: str) -> None:
        self._path, self._what, self.declared = path, what, declared
        found = self._all().get(what)
        mine = found if isinstance(found, dict) and declared and found.get("declared") == declared else {}
        self.content, self.at = str(mine.get("content", "")), str(mine.get("at", ""))

    def _all(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            found = json.loads(self._path.read_bytes())
            return found if isinstance(found, dict) else {}
        return {}

    def keep(self, content: str) -> None:
        """Remember what was read."""
        now = {"declared": self.declared, "content": content, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        write_atomic(self._path, canonical_json({**self._all(), self._what: now}))


def model_digest(context: BuildContext) -> str:
    """Return the digest of the tensors that the project's factory gives now; empty without a factory.

    With a declared version of the model: of those that it gave when it was last called under that version.
    """
    factory = context.project.model.factory
    if factory is None:
        return ""
    if not context.model_digest:
        context.model_digest.append(_model_digest(context, factory))
    return context.model_digest[0]


def _model_digest(context: BuildContext, factory: str) -> str:
    version = context.project.model.model_version
    known = _Known(context.home / "data.json", MODEL, _declared_model(context, factory, version))
    if known.content and not context.options.reread:
        context.say(
            "model",
            f"{factory} not called: [model].model_version is {version!r}, as when it was called on {known.at[:10]}",
        )
        return known.content
    from edgebuild.models.digests import module_digest
    from edgebuild.models.torch_models import make_module

    content = module_digest(make_module(context.load(factory), factory, context.project.weights_path))
    if known.content and known.content != content:
        context.say(
            "model",
            f"the tensors of {factory} changed although [model].model_version is still {version!r}; "
            "give them a new version, so that every build notices",
        )
    if version is not None:
        known.keep(content)
    return content


def _declared_model(context: BuildContext, factory: str, version: str | None) -> str:
    """Return what a declared version stands for; empty where none is declared."""
    if version is None:
        return ""
    weights = context.project.weights_path
    return digest_json([factory, version, context.code.digest, None if weights is None else digest_file(weights)])
