"""What a bench job is asked: models as files of the farm, and how they are measured. Parsed strictly on both sides."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from edgebuild.core.artifact import path_problem
from edgebuild.core.artifact_files import MANIFEST
from edgebuild.errors import UsageError
from edgebuild.farm.results import DIGEST
from edgebuild.farm.values import Message

#: An artifact has a handful of files.
MOST_FILES = 2_000
MOST_THREADS = 4096


def _plain(path: str) -> str:
    if problem := path_problem(path):
        raise ValueError(problem)
    return path


class ModelFile(Message):
    """One file of a model: where it lies in the model's folder, and its digest, under which the farm has it."""

    path: Annotated[str, AfterValidator(_plain)]
    sha256: str = Field(pattern=DIGEST)


class SentModel(Message):
    """A model as it was sent: an artifact's folder, or an ``.onnx`` or ``.xml`` file, the ``entry``, with its data."""

    name: str = Field(min_length=1, max_length=200)
    entry: str = Field(default="", max_length=1_000)
    files: tuple[ModelFile, ...] = Field(min_length=1, max_length=MOST_FILES)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        paths = [file.path for file in self.files]
        if len(set(paths)) < len(paths):
            raise ValueError("two files have one path")
        folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
        if folders & set(paths):
            raise ValueError("a file lies where another's folder does")
        if (self.entry or MANIFEST) not in paths:
            raise ValueError(f"{self.entry or MANIFEST} is none of its files")
        return self


class BenchArguments(Message):
    """What ``edgebuild bench`` is asked on the command line, without the device."""

    model: SentModel
    against: SentModel | None = None
    backend: str | None = Field(default=None, max_length=64)
    shape: dict[str, Annotated[int, Field(ge=1, lt=10**9)]] = Field(default_factory=dict, max_length=64)
    threads: int | None = Field(default=None, ge=1, le=MOST_THREADS)
    quick: bool = False
    native_libraries: bool = False


def read_arguments(given: dict[str, Any]) -> BenchArguments:
    """Return a bench job's arguments; raises ``UsageError`` with the first problem."""
    try:
        return BenchArguments.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"The bench job's arguments make no sense: {where or 'they'}: {first['msg']}.") from error
