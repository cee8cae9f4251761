"""Choose the data by the rule below and write ``files.tsv``. Run it again only to change the data set.

The rule, fixed before any accuracy was looked at: a file counts if its extension is in ``labels.tsv``, it is not a
template by its folder, Magika would ask the model about it, and no file with the same bytes came before it. Of what
counts, a package gives at most ``CAP`` files per label (``PYTHON_CAP`` of Python, which every package has), those with
the smallest SHA-256: arbitrary, but the same everywhere.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections import defaultdict
from pathlib import Path, PurePosixPath

import data
import wheels

CAP = 120
PYTHON_CAP = 60


def counts(path: str) -> bool:
    """Whether the rule takes a file, as far as its path tells."""
    name = PurePosixPath(path)
    # Installers write *.dist-info; and templates/*.html is a template language that produces HTML.
    return (
        data.label_of(path) is not None
        and not name.parts[0].endswith(".dist-info")
        and not (name.suffix == ".html" and "templates" in name.parts)
    )


def chosen(wheel: Path, seen: set[str]) -> list[tuple[str, str]]:
    """(digest, path) of the files that a wheel gives; ``seen`` holds the digests of all files before and grows."""
    by_label: dict[str, dict[str, str]] = defaultdict(dict)
    with zipfile.ZipFile(wheel) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
            if entry.is_dir() or entry.file_size > wheels.MAX_FILE_BYTES or not counts(entry.filename):
                continue
            content = wheels.read(archive, entry.filename)
            digest = hashlib.sha256(content).hexdigest()
            if digest not in seen and data.asks_model(content):
                seen.add(digest)
                by_label[str(data.label_of(entry.filename))][digest] = entry.filename
    kept: list[tuple[str, str]] = []
    for label, files in by_label.items():
        kept += sorted(files.items())[: PYTHON_CAP if label == "python" else CAP]
    return sorted(kept, key=lambda row: row[1])


def main() -> None:
    """Write ``files.tsv`` from ``packages.tsv`` and ``labels.tsv``."""
    paths = wheels.locate(wheels.packages())
    seen: set[str] = set()
    lines = ["package\tsha256_16\tpath\n"]
    for package in wheels.packages():
        rows = chosen(paths[package.name], seen)
        lines += [f"{package.name}\t{digest[: data.DIGEST_CHARS]}\t{path}\n" for digest, path in rows]
    (wheels.HERE / "files.tsv").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
