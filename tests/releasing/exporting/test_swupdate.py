"""SWUpdate images: checked and installed by Debian's swupdate."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.errors import UsageError
from tests import needs
from tests.releasing.board.script import verify

from .samples import bundle_of, exported, said

if TYPE_CHECKING:
    from pathlib import Path

#: What it says of an image that is right; its exit code is now and then 1 then, when one of its processes ends late.
SUCCESS = "SWUPDATE successful"
swupdate = needs.marked(needs.program("swupdate", "swupdate"))


def certificate(folder: Path, *kind: str) -> tuple[Path, Path]:
    """Make a throw-away certificate, as docs/release.md does; return it and its key."""
    cert, key = folder / "ota.pem", folder / "ota.key"
    words = [
        "openssl",
        "req",
        "-x509",
        "-nodes",
        "-newkey",
        *(kind or ("rsa:2048",)),
        "-keyout",
        str(key),
        "-out",
        str(cert),
    ]
    words += ["-subj", "/CN=ota", "-addext", "extendedKeyUsage=emailProtection"]
    subprocess.run(words, check=True, capture_output=True)
    return cert, key


def asked(folder: Path, *words: object) -> Any:
    """Run swupdate with its sockets in a folder of the test's, which is short: their paths have a limit."""
    scratch = folder / "t"
    scratch.mkdir(exist_ok=True)
    return subprocess.run(
        ["swupdate", "-v", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "TMPDIR": str(scratch)},
        cwd=scratch,
    )


@swupdate
def test_swupdate_checks_and_installs_it_on_its_board_only(tmp_path: Path, parrot: dict[str, bytes]) -> None:
    cert, key = certificate(tmp_path)
    bundle = bundle_of(tmp_path / "bundle", files=parrot)
    out, dest = tmp_path / "out.swu", tmp_path / "device/doors"
    exported(bundle, "swupdate", out, dest=str(dest), cert=cert, key=key)
    checked = asked(tmp_path, "-c", "-H", "pi:1", "-k", cert, "-i", out)
    assert SUCCESS in checked.stdout, checked
    assert not dest.exists()
    for board, image in (("jetson:1", out), ("pi:1", changed(out, tmp_path))):
        refused = asked(tmp_path, "-c", "-H", board, "-k", cert, "-i", image)
        assert SUCCESS not in refused.stdout, refused
    done = asked(tmp_path, "-H", "pi:1", "-k", cert, "-i", out)
    assert SUCCESS in done.stdout, done
    assert [path.name for path in dest.iterdir()] == ["1.4.0"]
    assert verify(tmp_path, "install", dest / "1.4.0", "--root", tmp_path / "root").code == 0


def changed(image: Path, folder: Path) -> Path:
    """Put bytes of the archive in another order, which no checksum of a cpio sees: only the SHA-256 does."""
    data = image.read_bytes()
    place = data.index(b"runner.pyz")
    other = folder / "changed.swu"
    other.write_bytes(data[:place] + b"nurner.pyz" + data[place + 10 :])
    return other


@pytest.mark.parametrize(
    ("kind", "same"), [(("rsa:2048",), True), (("ec", "-pkeyopt", "ec_paramgen_curve:P-256"), None)]
)
def test_it_is_signed_with_rsa_and_with_ec(kind: tuple[str, ...], same: bool | None, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, *kind)
    bundle = bundle_of(tmp_path / "bundle")
    for name in ("a", "b"):
        assert not exported(bundle, "swupdate", tmp_path / name, cert=cert, key=key)
    if same:
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert b"sw-description.sig" in (tmp_path / "a").read_bytes()


def test_one_that_isnt_signed_says_so(tmp_path: Path) -> None:
    (note,) = exported(bundle_of(tmp_path / "bundle"), "swupdate", tmp_path / "out.swu")
    assert "isn't signed" in note
    assert b"sw-description.sig" not in (tmp_path / "out.swu").read_bytes()


def test_half_a_key_and_a_wrong_one_are_refused(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    bundle = bundle_of(tmp_path / "bundle")
    with pytest.raises(UsageError, match="both --cert and --key"):
        exported(bundle, "swupdate", tmp_path / "out.swu", cert=cert)
    with pytest.raises(UsageError, match="can't sign"):
        exported(bundle, "swupdate", tmp_path / "out.swu", cert=key, key=cert)
    with pytest.raises(UsageError, match="can't sign"):
        exported(bundle, "swupdate", tmp_path / "out.swu", cert=cert, key=tmp_path / "no.key")
    (tmp_path / "other").mkdir()
    _, other = certificate(tmp_path / "other")
    with pytest.raises(UsageError, match="of another key"):
        exported(bundle, "swupdate", tmp_path / "out.swu", cert=cert, key=other)


@pytest.mark.parametrize("board", ["pi5", "raspberrypi4-64", "a_b"])
def test_boards_have_their_own_names(board: str, tmp_path: Path) -> None:
    exported(bundle_of(tmp_path / "bundle"), "swupdate", tmp_path / "out.swu", device_type=board)
    assert f"\n  {board} =\n".encode() in (tmp_path / "out.swu").read_bytes()
    assert said()["project"].encode() in (tmp_path / "out.swu").read_bytes()
