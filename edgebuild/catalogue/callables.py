"""Import what a project names as ``module:function``, without one project's modules reaching another's.

A project's modules are its own even where two projects both have a ``data.py``: importing goes through a finder that
looks into the folder of the *active* project first, and making a project active swaps its modules into ``sys.modules``
and the other project's out. ``sys.path`` is never touched. A callable makes its project active whenever it runs (and,
where it returns an iterator, at every step), so that imports inside functions work too. Not for several threads.
"""

from __future__ import annotations

import functools
import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.catalogue.code_digest import project_code_digest
from edgebuild.catalogue.tables import is_reference, suggestion
from edgebuild.core.steps import ProjectCode
from edgebuild.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

_HINT = "A callable is named as module:function; its module lies in the project's folder or in an installed package."


def project_code(folder: Path) -> ProjectCode:
    """Return a project's own code; a module of it (and torch with it) is imported when one of its callables is called.

    What ``load`` returns raises as ``load_callable`` does.
    """

    def load(reference: str) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            return load_callable(reference, folder)(*args, **named)

        return call

    return ProjectCode(load=load, digest=project_code_digest(folder))


def load_callable(reference: str, project_folder: Path) -> Callable[..., Any]:
    """Return the callable that ``module:function`` names, ready to be called at any time.

    Raises ``ConfigError`` saying which part is wrong: the form, a missing module or attribute, something that can't be
    called, a module that raises while it is imported, or one whose name hides a module of Python's own. What the
    callable itself raises passes through; a ``SystemExit`` becomes a ``RuntimeError``.
    """
    if not is_reference(reference):
        raise _problem(reference, 'must be "module:function"')
    module_name, _, attribute = reference.partition(":")
    folder = project_folder.resolve()
    found = _attribute(_import(module_name, reference, folder), attribute, reference)
    if not callable(found):
        raise _problem(reference, f"{attribute} is a {type(found).__name__}, which can't be called")
    return _bound(found, folder)


def _import(module_name: str, reference: str, folder: Path) -> ModuleType:
    top = module_name.partition(".")[0]
    if top in sys.stdlib_module_names and _FINDER.spec_in(top, folder) is not None:
        raise _problem(reference, f'"{top}" is also a module of Python itself; give the project\'s another name')
    _FINDER.activate(folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise _problem(reference, f'there is no module "{error.name}" in {folder} or installed') from error
        what = f'"{module_name}" imports "{error.name}", which isn\'t installed'
        raise _problem(reference, what, hint=f"pip install {error.name}") from error
    except (Exception, SystemExit) as error:  # whatever the user's module raises is the user's to see, with its place
        raise _problem(reference, f'importing "{module_name}" failed: {_told(error)}') from error
    own = _FINDER.spec_in(top, folder)
    first = sys.modules[top].__file__
    if own is not None and own.origin is not None and first is not None and not Path(first).samefile(own.origin):
        raise _problem(reference, f'another "{top}" is already imported, from {first}; rename the project\'s')
    return module


def _told(error: Exception | SystemExit) -> str:
    """Return the error with the innermost place that it came from."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})" if trace else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({Path(error.filename).name}, line {error.lineno})"
    text = str(error.msg) if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}{place}"


def _attribute(module: ModuleType, dotted: str, reference: str) -> Any:
    found: Any = module
    for name in dotted.split("."):
        if not hasattr(found, name):
            public = [n for n in vars(found) if not n.startswith("_") and callable(getattr(found, n))]
            place = module.__file__ or module.__name__
            raise _problem(reference, f'there is no "{name}" in {place}; {suggestion(name, public)}')
        found = getattr(found, name)
    return found


def _problem(reference: str, what: str, *, hint: str = _HINT) -> ConfigError:
    return ConfigError(f'callable "{reference}"', (what,), hint=hint)


def _bound(function: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """Return ``function`` that makes its project active while it runs."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        _FINDER.activate(folder)
        result = _staying(lambda: function(*args, **kwargs))
        # An iterator runs later, step by step, when another project may have become the active one.
        return _steps(result, folder) if hasattr(result, "__next__") else result

    return run


def _steps(iterator: Iterator[Any], folder: Path) -> Iterator[Any]:
    while True:
        _FINDER.activate(folder)
        try:
            item = _staying(lambda: next(iterator))
        except StopIteration:
            return
        yield item


def _staying(call: Callable[[], Any]) -> Any:
    """Call code of the user's that may want to end this process, whose exit code says something: that is an error."""
    try:
        return call()
    except SystemExit as error:
        raise RuntimeError(f"it called sys.exit({'' if error.code is None else repr(error.code)})") from error


class _ProjectFinder:
    """Finds modules in the active project's folder, ahead of everything installed."""

    def __init__(self) -> None:
        self._active: Path | None = None
        self._found: dict[Path, set[str]] = {}
        self._resting: dict[Path, dict[str, ModuleType]] = {}

    def activate(self, folder: Path) -> None:
        """Make ``folder`` the active project: its modules are in ``sys.modules``, no other project's are."""
        if folder == self._active and self in sys.meta_path:
            return
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        if self._active is not None and self._active != folder:
            tops = self._found.get(self._active, set())
            names = [name for name in sys.modules if name.partition(".")[0] in tops]
            self._resting[self._active] = {name: sys.modules.pop(name) for name in names}
        self._active = folder
        sys.modules.update(self._resting.pop(folder, {}))

    def spec_in(self, name: str, folder: Path) -> ModuleSpec | None:
        """Return the spec of a top-level module or package in ``folder``."""
        spec = PathFinder.find_spec(name, [str(folder)])
        # A plain folder (say, `onnx/` with model files) must not hide a package of that name.
        return spec if spec is not None and spec.origin is not None else None

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answer Python's import system; names of the standard library and of edgebuild are never the project's."""
        del target
        if path is not None or self._active is None or name in sys.stdlib_module_names or name == "edgebuild":
            return None
        spec = self.spec_in(name, self._active)
        if spec is not None:
            self._found.setdefault(self._active, set()).add(name)
        return spec


_FINDER = _ProjectFinder()
