"""The client: what it sends, believes and says when something is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.errors import DeviceError, EnvironmentGap, UsageError
from edgebuild.farm import endpoint, tokens
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.client import FarmAddress, FarmAway, FarmClient
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.tokens import Scope
from edgebuild.farm.values import Ask, Lease, LeaseState, Shelved
from tests.farm.serving import served
from tests.farm.shelves import PI, fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgebuild.farm.database import Database


@pytest.fixture
def farm(database: Database, tmp_path: Path) -> Farm:
    return Farm(database, Blobs(tmp_path / "blobs"))


@pytest.fixture
def client(farm: Farm) -> Iterator[FarmClient]:
    token = farm.do(lambda db, now: tokens.make(db, "ada", Scope.RUN, now, days=1))
    with served(farm) as url:
        made = FarmClient(FarmAddress(url=url, token=token))
        yield made
        made.close()


def test_answers_are_values(farm: Farm, client: FarmClient) -> None:
    farm.do(lambda db, now: fill(db, "pi-1", now=now))
    (device,) = client.ask("GET", "/api/devices", tuple[Shelved, ...])
    assert device.name == "pi-1"
    lease = client.ask("POST", "/api/leases", Lease, Ask(target=PI))
    assert lease.state is LeaseState.HELD


def test_what_the_farm_refuses_is_an_error_with_its_words(client: FarmClient) -> None:
    with pytest.raises(UsageError, match="no device of raspberry-pi-5") as raised:
        client.ask("POST", "/api/leases", Lease, Ask(target=PI))
    assert "farm list" in raised.value.hint


def test_a_wrong_token_is_an_environment_gap(client: FarmClient) -> None:
    stranger = FarmClient(FarmAddress(url=client.address.url, token="ebf_no_body"))
    with pytest.raises(EnvironmentGap, match="right token"):
        stranger.ask("GET", "/api/devices", tuple[Shelved, ...])
    stranger.close()


def test_an_answer_of_another_kind_is_not_believed(client: FarmClient) -> None:
    with pytest.raises(DeviceError, match="isn't a farm's"):
        client.ask("GET", "/api/devices", Lease)


def test_a_server_that_is_away_is_said_to_be(client: FarmClient) -> None:
    away = FarmClient(FarmAddress(url="http://127.0.0.1:9", token="t"))
    with pytest.raises(FarmAway, match="can't be reached"):
        away.ask("GET", "/api/devices", tuple[Shelved, ...])
    away.close()


def test_files_go_there_once_and_come_back(client: FarmClient, farm: Farm, tmp_path: Path) -> None:
    source, back = tmp_path / "model.onnx", tmp_path / "back.onnx"
    source.write_bytes(b"model" * 500_000)
    digest = client.send(source)
    kept = farm.blobs.path(digest).stat().st_ino
    assert client.send(source) == digest
    # Sent again it is only touched, since it is needed anew; what is written takes another file's place.
    assert farm.blobs.path(digest).stat().st_ino == kept
    client.fetch(digest, back)
    assert back.read_bytes() == source.read_bytes()
    with pytest.raises(UsageError, match="no file"):
        client.fetch("0" * 64, back)


@pytest.mark.parametrize("url", ["ftp://desk", "https://", "desk:8443", "https://ada:secret@desk", "https://desk/x"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        FarmAddress(url=url, token="t")
    assert "secret" not in raised.value.message


def test_a_token_is_never_sent_in_the_clear_nor_shown() -> None:
    with pytest.raises(UsageError, match="in the clear"):
        FarmAddress(url="http://desk:8443", token="ebf_secret")
    assert "ebf_secret" not in repr(FarmAddress(url="https://desk:8443", token="ebf_secret"))


def test_which_farm_comes_from_the_option_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (endpoint.URL, endpoint.TOKEN, endpoint.AUTHORITY):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="Which farm"):
        endpoint.address_of(None)
    with pytest.raises(UsageError, match="no token"):
        endpoint.address_of("https://desk:8443")
    monkeypatch.setenv(endpoint.URL, "https://desk:8443")
    monkeypatch.setenv(endpoint.TOKEN, " t \n")
    assert endpoint.address_of(None) == FarmAddress(url="https://desk:8443", token="t")
