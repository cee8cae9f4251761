"""Every backend there is: an explicit table, and the entry points of third parties."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.backends.ort.host import OnnxRuntime
from edgebuild.backends.ov.host import OpenVino
from edgebuild.backends.protocol import Backend
from edgebuild.backends.trt.host import TensorRt
from edgebuild.core.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from importlib.metadata import EntryPoint

GROUP = "edgebuild.backends"
TABLE: tuple[Backend, ...] = (OnnxRuntime(), OpenVino(), TensorRt())


def backends(plugins: Iterable[EntryPoint] | None = None) -> dict[str, Backend]:
    """Return all backends by name, whether their runtimes are installed or not.

    Raises ``EnvironmentGap`` for a plug-in that can't be loaded, isn't a backend with a device file, or takes another's
    name.
    """
    registry = Registry(
        group=GROUP,
        kind="backend",
        table={backend.name: backend for backend in TABLE},
        accept=_backend,
        named=lambda backend: backend.name,
    )
    return registry.load(plugins)


def _backend(loaded: Callable[[], object]) -> Backend | None:
    made = loaded()
    return made if isinstance(made, Backend) and made.device_file.is_file() else None
