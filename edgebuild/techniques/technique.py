"""What every technique on torch models is: a step that takes a stored model and gives one.

A technique is one file with a class that extends ``Technique``: it says what it is (``kind``, ``title``),
what it needs (``needs``), what it changes and after what it may not come (``changes``, ``not_after``), and does its
work in ``compress``. Loading, checking and storing are done here, the same for all:

* in: ``model``, a folder with a stored model (``edgebuild.models.compressed_model``); ``teacher``, the original in the
  same form; ``calibration`` and, where they are needed and given, ``train`` and ``validation``: data folders
  (``edgebuild.models.dataset``); with ``times_layers`` also what was timed
  (``edgebuild.techniques.timing.layer_times``);
* out: a folder with a stored model, and ``technique.json``: what was done to each layer and why, or why not.

Ensured afterwards, or ``ModelError``: rebuilt from the folder alone the model gives the same outputs bit by bit;
outputs keep their number, shapes and dtypes (where heads were added: behind the heads' own); where structure changed,
the ONNX export agrees with torch at several batch sizes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

from pydantic import field_validator

from edgebuild.catalogue.tables import Table
from edgebuild.core.artifact import Contract, Int8Scheme, TensorSpec
from edgebuild.core.steps import CacheScope, RunsOn, Step, StepContext
from edgebuild.core.values import Value
from edgebuild.models.compressed_model import CodeNames
from edgebuild.techniques.report import REPORT_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edgebuild.models.edits import ReplaceModule
    from edgebuild.techniques.workspace import Workspace

#: What a technique changes; a later one may refuse to come after it.
Change: TypeAlias = Literal["structure", "values", "masks", "codebooks", "grids", "heads"]


class Parameters(Table):
    """The base of a technique's parameters: a frozen table with a description for every key and no unknown ones."""


class Requirements(Value):
    """What a step needs, known from its parameters alone and checked while planning.

    ``validation`` says that it chooses between models. ``features`` are features of a profile, such as ``"2:4"``.
    ``modules`` are distributions that must be installed. ``untouched`` names a parameter that puts another model in the
    original's place, which no step may have changed before. ``references`` are user functions that it calls.
    ``not_after`` are changes that it may not come after with these parameters, each with the reason.
    """

    train: bool = False
    labels: bool = False
    validation: bool = False
    features: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    untouched: str = ""
    references: tuple[str, ...] = ()
    not_after: tuple[tuple[Change, str], ...] = ()


class Proposal(NamedTuple):
    """What a technique would put in a layer's place: the edit, and what sets the new layer's weights."""

    edit: ReplaceModule
    fill: Callable[[Any], None]


class Technique(Step):
    """The base of all techniques on torch models; see the module. Subclasses set the class variables.

    ``specs`` are the model's inputs in the order of ``forward``, with dynamic axes as names; ``contract`` is how it is
    called. ``channel_multiple`` and ``int8`` are the profile's, and 1 and None for techniques that don't look at them
    (``uses_channels``, ``uses_int8``), or where the profile has no int8. ``loss`` names the user's
    own loss, ``loader`` the user's own training loader, ``data_version`` what the user says its data are: without it
    nothing that was made with the loader is found again. ``code`` says what of the user's code it may call.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int]
    tools: ClassVar[tuple[str, ...]]
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS
    Parameters: ClassVar[type[Parameters]]
    changes: ClassVar[frozenset[Change]]
    not_after: ClassVar[Mapping[Change, str]] = {}
    uses_channels: ClassVar[bool] = False
    uses_int8: ClassVar[bool] = False
    #: Whether what ``proposals`` gives is timed on the target, where it can be, before ``compress`` decides.
    times_layers: ClassVar[bool] = False

    #: What it may call shapes nothing; what it does call is in the parameters and in the model.
    unkeyed: ClassVar[frozenset[str]] = frozenset({"code"})

    parameters: Any
    code: CodeNames
    specs: tuple[TensorSpec, ...]
    contract: Contract
    channel_multiple: int = 1
    int8: Int8Scheme | None = None
    loss: str = ""
    loader: str = ""
    data_version: str = ""

    @field_validator("parameters", mode="before")
    @classmethod
    def _own_parameters(cls, value: object) -> object:
        return cls.Parameters.model_validate(value) if isinstance(value, dict) else value

    @property
    def uses_code(self) -> bool:
        """See ``Step``."""
        return True

    @property
    def cache(self) -> CacheScope:
        """See ``Step``."""
        return CacheScope.NEVER if self.loader and not self.data_version else CacheScope.STORED

    @classmethod
    def needs(cls, parameters: Any) -> Requirements:
        """Return what a step with these parameters needs."""
        del parameters
        return Requirements()

    def compress(self, work: Workspace) -> str:
        """Change ``work``'s model by its ``apply`` and by setting weights; return one sentence on what came of it.

        Raises ``ModelError`` naming the layer where the model can't be compressed so.
        """
        raise NotImplementedError

    def proposals(self, work: Workspace) -> Iterator[Proposal]:
        """Yield what it would replace by what, changing nothing: see ``times_layers``."""
        raise NotImplementedError

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step`` and the module."""
        from edgebuild.models.interpreter import layers
        from edgebuild.techniques.skipping import require_layers
        from edgebuild.techniques.workspace import Workspace

        work = Workspace.open(self, inputs, ctx)
        require_layers((name for name, _ in layers(work.module)), getattr(self.parameters, "skip", ()))
        summary = self.compress(work)
        ctx.check()
        work.store(out_dir, with_onnx="structure" in self.changes or "heads" in self.changes)
        (out_dir / REPORT_FILE).write_text(work.report(summary).to_json())


def plain_parameters(parameters: Parameters) -> dict[str, Any]:
    """Return parameters as plain data: those that differ from their defaults."""
    return parameters.model_dump(mode="json", exclude_defaults=True)


def read_parameters(technique: type[Technique], given: Mapping[str, Any]) -> Any:
    """Return the technique's parameters that ``plain_parameters`` gave as plain data."""
    return technique.Parameters.model_validate_json(json.dumps(given), strict=True)
