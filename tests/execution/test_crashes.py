from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from edgebuild.execution.store import Store

from .example import contents, key, python, wait_for

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kills", [15, pytest.param(1000, marks=pytest.mark.proof)])
def test_kills_leave_whole_entries_or_none(tmp_path: Path, kills: int) -> None:
    child = python(
        "from execution.crashing import main, Path; import sys; main(Path(sys.argv[1]), int(sys.argv[2]))",
        tmp_path / "store",
        kills,
    )
    out, err = child.communicate()
    assert child.returncode == 0, err
    assert json.loads(out)["committed"] > 5  # the kills fell among real commits


TRAIN = """
import signal, sys, time
from pathlib import Path
from tests.execution.example import Repeat, executor
from edgebuild.execution.store import Store

def act(inputs, out_dir, ctx):
    (out_dir / "half").write_bytes(b"half")
    (ctx.scratch / "epoch").write_text("1")
    Path(sys.argv[2]).touch()
    time.sleep(60)

# A shell's background job is born with SIGINT ignored, and so are its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
executor(Store.open(sys.argv[1])).run(Repeat(text="x", act=act), {}, label="train")
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_step_that_is_stopped_leaves_its_scratch_and_nothing_else(tmp_path: Path, how: signal.Signals) -> None:
    child = python(TRAIN, tmp_path / "store", tmp_path / "started")
    wait_for((tmp_path / "started").exists, child)
    child.send_signal(how)
    _, err = child.communicate()
    if how is signal.SIGINT:
        assert "Interrupted: interrupted during train; what was finished is kept" in err
        assert not list((tmp_path / "store" / "tmp").iterdir())
    store = Store.open(tmp_path / "store")
    store.gc()
    assert list(contents(store.root / "scratch").values()) == [b"1"]
    assert not any(name.endswith("half") for name in contents(store.root))
    assert store.usage().entries == 0


COMMIT = """
import sys
from tests.execution.example import commit
from edgebuild.execution.store import Store
commit(Store.open(sys.argv[1]), "a", b"1")
"""


def test_a_process_that_ends_cleans_up_by_itself(tmp_path: Path) -> None:
    child = python(COMMIT, tmp_path / "store")
    assert child.communicate() == ("", "")
    assert not list((tmp_path / "store" / "tmp").iterdir())
    assert Store.open(tmp_path / "store").lookup(key("a")) is not None
