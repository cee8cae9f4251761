"""A torch model on disk: ``compressed.json`` (factory and edits) and ``weights.safetensors``; no pickle, no code.

The model of an ONNX file has no factory: the file itself, ``source.onnx``, lies in its place (see ``onnx_torch``).

Guarantees: what ``write_model`` wrote, ``load_model`` rebuilds from those files and the user's factory alone, bit for
bit. Damaged or hostile files raise ``ModelError`` naming the layer; no code runs but what the project itself names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from edgebuild.core.values import Value
from edgebuild.errors import EdgebuildError, ModelError
from edgebuild.execution.disk import copy_file
from edgebuild.models.edits import CompressedModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from edgebuild.core.steps import StepContext

MODEL_FILE = "compressed.json"
WEIGHTS_FILE = "weights.safetensors"
#: The ONNX file that a model was read from, in its folder; it also stands for the factory, which such a model hasn't.
SOURCE_FILE = "source.onnx"
#: Edits of a large net are some hundred kB.
MAX_BYTES = 64 << 20


class CodeNames(Value):
    """What of the user's code a compressed model may call: the factory, and the references that edits may name.

    It shapes nothing: what is called by which name is in the model.
    """

    factory: str
    modules: tuple[str, ...] = ()

    def code_in(self, ctx: StepContext) -> UserCode:
        """Return the code itself, as a running step reaches it."""
        return UserCode(factory=self.factory, load=ctx.load, modules=self.modules)


@dataclass(frozen=True, kw_only=True)
class UserCode:
    """The code of the user's that a stored model may call, as the project names it.

    ``load`` returns the callable of a reference; ``modules`` are the others that edits may name.
    """

    factory: str
    load: Callable[[str], Callable[..., Any]]
    modules: tuple[str, ...] = ()

    def module_maker(self, reference: str) -> Callable[..., Any]:
        """Return what a reference names, such as the maker of a ``UserModule``; its own errors come as ``ModelError``.

        Raises ``ModelError`` for a reference that the project doesn't name.
        """
        if reference not in self.modules:
            raise ModelError(f"The edits name {reference}, which the project doesn't.", hint="Name it in a recipe.")
        function = self.load(reference)

        def called(*args: Any, **named: Any) -> Any:
            try:
                return function(*args, **named)
            except EdgebuildError:
                raise
            except Exception as error:  # whatever the user's code raises
                raise ModelError(
                    f"{reference} failed: {type(error).__name__}: {error}", hint="Call it directly to see where."
                ) from error

        return called

    def made(self, reference: str, original: nn.Module) -> nn.Module:
        """Return the model that a reference makes of the original; raises ``ModelError`` where it makes none."""
        from torch import nn

        module = self.module_maker(reference)(original)
        if not isinstance(module, nn.Module):
            raise ModelError(
                f"{reference} returned a {type(module).__name__}, not a torch.nn.Module.", hint="Return the model."
            )
        return module


def write_model(module: nn.Module, model: CompressedModel, folder: Path, source: Path | None = None) -> None:
    """Write a module that is ``model``'s factory with its edits carried out; weights on grids packed (``packed``).

    ``source`` is the folder of the model before, whose ONNX file, if it has one, is what the edits start from.
    """
    import torch
    from safetensors.torch import save_file

    from edgebuild.models import packed

    state = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                f"{name} of the model is a {type(value).__name__}, not a tensor: it can't be stored.",
                hint="A model with state of its own beside tensors can't be compressed.",
            )
        # Tied weights are stored once for each name: safetensors takes no shared memory.
        state[name] = value.detach().cpu().clone().contiguous()
    header = packed.pack(module, state)
    save_file(state, str(folder / WEIGHTS_FILE), metadata=header or None)
    (folder / MODEL_FILE).write_text(model.to_json())
    if source is not None and (source / SOURCE_FILE).exists():
        copy_file(str(source / SOURCE_FILE), str(folder / SOURCE_FILE))


def read_model(folder: Path) -> CompressedModel:
    """Read ``compressed.json``; raises ``ModelError`` when it is damaged, too large or of another version."""
    path = folder / MODEL_FILE
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path} is larger than {MAX_BYTES >> 20} MiB.", hint="No model needs that many edits.")
        return CompressedModel.model_validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}.", hint="Is it a compressed model?") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(
            f"{path} is no compressed model of this version: {where}: {first['msg']}.",
            hint="It is damaged, or another version of edgebuild wrote it.",
        ) from error


def load_model(folder: Path, code: UserCode) -> tuple[nn.Module, CompressedModel]:
    """Rebuild a stored model, in eval mode; raises ``ModelError`` where files and factory don't fit."""
    from edgebuild.models.interpreter import apply_edits

    model = read_model(folder)
    if model.factory != code.factory:
        raise ModelError(
            f"{folder / MODEL_FILE} is of the factory {model.factory}, the project's is {code.factory}.",
            hint="It belongs to another project.",
        )
    module = apply_edits(_original(model.factory, folder, code), model.edits, code.module_maker)
    load_weights(module, folder / WEIGHTS_FILE)
    return module.eval(), model


def _original(factory: str, folder: Path, code: UserCode) -> nn.Module:
    if factory != SOURCE_FILE:
        from edgebuild.models.torch_models import make_module

        return make_module(code.load(factory), factory, None)  # type: ignore[no-any-return]
    import onnx

    from edgebuild.models.onnx_torch.reading import read_module

    return read_module(onnx.load(str(folder / SOURCE_FILE)))


def load_weights(module: nn.Module, path: Path) -> None:
    """Load weights strictly: every tensor by name, shape and dtype; raises ``ModelError`` naming the first misfit."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    from edgebuild.models import packed

    try:
        state = load_file(str(path))
        with safe_open(str(path), "pt") as opened:
            header = opened.metadata()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} can't be read as safetensors: {error}", hint="Is the file complete?") from error
    packed.unpack(module, state, header, path)
    own = module.state_dict()
    for name in sorted(own.keys() | state.keys()):
        if name not in state or name not in own:
            what = "is missing" if name not in state else "isn't in the model"
            raise ModelError(f"{path} doesn't fit the model: {name} {what}.", hint="It is of another model.")
        mine, theirs = own[name], state[name]
        if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
            raise ModelError(
                f"{path} doesn't fit the model: {name} is {theirs.dtype} {list(theirs.shape)}, "
                f"the model has {mine.dtype} {list(mine.shape)}.",
                hint="It is of another model.",
            )
    module.load_state_dict(state, strict=True)
    _check_views(module, path)


def _check_views(module: nn.Module, path: Path) -> None:
    """An index beyond its codebook would read other memory, or raise far from here."""
    from edgebuild.models.weight_views import Shared

    for name, inside in module.named_modules():
        if isinstance(inside, Shared) and not bool(
            ((inside.index >= 0) & (inside.index < len(inside.codebook))).all().item()
        ):
            raise ModelError(
                f"{path}: {name} names an entry beyond its codebook of {len(inside.codebook)}.",
                hint="The file is damaged.",
            )
