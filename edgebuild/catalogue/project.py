"""Loads a project: `edgebuild.toml`, checked across its tables, and its files; all problems reported together."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from edgebuild.catalogue.project_checks import cross_problems
from edgebuild.catalogue.project_tables import DataTable, ModelTable, ProjectFile
from edgebuild.catalogue.recipes import recipe_problems
from edgebuild.catalogue.tables import broken_keys, collect, collect_one, read_toml
from edgebuild.core.artifact import ConstantInput, StateLink, TensorSpec
from edgebuild.core.files import ABSENT, resolved, why_not_plain
from edgebuild.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeAlias

    from pydantic import BaseModel

    Techniques: TypeAlias = Callable[[], Mapping[str, type[BaseModel]]]

PROJECT_FILE = "edgebuild.toml"
_HINT = "Every key is explained in docs/edgebuild-toml.md."
_PACKAGE = "package:"


class Project(ProjectFile):
    """A loaded project. ``folder`` is where its file lies; it is no part of the project's JSON or digest."""

    folder: Path = Field(exclude=True)

    @property
    def name(self) -> str:
        """The project's name."""
        return self.project.name

    @property
    def stateful(self) -> bool:
        """Whether the model carries state between calls."""
        return bool(self.model.state)

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """All inputs that aren't constant, states included, with the axes as the user named them."""
        return tuple(TensorSpec(name=i.name, shape=i.shape, dtype=i.dtype) for i in self.inputs if i.value is None)

    @property
    def sample_specs(self) -> tuple[TensorSpec, ...]:
        """The inputs that samples hold: neither constants nor states."""
        return tuple(spec for spec in self.input_specs if spec.name not in self.model.state)

    @property
    def constants(self) -> tuple[ConstantInput, ...]:
        """The constant inputs."""
        return tuple(
            ConstantInput(name=i.name, dtype=i.dtype, shape=self.shipped_shape(i.shape), value=i.value)
            for i in self.inputs
            if i.value is not None
        )

    @property
    def state_links(self) -> tuple[StateLink, ...]:
        """Which output feeds which input of the next call."""
        return tuple(StateLink(input=into, output=out) for into, out in sorted(self.model.state.items()))

    def shipped_shape(self, shape: tuple[int | str, ...]) -> tuple[Any, ...]:
        """Return ``shape`` with the frozen axes as sizes; axes of ``keep_dynamic`` stay names."""
        return tuple(self.freeze.get(axis, axis) if isinstance(axis, str) else axis for axis in shape)

    @property
    def onnx_path(self) -> Path | None:
        """The ONNX file, or ``None`` for a factory."""
        return locate(self.model.onnx, self.folder) if self.model.onnx else None

    @property
    def weights_path(self) -> Path | None:
        """The safetensors file, or ``None``."""
        return self.folder / self.model.weights if self.model.weights else None

    @property
    def custom_ops_path(self) -> Path | None:
        """The library with custom operators, or ``None``."""
        return self.folder / self.model.custom_ops if self.model.custom_ops else None


def load_project(path: str | Path, *, techniques: Techniques | None = None) -> Project:
    """Return the project whose folder or ``edgebuild.toml`` is ``path``.

    Reads the file and looks whether the files that it names exist; imports no user code. ``techniques`` gives the
    parameters of every technique, asked for where the file has recipes; without it those are checked when planned.
    Raises ``ConfigError`` with every problem found: syntax, unknown keys, types, contradictions between tables, missing
    files.
    """
    path = Path(path)
    file = path / PROJECT_FILE if path.is_dir() else path
    return parse_project(read_toml(file), resolved(file).parent, source=str(file), techniques=techniques)


def parse_project(
    tables: Mapping[str, Any], folder: Path, *, source: str = PROJECT_FILE, techniques: Techniques | None = None
) -> Project:
    """Return the project that ``tables`` describe, with paths relative to ``folder``; errors as in ``load_project``."""
    value, problems = collect(ProjectFile, tables)
    parts = dict(value) if value is not None else _sound_parts(tables)
    problems += tuple(cross_problems(parts)) + tuple(_file_problems(parts, folder))
    if recipes := parts.get("recipes"):
        problems += tuple(recipe_problems(recipes, techniques() if techniques is not None else None))
    if problems:
        raise ConfigError(source, problems, hint=_HINT)
    return Project(**parts, folder=folder)


def locate(name: str, folder: Path) -> Path | None:
    """Return the path of a model file: relative to ``folder``, or ``package:<package>/<file>``.

    ``None`` where the package isn't installed. The package is found without importing it.
    """
    if not name.startswith(_PACKAGE):
        return folder / name
    package, _, inside = name.removeprefix(_PACKAGE).partition("/")
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except ValueError:  # what is imported under that name came from no package
        spec = None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / inside


def _sound_parts(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables that are right in themselves, so that what they contradict is reported in the same go."""
    broken = broken_keys(ProjectFile, tables)
    parts: dict[str, Any] = {}
    for name, field in ProjectFile.model_fields.items():
        if name in tables and name not in broken:
            parts[name] = collect_one(ProjectFile, name, tables[name])
        elif name not in tables and not field.is_required():
            parts[name] = field.get_default(call_default_factory=True)
    return parts


def _file_problems(parts: Mapping[str, Any], folder: Path) -> Iterator[str]:
    model, data = parts.get("model"), parts.get("data")
    if isinstance(model, ModelTable):
        for key in ("weights", "onnx", "custom_ops"):
            if name := getattr(model, key):
                yield from _missing_file(f"[model].{key}", name, folder)
    if isinstance(data, DataTable):
        for split in DataTable.model_fields:
            name = getattr(data, split)
            if name and name.endswith(".npz"):
                yield from _missing_file(f"[data].{split}", name, folder)


def _missing_file(key: str, name: str, folder: Path) -> Iterator[str]:
    path = locate(name, folder)
    if path is None:
        package = name.removeprefix(_PACKAGE).partition("/")[0]
        yield f'{key}: the package "{package}" isn\'t installed (pip install {package})'
    elif why := why_not_plain(path):
        yield f"{key}: there is no file {path}" if why == ABSENT else f"{key}: {path} {why}"
