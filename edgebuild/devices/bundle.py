"""The runner as one file: a zip that is byte-identical wherever and whenever it is built."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

RUNNER = Path(__file__).parent / "runner"
#: The package's name inside the bundle; it must not shadow anything that a board has installed.
PACKAGE = "edgebuild_runner"
#: Device code of several files is a package, named by this file of it.
PACKAGE_FILE = "__init__.py"
START = f"from {PACKAGE}.__main__ import main\n\nmain()\n"


def module_of(backend: str) -> str:
    """Return the module or package that a backend's device code becomes: never the runtime's own name."""
    return "backend_" + re.sub(r"\W", "_", backend)


def build_bundle(backend_device_files: Mapping[str, Path]) -> bytes:
    """Return the ``.pyz``: sorted entries, fixed times and modes, stored and not deflated.

    Stored, because the bytes of deflate differ between zlib versions, and importing is quicker.
    """
    contents = {f"{PACKAGE}/{file.name}": file.read_bytes() for file in RUNNER.glob("*.py")}
    contents["__main__.py"] = START.encode()
    for backend, path in backend_device_files.items():
        module = module_of(backend)
        if {f"{module}.py", f"{module}/{PACKAGE_FILE}"} & contents.keys():
            raise UsageError(f"Two backends would both become {module}.py in the runner: rename {backend!r}.")
        whole = path.name == PACKAGE_FILE
        contents |= {f"{module}/{file.name}": file.read_bytes() for file in path.parent.glob("*.py") if whole}
        contents |= {} if whole else {f"{module}.py": path.read_bytes()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as bundle:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            bundle.writestr(entry, contents[name])
    return buffer.getvalue()
