"""Every backend there is: an explicit table, and the entry points of third parties."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from edgebuild.backends.ort.host import OnnxRuntime
from edgebuild.backends.ov.host import OpenVino
from edgebuild.backends.protocol import Backend
from edgebuild.backends.trt.host import TensorRt
from edgebuild.errors import EnvironmentGap

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import EntryPoint

GROUP = "edgebuild.backends"
TABLE: tuple[Backend, ...] = (OnnxRuntime(), OpenVino(), TensorRt())


def backends(plugins: Iterable[EntryPoint] | None = None) -> dict[str, Backend]:
    """Return all backends by name, whether their runtimes are installed or not.

    Raises ``EnvironmentGap`` for a plugin that can't be loaded, isn't a backend, or takes another's name.
    """
    found = {backend.name: backend for backend in TABLE}
    for plugin in entry_points(group=GROUP) if plugins is None else plugins:
        backend = _load(plugin)
        if backend.name in found:
            raise EnvironmentGap(
                f"Two backends are named {backend.name!r}; the second is the plugin {plugin.value!r}.",
                hint="Uninstall one of the two.",
            )
        found[backend.name] = backend
    return found


def _load(plugin: EntryPoint) -> Backend:
    hint = "Fix or uninstall the package that brings it."
    try:
        made = plugin.load()()
    except Exception as error:  # a plugin's import may raise anything
        raise EnvironmentGap(f"The backend plugin {plugin.value!r} can't be loaded: {error!r}.", hint=hint) from error
    if not isinstance(made, Backend) or not made.device_file.is_file():
        raise EnvironmentGap(f"The backend plugin {plugin.value!r} is not a backend with a device file.", hint=hint)
    return made
