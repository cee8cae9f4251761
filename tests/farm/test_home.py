"""The farm's folder and its private authority: keys that nobody else reads, certificates that clients can check."""

from __future__ import annotations

import contextlib
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from edgebuild.errors import ConfigError, EnvironmentGap, StoreError, UsageError
from edgebuild.farm import authority, home, tokens
from edgebuild.farm.client import FarmAddress, FarmAway, FarmClient
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.server.serving import bind
from edgebuild.farm.tokens import Scope
from edgebuild.farm.values import Shelved
from tests.farm.serving import over_tls

if TYPE_CHECKING:
    from edgebuild.farm.database import Database

#: Only tests name it: it stands in the server's certificate and leads nowhere else.
NAMES = ("farm.test",)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(home.FOLDER, str(tmp_path / "farm"))
    return tmp_path / "farm"


def nothing(made: home.Home) -> None:
    """Prepare no database."""


def make(database: str = "") -> home.Home:
    return home.make_home(database=database, names=NAMES, prepare=nothing)


def names_of(folder: Path) -> set[str]:
    certificate = x509.load_pem_x509_certificate((folder / authority.SERVER).read_bytes())
    return {
        str(each.value) for each in certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    }


def test_keys_are_their_owners_only(folder: Path) -> None:
    authority.renew_server(make().folder, NAMES)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in (authority.AUTHORITY_KEY, authority.SERVER_KEY, home.SETTINGS):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name


def test_a_farm_is_made_once_and_whole_or_not_at_all(folder: Path) -> None:
    def fail(made: home.Home) -> None:
        raise StoreError("the database is away")

    with pytest.raises(StoreError, match="away"):
        home.make_home(database="", names=NAMES, prepare=fail)
    assert list(folder.parent.iterdir()) == []
    make()
    kept = (folder / authority.AUTHORITY_KEY).read_bytes()
    with pytest.raises(UsageError, match="already"):
        make()
    assert (folder / authority.AUTHORITY_KEY).read_bytes() == kept


def test_an_empty_folder_that_is_there_becomes_the_farm(folder: Path) -> None:
    """As a volume of a container, which can't be replaced: its parent belongs to somebody else."""
    folder.mkdir(mode=0o755)
    same = folder.stat().st_ino

    def fail(made: home.Home) -> None:
        raise StoreError("the database is away")

    with pytest.raises(StoreError, match="away"):
        home.make_home(database="", names=NAMES, prepare=fail)
    assert list(folder.iterdir()) == []
    make()
    assert folder.stat().st_ino == same
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {each.name for each in folder.iterdir()} == {
        authority.AUTHORITY, authority.AUTHORITY_KEY, home.SETTINGS, "blobs",
    }  # fmt: skip
    assert home.load_home().settings.names == NAMES
    with pytest.raises(UsageError, match="already"):
        make()


def test_what_cant_be_moved_into_a_folder_leaves_it_empty(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.name == home.SETTINGS:
            raise OSError("the disk is gone")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="gone"):
        make()
    assert list(folder.iterdir()) == []


def test_a_folder_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    folder.mkdir()
    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(UsageError, match="not permitted") as raised:
        make()
    assert home.FOLDER in raised.value.hint


def test_what_the_settings_say_is_checked(folder: Path) -> None:
    with pytest.raises(UsageError, match="no farm in"):
        home.load_home()
    with pytest.raises(ConfigError, match="no name or address"):
        home.make_home(database="", names=("https://desk",), prepare=nothing)
    make()
    assert home.load_home().settings.listen == "127.0.0.1:8443"
    (folder / home.SETTINGS).write_text('listen = "everywhere"\n')
    with pytest.raises(ConfigError, match="isn't HOST:PORT"):
        home.load_home()


@pytest.mark.parametrize("url", ["mysql://desk/farm", "no url"])
def test_a_database_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        make(url).database()
    assert "postgresql://" in raised.value.hint


def test_a_password_of_a_database_is_in_no_message(folder: Path) -> None:
    made = make("postgresql://ada:secret@127.0.0.1:1/farm")
    with contextlib.closing(made.database()) as database, pytest.raises(StoreError) as raised:
        database.upgrade()
    assert "secret" not in raised.value.message + raised.value.hint


def test_one_folder_has_one_server() -> None:
    made = make()
    with made.only_server(), pytest.raises(StoreError, match="Another server"), made.only_server():
        pass
    with made.only_server():
        pass


def test_the_servers_certificate_is_made_anew_when_it_has_to_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make()
    assert authority.renew_server(folder, NAMES)
    assert not authority.renew_server(folder, NAMES)
    assert names_of(folder) == {*NAMES, *authority.ALWAYS}
    assert authority.renew_server(folder, (*NAMES, "192.0.2.7"))
    assert "192.0.2.7" in names_of(folder)
    (folder / authority.SERVER_KEY).write_bytes((folder / authority.AUTHORITY_KEY).read_bytes())
    assert authority.renew_server(folder, NAMES), "its key is another's"
    monkeypatch.setattr(authority, "RENEW_DAYS", authority.SERVER_DAYS)
    assert authority.renew_server(folder, NAMES), "it ends soon"


def test_an_authority_that_is_gone_is_said(folder: Path) -> None:
    make()
    (folder / authority.AUTHORITY_KEY).write_text("no key")
    with pytest.raises(StoreError, match="can't be read"):
        authority.renew_server(folder, NAMES)


def devices(port: int, token: str, trusted: Path, host: str = "localhost") -> tuple[Shelved, ...]:
    address = FarmAddress(url=f"https://{host}:{port}", token=token, authority=str(trusted))
    with contextlib.closing(FarmClient(address)) as client:
        return client.ask("GET", "/api/devices", tuple[Shelved, ...])


def test_a_client_believes_the_farms_authority_and_the_right_name_only(
    database: Database, folder: Path, tmp_path: Path
) -> None:
    made = make()
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    authority.make_authority(stranger)
    with database.write() as db:
        token = tokens.make(db, "ada", Scope.READ, database.clock.now(), days=1)
    with over_tls(Farm(database, made.blobs), made) as port:
        assert devices(port, token, made.authority) == ()
        assert devices(port, token, made.authority, "127.0.0.1") == ()
        with pytest.raises(FarmAway) as raised:
            devices(port, token, stranger / authority.AUTHORITY)
        assert "EDGEBUILD_FARM_CA" in raised.value.hint
    # 127.0.0.2 is this machine too, and no name of the certificate.
    with (
        over_tls(Farm(database, made.blobs), made, "127.0.0.2") as port,
        pytest.raises(FarmAway, match=r"doesn't match|not valid for"),
    ):
        devices(port, token, made.authority, "127.0.0.2")


def test_without_tls_there_is_no_answer(database: Database) -> None:
    made = make()
    with over_tls(Farm(database, made.blobs), made) as port, socket.create_connection(("127.0.0.1", port)) as plain:
        plain.sendall(b"GET /api/devices HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert not plain.recv(100).startswith(b"HTTP/")


def test_an_address_that_is_taken_is_said() -> None:
    with contextlib.closing(bind("127.0.0.1", 0)) as taken, pytest.raises(EnvironmentGap, match="can't listen"):
        bind("127.0.0.1", taken.getsockname()[1])
