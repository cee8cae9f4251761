"""Random operations on a store, compared with a plain dictionary."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edgebuild.execution.store import Store

from .example import commit, contents, key

NAMES = st.sampled_from("abcdef")
DATA = st.sampled_from([b"", b"x", b"shared" * 50, bytes(300), b"\xff" * 301])


class StoreMachine(RuleBasedStateMachine):
    """``kept`` is what must be there; damage and collection take away, the first commit of a key stays."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store.open(self.folder / "store")
        self.kept: dict[str, bytes] = {}
        #: Entries whose content was damaged, which nobody has noticed yet.
        self.torn: dict[str, bytes] = {}
        self.used: set[str] = set()

    def teardown(self) -> None:
        self.store.close()
        for folder in (self.folder / "store" / "trees").rglob("*"):
            if folder.is_dir():
                folder.chmod(0o755)
        shutil.rmtree(self.folder)

    @rule(name=NAMES, data=DATA)
    def commit(self, name: str, data: bytes) -> None:
        commit(self.store, name, data)
        self.torn.pop(name, None)
        self.kept.setdefault(name, data)
        # The same content is whole again, and so is every entry that names it.
        for other in [other for other, content in self.torn.items() if content == data]:
            del self.torn[other]
            if self.store.layout.entry(key(other)).exists():
                self.kept[other] = data
        self.used.add(name)

    @rule(name=NAMES)
    def lookup(self, name: str) -> None:
        found = self.store.lookup(key(name))
        self.used.add(name)
        self.torn.pop(name, None)
        assert (contents(found.path) if found else None) == ({"data": self.kept[name]} if name in self.kept else None)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store.open(self.folder / "store")
        self.used.clear()

    @rule(name=NAMES)
    def damage_content(self, name: str) -> None:
        found = self.store.lookup(key(name))
        self.used.add(name)
        self.torn.pop(name, None)
        if found is None or not self.kept[name]:
            return
        blob = self.store.layout.blob(found.files[0].sha256)
        blob.chmod(0o644)
        blob.write_bytes(b"?" * len(self.kept[name]))
        self.torn |= {other: data for other, data in self.kept.items() if data == self.kept[name]}
        self.kept = {other: data for other, data in self.kept.items() if other not in self.torn}

    @rule(name=NAMES)
    def damage_manifest(self, name: str) -> None:
        if name in self.kept:
            self.store.layout.entry(key(name)).write_bytes(b"{}")
            del self.kept[name]

    @rule(name=NAMES)
    def damage_tree(self, name: str) -> None:
        found = self.store.lookup(key(name))
        self.used.add(name)
        if found is not None:
            found.path.chmod(0o755)
            (found.path / "data").unlink()

    @rule()
    def sweep(self) -> None:
        self.store.gc()

    @rule()
    def collect_all_unused(self) -> None:
        self.store.gc(quota_bytes=0)
        # Entries of no size needn't go for a quota of nothing, so only what must stay is known here.
        self.kept = {
            name: data
            for name, data in self.kept.items()
            if name in self.used or self.store.layout.entry(key(name)).exists()
        }

    @invariant()
    def contents_are_stored_once(self) -> None:
        blobs = {p.name for p in (self.folder / "store" / "blobs").rglob("*") if p.is_file()}
        assert len(blobs) <= 5


TestStoreModel = StoreMachine.TestCase
TestStoreModel.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
