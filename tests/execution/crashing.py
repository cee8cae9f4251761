"""Kills a process that works on a store, again and again, and says what was wrong afterwards (nothing, one hopes)."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from edgebuild.execution.store import Store

from .example import contents, folder_with, key


def expected(index: int) -> dict[str, bytes]:
    """What entry ``index`` holds: its own file, and one that it shares with others."""
    return {"own": random.Random(index).randbytes(1 + index % 7 * 20_000), "sub/shared": b"%d" % (index % 3) * 50_000}


def work(root: Path, log: Path, seed: int) -> None:
    """Commit, look up and collect until killed; an entry is logged once its commit returned."""
    store, chance = Store.open(root), random.Random(seed)
    with log.open("a") as out:
        while True:
            index = chance.randrange(40)
            with store.work_folder() as folder:
                own, shared = expected(index).values()
                store.commit(key(str(index)), folder_with(folder, own=own, sub__shared=shared), {"index": index})
            out.write(f"{index}\n")
            out.flush()
            store.lookup(key(str(chance.randrange(40))))
            if chance.random() < 0.2:
                store.gc()


def faults(root: Path, log: Path) -> list[str]:
    """Say what is wrong with a store whose users were killed."""
    found: list[str] = []
    with Store.open(root) as store:
        present = {path.name for path in (root / "entries").iterdir()}
        for index in range(40):
            entry = store.lookup(key(str(index)))
            if entry is not None and contents(entry.path) != expected(index):
                found.append(f"entry {index} has other contents")
            if entry is None and key(str(index)) in present:
                found.append(f"entry {index} is visible but not whole")
        logged = {key(line) for line in log.read_text().split()}
        found += [f"committed entry {lost} is gone" for lost in logged - present]
        found += [f"damaged: {damage}" for damage in store.damaged]
        store.gc()
        named = {file.sha256 for i in range(40) if (entry := store.lookup(key(str(i)))) for file in entry.files}
        blobs = {path.name for path in (root / "blobs").rglob("*") if path.is_file()}
        if blobs != named:
            found.append("contents without a manifest survived gc")
        if len(list((root / "tmp").iterdir())) != 1:
            found.append("staging of dead processes survived gc")
    return found


def main(root: Path, kills: int) -> None:
    log, chance = root.with_suffix(".log"), random.Random(kills)
    log.touch()
    usual_s = 0.0
    for turn in range(kills):
        child, started = os.fork(), time.monotonic()
        if child == 0:
            work(root, log, seed=turn)
        while turn == 0 and len(log.read_text().split()) < 4:
            usual_s = time.monotonic() - started  # how long some commits take here and now
        time.sleep(chance.uniform(0, usual_s))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if found := faults(root, log):
            sys.exit(f"after {turn + 1} kills: {found}")
    sys.stdout.write(json.dumps({"committed": len(set(log.read_text().split()))}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
