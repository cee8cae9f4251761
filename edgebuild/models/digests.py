"""What samples are, in digests: the data decide what is reused, not the files or the code that they come from."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

#: Where torch keeps what ``named_parameters`` and its siblings give.
_HELD_BY_TORCH = frozenset({"_parameters", "_buffers", "_modules"})


class SamplesDigest:
    """The digest of samples in their order. Every array's dtype, shape and bytes count, and group and slice.

    ``begun`` is that of the ``first`` ones alone, by default of all.
    """

    def __init__(self, first: int | None = None) -> None:
        self._all = hashlib.sha256()
        self._first = first
        self._begun = ""
        self.count = 0

    def add(self, frames: Mapping[str, NDArray[Any]], group: str | None, slice_: str | None) -> None:
        """Take in one sample; its arrays have frames on axis 0, the target among them."""
        self._all.update(sample_digest(frames, group, slice_))
        self.count += 1
        if self.count == self._first:
            self._begun = self.value

    @property
    def value(self) -> str:
        """The digest of what was taken in so far."""
        return f"{self.count}-{self._all.hexdigest()}"

    @property
    def begun(self) -> str:
        """The digest of the first samples that were taken in."""
        return self._begun or self.value


def sample_digest(frames: Mapping[str, NDArray[Any]], group: str | None = None, slice_: str | None = None) -> bytes:
    """Return the digest of one sample: 32 bytes, equal for equal arrays, group and slice."""
    found = hashlib.sha256()
    for name in sorted(frames):
        array = frames[name] if name != "target" else _plain(frames[name])
        head, body = _parts(array)
        found.update(json.dumps([name, head, array.shape, len(body)]).encode())
        found.update(body)
    found.update(json.dumps([group, slice_]).encode())
    return found.digest()


def samples_digest(samples: Iterable[bytes]) -> str:
    """Return the digest of samples' digests whatever their order: the same samples shuffled are the same set."""
    return hashlib.sha256(b"".join(sorted(samples))).hexdigest()


def _plain(target: NDArray[Any]) -> NDArray[Any]:
    """Return a target in the widest dtype of its kind: 3 is the same label in 8 bits and in 64."""
    if target.dtype.kind in "bi" or (target.dtype.kind == "u" and target.dtype.itemsize < 8):
        return target.astype(np.int64)
    return target.astype(np.float64) if target.dtype.kind == "f" else target


def _parts(array: NDArray[Any]) -> tuple[str, bytes]:
    """Return a dtype in words and the content in bytes. Texts count without the padding that numpy keeps them in."""
    if array.dtype.kind in "US":
        return array.dtype.kind, repr(array.tolist()).encode("utf-8", "surrogatepass")
    return array.dtype.str, np.ascontiguousarray(array).tobytes()


def module_digest(module: Any) -> str:
    """Return the digest of a torch module's parameters, buffers and arrays that are plain attributes of its layers."""
    import torch
    from torch.nn.parameter import is_lazy

    found = hashlib.sha256()
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
        *_plain_arrays(module),
    ]
    for name, value in sorted(named, key=lambda one: one[0]):
        lazy = is_lazy(value)
        found.update(json.dumps([name, str(value.dtype), None if lazy else list(value.shape)]).encode())
        if not lazy:
            dense = value.detach().cpu()
            dense = dense if dense.layout == torch.strided else dense.to_dense()
            found.update(dense.contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _plain_arrays(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors and arrays of numbers that layers hold as attributes, in lists and dicts of them, too."""
    import torch

    for name, layer in module.named_modules(remove_duplicate=False):
        todo = [(f"{name}.{key}", value) for key, value in vars(layer).items() if key not in _HELD_BY_TORCH]
        while todo:
            where, value = todo.pop()
            if isinstance(value, list | tuple):
                todo += [(f"{where}.{at}", each) for at, each in enumerate(value)]
            elif isinstance(value, dict):
                todo += [(f"{where}.{key}", each) for key, each in value.items()]
            elif isinstance(value, torch.Tensor):
                yield where, value
            elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
                yield where, torch.from_numpy(np.ascontiguousarray(value))
