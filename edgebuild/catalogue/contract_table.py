"""`[contract]`: what the caller of an artifact does before and after it, and what its numbers mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from edgebuild.catalogue.tables import Reference, Table, suggestion
from edgebuild.core.files import read_plain
from edgebuild.core.meaning import InputMeaning, Meaning, OutputMeaning
from edgebuild.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from edgebuild.catalogue.project_tables import InputTable
    from edgebuild.core.artifact import Contract, TensorSpec

#: Batch, channels, depth, height, width, time or tokens, and features.
AXES = "NCDHWTF"
CHANNELS = "C"
MAX_LABELS_BYTES = 4 << 20
MAX_LABELS = 100_000
_HINT = "docs/edgebuild-toml.md explains [contract]."


def _layout(text: str) -> str:
    if text and set(text) <= set(AXES) and len(set(text)) == len(text):
        return text
    raise ValueError(f"must be a letter for each axis, such as NCHW; the letters are {', '.join(AXES)}")


def _labels(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if isinstance(value, str) and not value.endswith(".txt"):
        raise ValueError("must be a list of names, or a .txt file with one name a line")
    if isinstance(value, tuple):
        _require_shown(value)
    return value


def _require_shown(names: tuple[str, ...]) -> None:
    for number, name in enumerate(names, start=1):
        if not name.strip() or not name.isprintable():
            raise ValueError(f"name {number} is empty or can't be printed")


Numbers: TypeAlias = tuple[float, ...]


class InputMeaningTable(Table):
    """How the caller makes an input: `(raw * scale - mean) / std`."""

    layout: Annotated[str, AfterValidator(_layout)] | None = Field(
        default=None, description="A letter for each axis, such as `NCHW`."
    )
    scale: Annotated[float, Field(gt=0)] = Field(default=1.0, description="What raw values are multiplied by first.")
    mean: Numbers = Field(default=(), description="What is taken off then: one number, or one for each channel.")
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(), description="What it is divided by last: one number, or one for each channel."
    )

    @model_validator(mode="after")
    def _as_many(self) -> InputMeaningTable:
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise ValueError(f"`mean` has {len(self.mean)} numbers and `std` has {len(self.std)}")
        return self


class OutputMeaningTable(Table):
    """What an output says."""

    labels: Annotated[str | tuple[str, ...], AfterValidator(_labels)] = Field(
        description="The names of its classes in their order: a list, or a .txt file with one name a line."
    )


class ContractTable(Table):
    """What the caller of the artifact does before and after it; shipped with it as a contract."""

    preprocess: Reference | None = Field(default=None, description="`module:function` that makes the inputs.")
    postprocess: Reference | None = Field(default=None, description="`module:function` that reads the outputs.")
    inputs: dict[str, InputMeaningTable] = Field(
        default_factory=dict, description="`[contract.inputs.NAME]`: how an input is made; goes into releases."
    )
    outputs: dict[str, OutputMeaningTable] = Field(
        default_factory=dict, description="`[contract.outputs.NAME]`: what an output says; goes into releases."
    )


def meaning_problems(
    contract: ContractTable, inputs: tuple[InputTable, ...], freeze: Mapping[str, int]
) -> Iterator[str]:
    """Yield what `[contract.inputs]` says of inputs that aren't there, or aren't like that."""
    tables = {table.name: table for table in inputs}
    for name, said in contract.inputs.items():
        where = f"[contract.inputs.{name}]"
        if name not in tables:
            yield f'{where}: there is no input "{name}" under [[inputs]]; {suggestion(name, tables)}'
            continue
        shape = tables[name].shape
        if said.layout is not None and len(said.layout) != len(shape):
            yield f'{where}.layout: "{said.layout}" names {len(said.layout)} axes, the input has {len(shape)}'
            continue
        yield from _channels_fit(where, said, tuple(freeze.get(a, a) if isinstance(a, str) else a for a in shape))


def _channels_fit(where: str, said: InputMeaningTable, shape: tuple[int | str, ...]) -> Iterator[str]:
    counts = {"mean": len(said.mean), "std": len(said.std)}
    channels = shape[said.layout.index(CHANNELS)] if said.layout and CHANNELS in said.layout else None
    for key, count in counts.items():
        if count > 1 and channels is None:
            yield f"{where}.{key}: has a number for each channel; name the channels' axis C in `layout`"
        elif count > 1 and isinstance(channels, int) and count != channels:
            yield f"{where}.{key}: has {count} numbers for {channels} channels"


def meaning_of(contract: ContractTable, folder: Path, called: Contract) -> Meaning:
    """Return what a project says of the inputs and outputs of what it ships; reads the files with labels.

    Raises ``ConfigError`` where outputs aren't there or have no axis of as many classes.
    """
    problems: list[str] = []
    outputs = []
    specs = {spec.name: spec for spec in called.outputs}
    for name, table in sorted(contract.outputs.items()):
        where = f"[contract.outputs.{name}]"
        if name not in specs:
            problems.append(f'{where}: the model has no output "{name}"; {suggestion(name, specs)}')
            continue
        try:
            labels = table.labels if isinstance(table.labels, tuple) else _read(folder / table.labels)
            _require_fits(labels, specs[name])
        except (OSError, ValueError) as error:
            problems.append(f"{where}.labels: {error}")
            continue
        outputs.append(OutputMeaning(name=name, labels=labels))
    if problems:
        raise ConfigError(str(folder / "edgebuild.toml"), tuple(problems), hint=_HINT)
    inputs = tuple(
        InputMeaning(name=name, layout=table.layout, scale=table.scale, mean=table.mean, std=table.std)
        for name, table in sorted(contract.inputs.items())
    )
    return Meaning(inputs=inputs, outputs=tuple(outputs))


def _read(path: Path) -> tuple[str, ...]:
    labels = tuple(line.strip() for line in read_plain(path, MAX_LABELS_BYTES).decode("utf-8").splitlines())
    _require_shown(labels)
    return labels


def _require_fits(labels: tuple[str, ...], spec: TensorSpec) -> None:
    if not 0 < len(labels) <= MAX_LABELS:
        raise ValueError(f"there are {len(labels)} names; 1 to {MAX_LABELS:,} can be given")
    sizes = spec.shape[1:]
    if len(labels) not in sizes and all(isinstance(size, int) for size in sizes):
        raise ValueError(f"{len(labels)} names for an output of shape {list(spec.shape)}: no axis has as many classes")
