"""Builds on a farm's board: real sshd, the server and the host's end in this process, and what may go wrong between."""

from __future__ import annotations

import contextlib
import getpass
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.backends.table import backends
from edgebuild.building.context import HOME, Options
from edgebuild.catalogue.project import load_project
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.hold import hold_device
from edgebuild.errors import DeviceError
from edgebuild.farm import leases, memory
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.provider import FarmProvider
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.values import Ask, LeaseState
from edgebuild.fleet.connect import connect as reach
from edgebuild.fleet.inventory import DeviceEntry, save_entry
from edgebuild.measuring.protocols import CERTIFY, SCREEN
from edgebuild.pipeline import build
from tests.boards.test_builds import SHORT
from tests.cli.example import write_project
from tests.devices.sshd import Board, board, needs_sshd
from tests.farm.relays import TARGET, Shelf, hosted, stock
from tests.farm.serving import served
from tests.farm.test_relay import runner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from edgebuild.catalogue.project import Project
    from edgebuild.core.record import BuildRecord
    from edgebuild.farm.database import Database
    from edgebuild.farm.relay.channel import FarmChannel
    from edgebuild.farm.relay.device import FarmDevice

__all__ = ["board"]  # the fixture
pytestmark = needs_sshd


@pytest.fixture
def entry(board: Board) -> DeviceEntry:
    """The board as its host's inventory has it."""
    return DeviceEntry(
        name="pi-1",
        target=TARGET,
        address=f"{getpass.getuser()}@127.0.0.1:{board.port}",
        host_keys=(board.host_key,),
        key_file=str(board.folder / "user_key"),
        python=sys.executable,
        root=str(board.folder / "root"),
    )


@pytest.fixture
def shelf(database: Database, tmp_path: Path, entry: DeviceEntry) -> Iterator[Shelf]:
    farm = Farm(database, Blobs(tmp_path / "blobs"))
    with served(farm) as url:
        yield stock(farm, url, [entry])


def project_in(folder: Path) -> Project:
    project = write_project(folder)
    (project / "targets" / "quick.toml").write_text('title = "A board"\nprofiles = ["quick"]\n')
    return load_project(project)


def options() -> Options:
    return Options(screen=SCREEN.model_copy(update=SHORT), certify=CERTIFY.model_copy(update=SHORT))


class Hosted(FarmProvider):
    """A farm's provider whose host begins its end when a lease is held; ``cut`` is done at the start of a program."""

    def __init__(self, shelf: Shelf, entry: DeviceEntry, *, cut: Callable[[], None] | None = None, at: int = 0) -> None:
        super().__init__(shelf.address, affinity="tiny")
        self.stack = contextlib.ExitStack()
        self._shelf_of_test, self._entry_of_test = shelf, entry
        self._cut, self._left = cut, at

    def lend(self, wanted: Ask) -> FarmDevice:
        device = super().lend(wanted)
        (lease,) = self._shelf_of_test.farm.look(lambda db: leases.find(db, state=LeaseState.HELD))
        told = self._shelf_of_test.told(lease, self._entry_of_test)
        self.stack.enter_context(hosted(told, reach))
        begin = device.open

        def counted(argv: Sequence[str], env: Mapping[str, str]) -> FarmChannel:
            self._left -= 1
            if self._left == 0 and self._cut is not None:
                self._cut()
            return begin(argv, env)

        device.open = counted  # type: ignore[method-assign]
        return device


def built(provider: Hosted, project: Project, then: Callable[[], object] = lambda: None) -> BuildRecord:
    with provider.stack, contextlib.closing(provider):
        (record,) = build(project, options(), devices=provider)
        then()
    return record


def told_of(record: BuildRecord) -> Any:
    """What a record says that no clock decides."""
    return [
        (one.id, one.status, one.artifact_digest, one.size_bytes, one.settings, one.closeness, one.test)
        for one in record.candidates
    ]


@pytest.mark.proof
def test_a_build_on_a_farms_board_says_what_a_build_on_the_board_says(
    shelf: Shelf, entry: DeviceEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(tmp_path / "devices.toml"))
    provider, project = Hosted(shelf, entry), project_in(tmp_path / "far")
    far = built(provider, project, then=lambda: provider.report(project.folder / HOME / "measurements", "tiny", ()))
    assert not shelf.farm.look(lambda db: leases.find(db, state=LeaseState.HELD))
    kept = shelf.farm.look(lambda db: memory.find(db, device="pi-1"))
    assert {record.protocol for record in kept} == {"certify"}, "what was measured is reported to the farm"
    save_entry(entry)
    (near,) = build(project_in(tmp_path / "near"), options())
    assert (far.outcome, far.device, near.device) == ("ok", "farm-pi-1", "ssh-pi-1")
    assert told_of(far) == told_of(near)


@pytest.mark.proof
def test_a_build_whose_server_goes_away_says_so_and_goes_on_later(
    database: Database, entry: DeviceEntry, tmp_path: Path
) -> None:
    """The board is free again at once: the next build waits for nothing."""
    farm, project = Farm(database, Blobs(tmp_path / "blobs")), project_in(tmp_path / "project")
    with contextlib.ExitStack() as server:
        shelf = stock(farm, server.enter_context(served(farm)), [entry])
        with pytest.raises(DeviceError) as raised:
            built(Hosted(shelf, entry, cut=server.close, at=8), project)
    assert "farm" in raised.value.message
    assert raised.value.hint
    again = Farm(database, Blobs(tmp_path / "blobs"))
    with served(again) as url:
        shelf = replace(shelf, farm=again, url=url)
        for lease in again.look(lambda db: leases.find(db, state=LeaseState.HELD)):
            shelf.release(lease)
        record = built(Hosted(shelf, entry), project)
    assert record.outcome == "ok"
    assert record.runs == 2


def ask_for_ever(client: RunnerClient) -> None:
    while True:
        client.call("probe", {"light": True}, time_limit_s=60.0)


def test_what_an_old_lease_still_sends_is_refused_by_the_board(shelf: Shelf, board: Board, entry: DeviceEntry) -> None:
    attempts, files = [], {name: backend.device_file for name, backend in backends().items()}
    for _ in range(2):
        lease = shelf.lease()
        with hosted(shelf.told(lease, entry), reach), contextlib.closing(shelf.device(lease)) as device:
            client = runner(device)
            with hold_device(client, "a build") as held:
                assert held is None
                attempts.append(client.attempt or 0)
                client.call("probe", {"light": True}, time_limit_s=60.0)
                if not attempts[1:]:
                    shelf.release(lease)
                    with pytest.raises(DeviceError, match="lease is over"):
                        ask_for_ever(client)
    assert attempts[1] > attempts[0]
    with contextlib.closing(board.device()) as straggling:
        old = RunnerClient(straggling, files)
        old.attempt = attempts[0]
        with pytest.raises(DeviceError, match=f"attempt {attempts[0]} is over, {attempts[1]} runs"):
            old.call("probe", {"light": True}, time_limit_s=60.0)
