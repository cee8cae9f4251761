"""Opens an artifact with its backend's device code, and the two operations that are the backend's own."""

from __future__ import annotations

import importlib
import os
import time

from . import environment
from .chain import Chain
from .folders import checked, digest_of
from .machine import Machine
from .manifest import libraries, read_manifest
from .protocol import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from .protocol import Fields, Wire


def backend_module(name: str) -> ModuleType:
    """Return the device code of a backend that travels in this runner, its runtime not yet imported."""
    module = "backend_" + "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name != module:
            raise
        raise Problem("usage", "The runner was built without the backend %r." % name) from error


def _load_runtime(backend: ModuleType, name: str) -> None:
    try:
        backend.load_runtime()
    except ImportError as error:
        raise Problem(
            "environment",
            "%s is not installed on the device (%s)." % (name, error),
            "`edgebuild device provision` puts it on a board; `edgebuild doctor` says how it is installed here.",
        ) from error


class Opened:
    """An artifact's manifest, its backend with the runtime imported, and what that cost in seconds.

    Every file of it was read and is what was sent, before anything is loaded; ``page_cache`` says whether it came from
    memory. Libraries of native code are refused unless the request allows them.

    ``decode_s``, ``decoded_bytes`` and ``decode_peak_bytes`` (the process's, up to then) say what decoding its weights
    files took so far; None where it has none.
    """

    def __init__(self, request: Fields) -> None:
        self.folder: str = request["artifact"]
        stored = environment.read_bytes()
        files = checked(self.folder)
        self.manifest = read_manifest(self.folder, files)
        size = sum(entry["size_bytes"] for entry in self.manifest["files"])
        self.page_cache = environment.page_cache(stored, environment.read_bytes(), size)
        self.contract: Fields = self.manifest["contract"]
        self.stages: list[Fields] = self.manifest.get("stages", [])
        self._stages = [read_manifest(self.folder, files, stage["folder"]) for stage in self.stages]
        self._require_permission(bool(request.get("native_libraries")))
        settings = request.get("settings")
        self.settings: Fields = dict(self.manifest["settings"] if settings is None else settings)
        self.decode_s: float | None = None
        self.decoded_bytes: int | None = None
        self.decode_peak_bytes: int | None = None
        self.backend = backend_module(self.manifest["backend"])
        start = time.perf_counter()
        _load_runtime(self.backend, self.manifest["backend"])
        self.import_s = time.perf_counter() - start

    def session(self, kind: Any = None) -> Any:
        """Load the model and return a session, or one of the backend's class ``kind``; raises the backend's problem."""
        if self.stages:
            return Chain(self)
        return self.open(self.manifest, self.folder, kind)

    def open(self, manifest: Fields, folder: str, kind: Any = None) -> Any:
        """Load one model, which is the artifact or a stage of it."""
        return (kind or self.backend.Session)(manifest, folder, self.settings, **self.weights(manifest, folder))

    def weights(self, manifest: Fields, folder: str) -> Fields:
        """Return what a backend is given beside a model that ships a weights file: ``{"weights": its tensors}``."""
        load = dict(manifest["load"])
        if "weights" not in load:
            return {}
        from . import weights_file

        start = time.perf_counter()
        try:
            tensors = weights_file.load(os.path.join(folder, load["weights"]), int(load["weights_bytes"]))
        except weights_file.Damaged as error:
            raise Problem(
                "model",
                "The artifact's weights file %s can't be used: %s." % (load["weights"], error),
                "It isn't what was built: copy the artifact again, or build it again.",
            ) from error
        self.decode_s = (self.decode_s or 0.0) + time.perf_counter() - start
        self.decoded_bytes = (self.decoded_bytes or 0) + sum(value.nbytes for value in tensors.values())
        self.decode_peak_bytes = Machine().kilobytes("proc/self/status", "VmHWM")
        return {"weights": tensors}

    def stage(self, number: int) -> tuple[Fields, str]:
        """Return the manifest and the folder of one stage of a chain."""
        return self._stages[number], os.path.join(self.folder, self.stages[number]["folder"])

    def _require_permission(self, native: bool) -> None:
        for each in [self.manifest, *self._stages]:
            if each is not self.manifest and each.get("stages"):
                raise Problem("model", "A stage of the artifact is a chain itself.")
            if libraries(each) and not native:
                name = libraries(each)[0]
                raise Problem("usage", "The artifact brings native code (%s), and nobody allowed it." % name)


def layers(request: Fields) -> Fields:
    """Return every layer as the runtime really runs it: ``{"layers": [{name, op, precision, time_us}]}``."""
    from .feeding import example

    opened = Opened(request)
    inputs = example(opened.contract, request.get("inputs"))
    if not opened.stages:
        return {"layers": _layers(opened, opened.manifest, opened.folder, inputs)}
    found: list[Fields] = []
    chain = opened.session()
    for number, stage in enumerate(opened.stages):
        manifest, folder = opened.stage(number)
        own = _layers(opened, manifest, folder, inputs)
        found += [{**layer, "name": "%s/%s" % (stage["folder"], layer["name"])} for layer in own]
        inputs = chain.passed_on(number, inputs)
    return {"layers": found}


def _layers(opened: Opened, manifest: Fields, folder: str, inputs: Fields) -> list[Fields]:
    weights = opened.weights(manifest, folder)
    found: list[Fields] = opened.backend.layers(manifest, folder, opened.settings, inputs, **weights)
    return found


def compile(request: Fields, wire: Wire) -> Fields:  # noqa: A001  the operation's name
    """Let the backend compile ``model`` into the folder ``out`` on this device.

    Returns what the backend says, and as ``files`` what it wrote: ``[{name, sha256, size_bytes}]``.
    """
    import inspect

    backend = backend_module(request["backend"])
    if not hasattr(backend, "compile"):
        raise Problem("usage", "The backend %r compiles nothing on the device." % request["backend"])
    _load_runtime(backend, request["backend"])
    checked(os.path.dirname(request["model"]))
    os.makedirs(request["out"], exist_ok=True)
    telling = {"tell": wire.progress} if "tell" in inspect.signature(backend.compile).parameters else {}
    said: Fields = backend.compile(request["model"], request["out"], request.get("options", {}), **telling)
    paths = [os.path.join(request["out"], name) for name in sorted(os.listdir(request["out"]))]
    files = [
        {"name": os.path.basename(path), "sha256": digest_of(path), "size_bytes": os.path.getsize(path)}
        for path in paths
        if os.path.isfile(path)
    ]
    return {**said, "files": files}
