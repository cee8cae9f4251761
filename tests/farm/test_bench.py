"""`edgebuild bench --target`: a farm measures on a real sshd's board, and the verdict is what CI systems take."""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
import sys
import zipfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from edgebuild.core.checked_json import read_with_digest
from edgebuild.core.measurement import Launch
from edgebuild.core.values import digest_file
from edgebuild.errors import UsageError
from edgebuild.farm import tokens
from edgebuild.farm.arguments import read_arguments
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.client import FarmAddress, FarmClient
from edgebuild.farm.database import Database, sqlite_url
from edgebuild.farm.evidence import pack
from edgebuild.farm.memory import Record, WholeRecord
from edgebuild.farm.replaying import Replayed
from edgebuild.farm.results import BenchResult
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.tokens import Scope
from edgebuild.farm.values import Ask, Health, Job, JobEnd, JobSpec, Shelved
from tests.cli.answers import valid
from tests.devices.sshd import Board, board, needs_sshd
from tests.farm.hosting import TARGET, Host, ended, wait_for
from tests.farm.serving import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["board"]


class Ground:
    """A farm with one board, and somebody who uses it from a command line."""

    def __init__(self, folder: Path, board: Board, stack: ExitStack) -> None:
        database = Database(sqlite_url(folder / "farm.db"))
        database.upgrade()
        stack.callback(database.close)
        self.folder = folder
        self.farm = Farm(database, Blobs(folder / "blobs"))
        self.url = stack.enter_context(served(self.farm))
        self.token = self._token("ci", Scope.RUN)
        self.client = FarmClient(FarmAddress(url=self.url, token=self.token))
        stack.callback(self.client.close)
        self.host = Host(folder / "host", self.url, self._token("desk", Scope.HOST), quick=True)
        stack.callback(self.host.close)
        root = board.folder / "root"
        self.host.own(
            "board",
            kind="ssh",
            address=f"{getpass.getuser()}@127.0.0.1:{board.port}",
            host_keys=[board.host_key],
            key_file=str(board.folder / "user_key"),
            root=str(root),
            python=sys.executable,
        )
        self.host.start()
        write_model(folder / "small.onnx", 8)
        write_model(folder / "large.onnx", 256)

    def _token(self, name: str, scope: Scope) -> str:
        return self.farm.do(lambda db, now: tokens.make(db, name, scope, now, days=1))

    def good(self) -> None:
        def there() -> bool:
            devices = self.client.ask("GET", "/api/devices", tuple[Shelved, ...])
            return any(each.health is Health.GOOD for each in devices)

        wait_for(there, 90.0, self.host.log)

    def command(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        env = {**os.environ, "EDGEBUILD_FARM": self.url, "EDGEBUILD_FARM_TOKEN": self.token, **more}
        return subprocess.Popen(
            [sys.executable, "-m", "edgebuild", "bench", *words],
            cwd=self.folder,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, board: Board) -> Iterator[Ground]:
    with ExitStack() as stack:
        yield Ground(tmp_path_factory.mktemp("bench"), board, stack)


def write_model(path: Path, size: int) -> None:
    """A product of matrices, whose time its size decides."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((size, size), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [size, size])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


@needs_sshd
def test_a_slower_model_fails_the_pipeline_and_the_farm_keeps_the_evidence(ground: Ground) -> None:
    ground.good()
    words = ("large.onnx", "--against", "small.onnx", "--target", TARGET, "--quick", "--junit", "r.xml", "--json")
    process = ground.command(*words, GITHUB_ACTIONS="true")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 3, err + ground.host.log()
    assert "::error title=edgebuild bench::large.onnx is slower than small.onnx" in err
    suite = ET.parse(ground.folder / "r.xml").getroot()[0]  # noqa: S314  our own text
    assert (suite.get("failures"), suite[0].get("classname")) == ("1", TARGET)
    job = Job.model_validate(valid("bench", out))
    result = BenchResult.model_validate(job.result)
    assert [arm.model for arm in result.arms] == ["large.onnx", "small.onnx"]
    assert (result.device, result.target, result.protocol) == ("board", TARGET, "screen")
    assert result.anchor_ms
    assert result.environment["arch"]
    evidence = ground.folder / "evidence.zip"
    ground.client.fetch(result.evidence, evidence)
    with zipfile.ZipFile(evidence) as archive:
        launch = Launch.model_validate(read_with_digest(archive.read("launch-0001.json")))
        assert len(archive.read(launch.samples)) == 8 * launch.count
        assert launch.arm in {arm.artifact for arm in result.arms}
        assert {"session.json", "result.json"} <= set(archive.namelist())
    (check, *_) = ground.client.ask("GET", "/api/devices/board/checks", list[dict[str, Any]])
    assert (check["passed"], check["anchor_ms"] is not None) == (True, True)


@pytest.mark.proof
@needs_sshd
def test_a_record_is_measured_again_on_its_device(ground: Ground) -> None:
    ground.good()
    process = ground.command("small.onnx", "--target", TARGET, "--quick", "--json")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err + ground.host.log()
    first = Job.model_validate_json(out)
    records = ground.client.ask("GET", "/api/records?model=small.onnx", tuple[Record, ...])
    record = next(each for each in records if each.job == first.id)
    process = ground.command("--replay", record.id, "--junit", "again.xml", "--json")
    out, err = process.communicate(timeout=240)
    told = valid("bench", out)
    job, replayed = Job.model_validate(told["job"]), Replayed.model_validate(told["replay"])
    assert process.returncode == {"agrees": 0, "disagrees": 3, "inconclusive": 4}[replayed.agreement], err
    assert (job.spec.ask.device, job.spec.arguments) == ("board", first.spec.arguments)
    assert replayed.reasons == ()
    assert replayed.model is not None
    again = ground.client.ask("GET", f"/api/records/{replayed.again}", WholeRecord)
    assert (again.job, again.device, again.artifact) == (job.id, "board", record.artifact)
    assert again.id != record.id
    suite = ET.parse(ground.folder / "again.xml").getroot()[0]  # noqa: S314  our own text
    assert (suite[0].get("name"), suite[0].get("classname")) == ("replay", "board")


@needs_sshd
def test_a_pipeline_that_is_ended_frees_its_board(ground: Ground) -> None:
    ground.good()
    process = ground.command("large.onnx", "--target", TARGET)

    def running() -> Job | None:
        jobs = ground.client.ask("GET", "/api/jobs?state=running", tuple[Job, ...])
        return next((job for job in jobs if job.spec.kind == "bench"), None)

    job = wait_for(running, 60.0)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    done = ended(ground.client, job.id)
    assert done.end is JobEnd.CANCELLED
    wait_for(lambda: not ground.host.workers(job.id))


@needs_sshd
def test_a_model_that_is_none_fails_with_the_reason(ground: Ground) -> None:
    ground.good()
    (ground.folder / "text.onnx").write_text("no model")
    process = ground.command("text.onnx", "--target", TARGET, "--junit", "r.xml")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "failed: " in err
    assert "text.onnx" in err
    assert ET.parse(ground.folder / "r.xml").getroot()[0].get("errors") == "1"  # noqa: S314


@needs_sshd
def test_native_code_is_the_hosts_owners_to_allow(ground: Ground) -> None:
    ground.good()
    model = {"name": "m", "entry": "m.onnx", "files": [{"path": "m.onnx", "sha256": "0" * 64}]}
    spec = JobSpec(kind="bench", ask=Ask(target=TARGET), arguments={"model": model, "native_libraries": True})
    job = ended(ground.client, ground.client.ask("POST", "/api/jobs", Job, spec).id)
    assert (job.end, "native code" in job.reason) == (JobEnd.FAILED, True)


@pytest.mark.parametrize(
    "files",
    [
        [],
        [{"path": "../m.onnx", "sha256": "0" * 64}],
        [{"path": "/m.onnx", "sha256": "0" * 64}],
        [{"path": "m.onnx", "sha256": "../../x"}],
        [{"path": "m.onnx", "sha256": "0" * 64}] * 2,
        [{"path": "m.onnx", "sha256": "0" * 64}, {"path": "m.onnx/a", "sha256": "0" * 64}],
        [{"path": "other.onnx", "sha256": "0" * 64}],
    ],
)
def test_files_of_a_model_lie_in_its_folder_each_once(files: list[dict[str, str]]) -> None:
    with pytest.raises(UsageError, match="make no sense"):
        read_arguments({"model": {"name": "m", "entry": "m.onnx", "files": files}})


def test_evidence_is_the_same_file_for_the_same_contents(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "b").write_bytes(b"b" * 1000)
        (tmp_path / name / "a").write_bytes(b"a")
    os.utime(tmp_path / "other" / "a", (1, 1))
    digests = {pack(tmp_path / name, tmp_path / "blobs") for name in ("one", "other")}
    assert {digest_file(tmp_path / "blobs" / digest) for digest in digests} == digests
    assert len(digests) == 1
    with zipfile.ZipFile(tmp_path / "blobs" / digests.pop()) as archive:
        assert archive.namelist() == ["a", "deep/b"]
