"""What is learnt from: arrays of the project's own data, or any loader of the user's, in one form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import torch

from edgebuild.core.chunks import let_go
from edgebuild.errors import DataError, EdgebuildError
from edgebuild.training.randomness import Draws, mixed, seed_everything

if TYPE_CHECKING:
    from edgebuild.models.dataset import Dataset

#: Changes a batch's inputs (a tuple or dict of tensors) at random; all its randomness comes from ``Draws``.
Augment: TypeAlias = Callable[[Any, Draws], Any]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some samples. ``inputs``: a tensor, a tuple (passed in order) or a dict (passed by name); tensors throughout.

    ``index`` are the samples' numbers in the data where they are known; ``done`` is the share of the run behind.
    """

    inputs: Any
    target: Any = None
    index: torch.Tensor | None = None
    epoch: int = 0
    number: int = 0
    done: float = 0.0

    def __len__(self) -> int:
        first = next(iter(_leaves(self.inputs)), None)
        return 0 if first is None or first.ndim == 0 else len(first)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """Return the batch with every tensor changed; whatever else a loader put into it stays."""

        def changed(value: Any) -> Any:
            return change(value) if isinstance(value, torch.Tensor) else value

        parts = {name: _mapped(getattr(self, name), changed) for name in ("inputs", "target", "index")}
        return replace(self, **parts)


def call_on(module: Callable[..., Any], inputs: Any) -> Any:
    """Return ``module`` of the inputs: by name for a dict, in order for a tuple or list."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, tuple | list) else module(inputs)


class Feed(Protocol):
    """What the loop takes batches from."""

    def length(self) -> int | None:
        """Batches per epoch, where that is known."""
        ...

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of an epoch from number ``start`` on; the same for the same epoch every time."""
        ...


@dataclass(frozen=True, kw_only=True)
class ArrayLoader:
    """Batches of arrays (numpy, mapped or torch; axis 0 the samples), in an order that seed and epoch decide.

    ``inputs``: a tuple of arrays (in the order of the module's inputs) or a dict of them. A last batch of one sample
    joins the one before it, because normalisation over a batch of one is undefined. ``augment`` gets a batch's inputs;
    with ``views`` there are only so many versions of each sample, taken in turn by the epochs.
    """

    inputs: Any
    target: Any = None
    batch_size: int = 64
    seed: int = 0
    shuffle: bool = True
    augment: Augment | None = None
    views: int | None = None

    def __post_init__(self) -> None:
        arrays = [*_leaves(self.inputs), *_leaves(self.target)]
        lengths = {len(array) for array in arrays}
        if len(lengths) > 1:
            raise DataError(f"The arrays to train on have different lengths: {sorted(lengths)}.")
        if not lengths or 0 in lengths:
            raise DataError("There is nothing to train on: the arrays are empty.", hint="Give at least one sample.")

    @classmethod
    def of(cls, dataset: Dataset, order: tuple[str, ...], **settings: Any) -> ArrayLoader:
        """Return a loader over a materialised data set, its inputs in the module's order, mapped and not loaded.

        Raises ``DataError`` where samples are sequences of calls: only the user knows how those are to be batched.
        """
        if dataset.frames != dataset.samples:
            raise DataError(
                "The model carries a state from call to call, and the training data holds whole sequences.",
                hint="Give a loader of your own that yields the batches to train on.",
            )
        inputs = tuple(dataset.array(name) for name in order)
        return cls(inputs=inputs, target=dataset.numbers, **settings)

    @property
    def samples(self) -> int:
        """The number of samples."""
        return len(next(iter(_leaves(self.inputs))))

    def view_of(self, epoch: int) -> int:
        """Return which version of the samples an epoch shows: 0 without augmentation."""
        if self.augment is None:
            return 0
        return epoch if self.views is None else epoch % self.views

    def length(self) -> int:
        """See ``Feed``."""
        full, rest = divmod(self.samples, self.batch_size)
        return max(full + (rest > 1 or (rest == 1 and self.batch_size == 1)), 1)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See ``Feed``."""
        order = np.arange(self.samples)
        if self.shuffle:
            generator = torch.Generator().manual_seed(mixed(self.seed, epoch, "order"))
            order = torch.randperm(self.samples, generator=generator).numpy()
        last = self.length() - 1
        for number in range(start, last + 1):
            stop = (number + 1) * self.batch_size if number < last else self.samples
            yield self.rows(order[number * self.batch_size : stop], epoch, number)

    def rows(self, index: Any, epoch: int, number: int = 0) -> Batch:
        """Return the samples of ``index`` as epoch ``epoch`` shows them."""

        numbers = torch.from_numpy(index)

        def pick(array: Any) -> torch.Tensor:
            if isinstance(array, torch.Tensor):
                return array[numbers]
            picked = torch.from_numpy(np.asarray(array[index]))
            let_go(array)
            return picked

        inputs = _mapped(self.inputs, pick)
        if self.augment is not None:
            inputs = self.augment(inputs, Draws(self.seed, self.view_of(epoch), index))
        target = _mapped(self.target, pick)
        return Batch(inputs=inputs, target=target, index=numbers, epoch=epoch, number=number)


@dataclass(frozen=True, kw_only=True)
class Iterated:
    """Batches of anything that can be iterated again each epoch: a torch DataLoader, a list, a callable of generators.

    Before each batch the global random states are seeded from seed, epoch and number, and a ``generator`` of the
    loader's before each epoch, so that a run that goes on sees what it would have seen.
    """

    source: Any
    seed: int

    def length(self) -> int | None:
        """See ``Feed``."""
        if isinstance(self.source, Sized):
            try:
                return len(self.source)
            except TypeError:  # a DataLoader over an endless data set
                return None
        return None

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """See ``Feed``."""
        device = torch.device("cpu")
        generator = getattr(self.source, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(mixed(self.seed, epoch, "loader"))
        if callable(set_epoch := getattr(self.source, "set_epoch", None)):
            set_epoch(epoch)
        seed_everything(mixed(self.seed, epoch, "loader"), device)
        with _users_fault(epoch, 0):
            iterator = iter(self.source() if callable(self.source) else self.source)
        number = 0
        while True:
            seed_everything(mixed(self.seed, epoch, number, "loader"), device)
            with _users_fault(epoch, number):
                item = next(iterator, None)
            if item is None:
                return
            if number >= start:
                yield as_batch(item, epoch, number)
            number += 1


class _users_fault:  # noqa: N801 - reads as a sentence
    """Turns what a loader raises into a ``DataError`` that says where."""

    def __init__(self, epoch: int, number: int) -> None:
        self._where = f"epoch {epoch + 1}, batch {number + 1}"

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, EdgebuildError):
            raise DataError(
                f"The training loader failed in {self._where}: {type(error).__name__}: {error}",
                hint="Iterate over it directly to see the whole error.",
            ) from error


def as_feed(loader: Any, seed: int) -> Feed:
    """Return what the loop takes batches from; refuses what can be read only once."""
    if isinstance(loader, ArrayLoader | Iterated):
        return loader
    if hasattr(loader, "__next__"):
        raise DataError(
            f"The training loader is a {type(loader).__name__}, which can be read only once.",
            hint="Give a list, a torch DataLoader, or a function that returns a new iterator for each epoch.",
        )
    if not callable(loader) and not isinstance(loader, Iterable):
        raise DataError(
            f"The training loader is a {type(loader).__name__}, which holds no batches.",
            hint="Give edgebuild.training's ArrayLoader, a torch DataLoader, a list, or a function that returns one.",
        )
    return Iterated(source=loader, seed=seed)


def as_batch(item: Any, epoch: int, number: int) -> Batch:
    """Return as a ``Batch`` what a loader yielded: that, (inputs, target), a dict with ``target``, or only inputs."""
    if isinstance(item, Batch):
        batch = item
    elif isinstance(item, Mapping):
        batch = Batch(inputs={k: v for k, v in item.items() if k != "target"}, target=item.get("target"))
    elif isinstance(item, tuple | list) and len(item) == 2:
        batch = Batch(inputs=item[0], target=item[1])
    elif isinstance(item, torch.Tensor | np.ndarray):
        batch = Batch(inputs=item)
    else:
        what = f"{type(item).__name__} of {len(item)}" if isinstance(item, Sequence) else type(item).__name__
        raise DataError(
            f"The training loader yielded a {what} as batch {number + 1} of epoch {epoch + 1}.",
            hint="Yield (inputs, target), a dict of inputs with 'target', or an edgebuild Batch.",
        )
    tensors = replace(batch, inputs=_tensors(batch.inputs), target=_tensors(batch.target), epoch=epoch, number=number)
    if len(tensors) == 0:
        raise DataError(f"Batch {number + 1} of epoch {epoch + 1} of the training loader holds no samples.")
    return tensors


def _tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value if value.flags.writeable else value.copy())
    if isinstance(value, Mapping):
        return {name: _tensors(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_tensors(item) for item in value)
    return value


def _mapped(value: Any, change: Callable[[Any], torch.Tensor]) -> Any:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {name: _mapped(item, change) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_mapped(item, change) for item in value)
    return change(value)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        yield value
