"""Archives that are written as a stream are what tarfile and cpio read."""

from __future__ import annotations

import io
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.errors import ReleaseError
from edgebuild.releasing.exporting.archives import (
    MAX_CPIO_BYTES,
    Member,
    Sums,
    cpio_chunks,
    sums_of,
    tar_chunks,
    tar_member,
    tar_size,
    text_member,
)
from tests import needs

if TYPE_CHECKING:
    from pathlib import Path

_names = st.lists(st.text("abcü€ ./", min_size=1, max_size=300).filter(lambda text: text.strip("/ .")), max_size=4)


@given(names=_names, data=st.binary(max_size=1100))
def test_a_tar_is_read_back_with_long_and_strange_names_and_has_no_traces_of_this_machine(
    names: list[str], data: bytes
) -> None:
    members = [Member("folder"), *(text_member(f"{i}{name}x", data) for i, name in enumerate(names))]
    written = b"".join(tar_chunks(members))
    assert len(written) == tar_size(members)
    with tarfile.open(fileobj=io.BytesIO(written)) as archive:
        found = archive.getmembers()
        assert [each.name for each in found] == [each.name for each in members]
        assert {(each.mtime, each.uid, each.gid, each.uname, each.gname) for each in found} == {(0, 0, 0, "", "")}
        for each in found[1:]:
            content = archive.extractfile(each)
            assert content is not None
            assert content.read() == data


def test_a_tar_in_a_tar_is_written_as_a_stream() -> None:
    inner = [text_member("a", b"1"), text_member("b", b"22")]
    written = b"".join(tar_chunks([tar_member("inner.tar", inner)]))
    with tarfile.open(fileobj=io.BytesIO(written)) as archive:
        content = archive.extractfile("inner.tar")
        assert content is not None
        assert content.read() == b"".join(tar_chunks(inner))


def test_a_file_that_is_longer_or_shorter_than_it_was_said_to_be_is_refused() -> None:
    for said in (1, 3):
        with pytest.raises(ReleaseError, match="changed while it was exported"):
            list(tar_chunks([Member("a", said, lambda: (b"22",))]))


def test_sums_are_of_all_bytes() -> None:
    sums = sums_of(Member("a", 600_000, lambda: (b"\xff" * 300_000, b"\xff" * 300_000)))
    assert sums.total == 600_000 * 255
    assert sums_of(text_member("a", b"")) == Sums("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 0)


def test_a_cpio_has_no_place_for_four_gibibytes() -> None:
    with pytest.raises(ReleaseError, match="less than 4 GiB"):
        list(cpio_chunks([(Member("a", MAX_CPIO_BYTES + 1), Sums("", 0))]))


@needs.marked(needs.program("cpio", "cpio"))
def test_cpio_reads_a_cpio_and_its_checksums(tmp_path: Path) -> None:
    members = [text_member("sw-description", b"text"), text_member("bundle.tar", b"\xff" * 70_001)]
    written = b"".join(cpio_chunks([(each, sums_of(each)) for each in members]))
    assert len(written) % 512 == 0
    done = subprocess.run(["cpio", "-i", "--only-verify-crc"], input=written, capture_output=True, check=True)
    assert b"checksum" not in done.stderr, done
    subprocess.run(["cpio", "-i"], input=written, capture_output=True, check=True, cwd=tmp_path)
    assert (tmp_path / "bundle.tar").read_bytes() == b"\xff" * 70_001
    assert (tmp_path / "sw-description").read_bytes() == b"text"
    changed = written.replace(b"text", b"next")
    done = subprocess.run(["cpio", "-i", "--only-verify-crc"], input=changed, capture_output=True, check=False)
    assert b"checksum error" in done.stderr
