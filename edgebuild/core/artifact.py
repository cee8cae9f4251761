"""What ships: compiled models, their input/output contract, and the settings they run with."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from edgebuild.core.values import Value

#: The axis name that means "batch"; every other name in a shape is another dynamic axis.
BATCH_AXIS = "batch"

Setting: TypeAlias = bool | int | str

DType = Literal[
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"
]


class TensorSpec(Value):
    """One model input or output. ``shape`` holds a size, or a name for a dynamic axis."""

    name: str
    shape: tuple[int | str, ...]
    dtype: DType


class ConstantInput(Value):
    """A model input that never changes; ``value`` is a number or (nested) lists of numbers."""

    name: str
    dtype: DType
    shape: tuple[int, ...] = ()
    value: float | int | bool | tuple[float | int | bool, ...]


class StateLink(Value):
    """A state carried between calls: ``output`` of one call is fed to ``input`` of the next; zeros at the start."""

    input: str
    output: str


class Contract(Value):
    """How an artifact is called. ``inputs`` are what the caller feeds; constants and states are fed by the loop.

    Shapes are the shipped ones: integers, except for axes that the user asked to keep dynamic.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    constants: tuple[ConstantInput, ...] = ()
    state: tuple[StateLink, ...] = ()
    state_specs: tuple[TensorSpec, ...] = ()
    preprocess: str | None = None
    postprocess: str | None = None

    @property
    def batch(self) -> int:
        """The shipped batch size: the first axis of the first input (1 where it is dynamic or absent)."""
        first = self.inputs[0].shape[:1]
        return first[0] if first and isinstance(first[0], int) else 1


class FileEntry(Value):
    """One file of a folder, by its relative POSIX path."""

    path: str
    sha256: str
    size_bytes: int = Field(ge=0)


#: Names of what a manifest lists.
MAX_PATH_CHARACTERS = 1024
HEX_DIGITS = frozenset("0123456789abcdef")


def path_problem(path: str) -> str | None:
    """Return why ``path`` can't be a file's place in a folder; None for a plain relative one, in POSIX form."""
    if len(path) > MAX_PATH_CHARACTERS:
        return "the path is too long"
    if any(part in {"", ".", ".."} for part in path.split("/")) or "\\" in path or not path.isprintable():
        return "the path is not a plain relative one"
    return None


def is_digest(text: str) -> bool:
    """Whether ``text`` is a SHA-256 in lower-case hex."""
    return len(text) == 64 and set(text) <= HEX_DIGITS


_LETTER = {"uint8": "u", "int8": "s"}


class Int8Scheme(Value):
    """How a runtime wants 8-bit Q/DQ.

    ``placement``: ``whole`` quantises every op the runtime has an int8 kernel for, residual branches included;
    ``weighted`` only convolutions and matrix products. ``reduce_range`` keeps weights in 7 bits, for CPUs whose int8
    dot product saturates in 16 bits. ``float_below_channels`` leaves convolutions with fewer input channels in float.
    """

    activations: Literal["uint8", "int8"]
    weights: Literal["int8", "uint8"] = "int8"
    symmetric_activations: bool = False
    per_channel: bool = True
    reduce_range: bool = False
    placement: Literal["whole", "weighted"] = "whole"
    float_below_channels: int = Field(default=0, ge=0)

    @property
    def label(self) -> str:
        """A short name such as ``u8s8`` or ``s8s8-7bit``."""
        name = f"{_LETTER[self.activations]}8{_LETTER[self.weights]}8"
        return f"{name}-7bit" if self.reduce_range else name


class Fp16Meaning(StrEnum):
    """What fp16 means on a profile: ``storage`` computes in fp32, and is judged on size and memory only."""

    STORAGE = "storage"
    COMPUTE = "compute"


class Precision(Value):
    """The precision of a candidate and who makes it. ``bf16`` is arithmetic: the files are those of fp32.

    ``int8-dynamic`` finds the range of activations at each call, and needs no calibration. ``int8-storage`` is the
    opposite of ``bf16``: weights are stored in 8 bits, and everything is computed in fp32.
    """

    kind: Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic", "int8-storage"]
    fp16: Fp16Meaning | None = None
    scheme: Int8Scheme | None = None
    quantiser: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Precision:
        if self.kind == "int8" and (self.scheme is None or self.quantiser is None):
            raise ValueError("an int8 precision needs a scheme and a quantiser")
        if self.kind == "int8-dynamic" and self.scheme is None:
            raise ValueError("dynamic int8 needs a scheme")
        if self.kind == "fp16" and self.fp16 is None:
            raise ValueError("an fp16 precision needs to say whether it is storage or compute")
        return self

    @property
    def only_stored(self) -> bool:
        """Whether it only saves space: everything is computed in fp32."""
        return self.kind == "int8-storage" or self.fp16 is Fp16Meaning.STORAGE

    @property
    def label(self) -> str:
        """A short name such as ``fp32``, ``fp16-storage`` or ``int8-edgebuild-u8s8``."""
        if self.kind == "fp16":
            return f"fp16-{self.fp16}"
        if self.scheme is not None:
            return f"int8-{self.quantiser or 'dynamic'}-{self.scheme.label}"
        return self.kind


class Exit(Value):
    """Where a chain may end: with ``output`` as its answer where ``confidence``, one number, reaches ``threshold``.

    Both are outputs of the stage. ``name`` is what the exit is called in reports.
    """

    name: str
    output: str
    confidence: str
    threshold: float


class Stage(Value):
    """One model of a chain: an artifact in ``folder``, fed by name with the caller's inputs and earlier outputs.

    The last stage has no exit: what comes so far ends there.
    """

    folder: str
    exit: Exit | None = None


class Artifact(Value):
    """A compiled model and how to run it; lies as ``artifact.json`` next to its files.

    ``entry`` is the file that the backend opens. ``settings`` are the runtime settings, in the backend's own words.
    ``load`` holds what the backend's device code must know to open it (for example that it is already optimised); of
    its keys ``weights`` names a weights file, and ``libraries``, with commas between, the native code that is loaded.
    With ``stages`` it is a chain of artifacts of the same backend, each in a folder of its own, run in order with the
    chain's settings until one exits; ``entry`` is then the first one's manifest.
    """

    schema_version: Literal[1] = 1
    backend: str
    entry: str
    files: tuple[FileEntry, ...]
    contract: Contract
    precision: Precision
    settings: tuple[tuple[str, Setting], ...] = ()
    load: tuple[tuple[str, Setting], ...] = ()
    stages: tuple[Stage, ...] = ()

    @model_validator(mode="after")
    def _ends(self) -> Artifact:
        last = len(self.stages) - 1
        if any((stage.exit is None) != (index == last) for index, stage in enumerate(self.stages)):
            raise ValueError("every stage of a chain but the last has an exit")
        return self

    @property
    def size_bytes(self) -> int:
        """The size of all files that ship."""
        return sum(f.size_bytes for f in self.files)

    @property
    def libraries(self) -> tuple[str, ...]:
        """The files of native code that opening it loads, and so runs."""
        return tuple(filter(None, str(dict(self.load).get("libraries", "")).split(",")))

    def with_settings(self, settings: tuple[tuple[str, Setting], ...]) -> Artifact:
        """Return the same compiled files with other runtime settings."""
        return self.model_copy(update={"settings": tuple(sorted(settings))})
