"""What `edgebuild.toml` can say, table by table; the descriptions become its JSON Schema and its reference page."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from edgebuild.catalogue.contract_table import ContractTable
from edgebuild.catalogue.tables import Reference, Table, is_reference
from edgebuild.core.artifact import DType
from edgebuild.core.metric_names import METRIC_NAMES
from edgebuild.core.objective import ObjectiveName

_PROJECT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Number: TypeAlias = float | int | bool


def _data_source(text: str) -> str:
    if text.endswith(".npz") or is_reference(text):
        return text
    raise ValueError('must be "module:function" or a file that ends in ".npz"')


def _name(text: str) -> str:
    if _PROJECT_NAME.fullmatch(text):
        return text
    raise ValueError("must be letters, digits, dots, dashes and underscores, a letter or digit first")


def _axis(size: Any) -> int | str:
    if isinstance(size, str) and size:
        return size
    if isinstance(size, int) and not isinstance(size, bool) and size >= 1:
        return size
    raise ValueError("must be a size of at least 1, or the name of a dynamic axis")


def _constant(value: Any) -> Number | tuple[Number, ...]:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(item, bool | int | float) for item in value):
        return tuple(value)
    raise ValueError("must be a number, or a flat list of numbers")


def _weights(path: str) -> str:
    if path.endswith(".safetensors"):
        return path
    raise ValueError(
        "must be a .safetensors file; edgebuild never loads a pickled checkpoint "
        "(`edgebuild init <checkpoint>` shows how to convert one)"
    )


def _unique(entries: tuple[str, ...]) -> tuple[str, ...]:
    doubles = sorted({entry for entry in entries if entries.count(entry) > 1})
    if doubles:
        raise ValueError(f'"{doubles[0]}" is there twice')
    return entries


DataSource = Annotated[str, AfterValidator(_data_source)]
Text = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Text, ...], AfterValidator(_unique)]
Positive = Annotated[float, Field(gt=0)]
Axis = Annotated[
    int | str,
    PlainValidator(_axis),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "minLength": 1}]}),
]
ConstantValue = Annotated[
    Number | tuple[Number, ...],
    PlainValidator(_constant),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": ["number", "boolean"]},
                {"type": "array", "minItems": 1, "items": {"type": ["number", "boolean"]}},
            ]
        }
    ),
]


class ProjectTable(Table):
    """Who this is."""

    name: Annotated[str, AfterValidator(_name)] = Field(description="The project's name, used in reports and records.")


class ModelTable(Table):
    """The trained model: a factory, or an ONNX file."""

    factory: Reference | None = Field(
        default=None, description="`module:function`, called without arguments; returns a `torch.nn.Module`."
    )
    weights: Annotated[str, AfterValidator(_weights)] | None = Field(
        default=None,
        description="A safetensors file with the state dict, loaded strictly into what the factory returns.",
    )
    model_version: Text | None = Field(
        default=None,
        description="What the factory returns, as a version of yours: change it when that changes. Without it every "
        "build imports torch and calls the factory, to see whether its tensors changed.",
    )
    onnx: Text | None = Field(
        default=None,
        description="An ONNX file, relative to the project; `package:magika/models/m.onnx` names a file inside an "
        "installed package.",
    )
    custom_ops: Text | None = Field(
        default=None, description="The shared library with the custom operators of the ONNX file, for ONNX Runtime."
    )
    outputs: Annotated[Names, Field(min_length=1)] = Field(
        default=("output",),
        description="Names for the outputs of a factory's model, in order, states left out; an ONNX file has its own.",
    )
    state: dict[str, str] = Field(
        default_factory=dict,
        description="State carried between calls: input name = output name. Zeros at the start of each sample.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> ModelTable:
        if (self.factory is None) == (self.onnx is None):
            raise ValueError("needs either `factory` or `onnx`" + (", not both" if self.factory else ""))
        if self.weights is not None and self.onnx is not None:
            raise ValueError("`weights` goes with `factory`; an ONNX file holds its own")
        if self.model_version is not None and self.onnx is not None:
            raise ValueError("`model_version` goes with `factory`; an ONNX file is known by its content")
        if self.onnx is not None and "outputs" in self.model_fields_set:
            raise ValueError("`outputs` goes with `factory`; an ONNX file names its own")
        if self.custom_ops is not None and self.onnx is None:
            raise ValueError("`custom_ops` goes with `onnx`")
        return self


class InputTable(Table):
    """One input of the model."""

    name: Text = Field(description="The input's name, as in the ONNX file; for a factory, in the order of `forward`.")
    shape: tuple[Axis, ...] = Field(
        description='Sizes, or names for dynamic axes; `"batch"` is the batch axis. `[]` for a scalar.'
    )
    dtype: DType = Field(description="The element type.")
    value: ConstantValue | None = Field(
        default=None, description="A constant: this input is fed by the artifact itself and isn't in the samples."
    )


class DataTable(Table):
    """Where samples come from: `module:function` that yields `edgebuild.Sample`, or an `.npz` file.

    A file holds one array per model input, axis 0 running over the samples, and optionally `target`, `group` and
    `slice`.
    """

    train: DataSource | None = Field(default=None, description="Training samples, for techniques that train.")
    calibration: DataSource = Field(description="Samples that quantisers calibrate on; no targets needed.")
    validation: DataSource = Field(description="Samples that candidates are chosen on.")
    test: DataSource = Field(description="The sealed set: opened once, to certify the finalists.")
    data_version: Text | None = Field(
        default=None,
        description="What the callables yield, as a version of yours: change it when the data change. Without it every "
        "build reads all samples, to see whether they changed.",
    )


class MetricTable(Table):
    """How good outputs are: a built-in metric by name, or a callable of yours."""

    name: Text | None = Field(
        default=None,
        description=f"A built-in metric ([which reads what](metrics.md)): {', '.join(METRIC_NAMES)}; or a package's.",
    )
    output: Text | None = Field(
        default=None, description="The output that a built-in metric reads, where the model has several."
    )
    decode: Reference | None = Field(
        default=None,
        description="`module:function(outputs)` for a built-in metric: one prediction per sample, say a text or boxes, "
        "from outputs by name, axis 0 the samples.",
    )
    callable: Reference | None = Field(
        default=None, description="`module:function(outputs, targets) -> float`; outputs by name, axis 0 the samples."
    )
    per_sample: Reference | None = Field(
        default=None,
        description="`module:function(outputs, targets)`, one entry per sample, computed once: numbers whose mean is "
        "the metric, or what `combine` needs. Next to `callable`, or instead of it.",
    )
    combine: Reference | None = Field(
        default=None,
        description="`module:function(entries) -> float` of what `per_sample` returned, for any choice of samples.",
    )
    direction: Literal["maximise", "minimise"] | None = Field(
        default=None, description="Whether more is better; required with code of yours."
    )
    scale: Annotated[tuple[float, ...], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="The lowest and highest value; required where the budget is in points."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> MetricTable:
        own = "per_sample" if self.callable is None and self.per_sample is not None else "callable"
        if (self.name is None) == (self.callable is None and self.per_sample is None):
            raise ValueError(f"needs either `name` or `{own}`" + (", not both" if self.name else ""))
        if self.combine is not None and self.per_sample is None:
            raise ValueError("`combine` goes with `per_sample`, whose entries it takes")
        if self.name is not None and (self.direction or self.scale):
            raise ValueError("`direction` and `scale` go with `callable`; a built-in metric knows its own")
        if self.decode is not None and (self.name is None or self.output is not None):
            raise ValueError("`decode` goes with `name` and without `output`: it gets all outputs")
        if self.name is None and self.output is not None:
            raise ValueError("`output` goes with `name`; a callable gets all outputs")
        if self.name is None and self.direction is None:
            scale = "" if self.scale else ", and a `scale` of [lowest, highest] where the budget is in points"
            raise ValueError(f'`{own}` needs a `direction`, "maximise" or "minimise"{scale}')
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise ValueError("`scale` must be [lowest, highest]")
        return self

    @property
    def uses_code(self) -> bool:
        """Whether code of the project's decides what the metric is."""
        return self.name is None or self.decode is not None


class BudgetTable(Table):
    """How much worse than the original the artifact may be: exactly one of the four kinds."""

    points: Positive | None = Field(
        default=None, description="The largest drop in hundredths of the metric's scale: 2.0 is 0.02 on [0, 1]."
    )
    relative: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="The largest drop as a share of the original's metric: 0.02 is 2 % of it."
    )
    floor: float | None = Field(default=None, description="The worst value of the metric that is still good enough.")
    agreement: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="For unlabelled data: the share of samples decided as the original decides them."
    )
    per_slice_points: Positive | None = Field(
        default=None, description="The largest drop inside any one slice or class, in points."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> BudgetTable:
        given = [kind for kind in ("points", "relative", "floor", "agreement") if getattr(self, kind) is not None]
        if len(given) != 1:
            what = f", got {' and '.join(given)}" if given else ""
            raise ValueError(f"needs exactly one of `points`, `relative`, `floor` or `agreement`{what}")
        return self


class LimitsTable(Table):
    """What the artifact must stay inside in addition to the budget; all optional."""

    latency_p50_ms: Positive | None = Field(default=None, description="Median latency of one call, in ms.")
    latency_p99_ms: Positive | None = Field(default=None, description="99th percentile of the latency, in ms.")
    throughput_per_s: Positive | None = Field(
        default=None, description="At least this many samples a second, several requests in flight."
    )
    peak_memory_mb: Positive | None = Field(default=None, description="Peak memory of the whole process, in MB (10^6).")
    file_size_mb: Positive | None = Field(default=None, description="Size of all files that ship, in MB (10^6).")
    load_time_ms: Positive | None = Field(default=None, description="Time to load the artifact, in ms.")


class BuildTable(Table):
    """What is built, for what, and with which freedom."""

    objective: ObjectiveName = Field(default="latency", description="What is optimised inside budget and limits.")
    targets: Annotated[Names, Field(min_length=1)] = Field(
        default=("this-machine",), description="What to build for; `edgebuild targets` lists them."
    )
    keep_float: Names = Field(
        default=(), description="Names of ONNX nodes that are never quantised; `*` stands for any characters."
    )
    keep_dynamic: Names = Field(default=(), description="Names of dynamic axes that stay dynamic in the artifact.")
    threads: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None, description="The only thread count to ship; without it several are raced."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(default=0, description="The seed of everything random.")


class TrainingTable(Table):
    """Code of yours for techniques that train; all optional."""

    loss: Reference | None = Field(
        default=None,
        description="`module:function(outputs, targets)`, one number as a tensor; without it cross-entropy for classes "
        "and squared error for numbers.",
    )
    loader: Reference | None = Field(
        default=None,
        description="`module:function` that returns batches to train on, say augmented ones, for `[data].train`.",
    )
    data_version: Text | None = Field(
        default=None,
        description="What `loader` gives, as a version of yours: change it when the data change. Without it, what is "
        "trained on them isn't reused.",
    )

    @model_validator(mode="after")
    def _version_of_a_loader(self) -> TrainingTable:
        if self.data_version is not None and self.loader is None:
            raise ValueError("`data_version` goes with `loader`; other data are known by their content")
        return self


class RecipeStepTable(Table):
    """One step of a recipe: a technique, and that technique's own parameters."""

    model_config = ConfigDict(extra="allow")

    technique: Text = Field(description="The technique's name; docs/techniques.md has them all.")

    @property
    def parameters(self) -> dict[str, Any]:
        """What stands next to the technique's name."""
        return dict(self.model_extra or {})


class RecipeTable(Table):
    """A way to compress the torch model: techniques in order. Each recipe is tried in addition to the original."""

    name: Annotated[str, AfterValidator(_name)] = Field(description="The recipe's name, part of its candidates' names.")
    steps: Annotated[tuple[RecipeStepTable, ...], Field(min_length=1)] = Field(
        description='In order: `{ technique = "prune-structured", keep = 0.5 }`, with the technique\'s parameters.'
    )


class StoreTable(Table):
    """Where results are kept."""

    url: Text | None = Field(
        default=None, description="A folder or any fsspec URL; default: `.edgebuild/store` in the project."
    )
    quota_gb: Annotated[float, Field(gt=0, le=1e9)] | None = Field(
        default=None, description="What `edgebuild store gc` brings the store down to."
    )


class ProjectFile(Table):
    """The whole of `edgebuild.toml`."""

    project: ProjectTable
    model: ModelTable
    inputs: Annotated[tuple[InputTable, ...], Field(min_length=1)] = Field(description="One `[[inputs]]` per input.")
    freeze: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="The size that each dynamic axis is frozen to in the shipped artifact."
    )
    contract: ContractTable = ContractTable()
    data: DataTable
    metric: MetricTable | None = Field(default=None, description="Left out only where the budget is `agreement`.")
    budget: BudgetTable
    limits: LimitsTable = LimitsTable()
    recipes: tuple[RecipeTable, ...] = Field(default=(), description="One `[[recipes]]` per recipe.")
    training: TrainingTable = TrainingTable()
    build: BuildTable = BuildTable()
    store: StoreTable = StoreTable()
