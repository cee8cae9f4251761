"""A release that passes though a gate held it up says so everywhere, under every signature."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.errors import ReleaseError, UsageError
from edgebuild.releasing.bundle import read_bundle
from edgebuild.releasing.layout import VERSION_NAME, Index, descriptor_of, oci_bytes, write_index
from edgebuild.releasing.override import (
    MAX_REASON_CHARACTERS,
    OVERRIDE,
    Override,
    override_of,
    require_reason,
    store_override,
)
from edgebuild.releasing.push import push
from edgebuild.releasing.registry import listed
from edgebuild.releasing.signing import sign
from edgebuild.releasing.verifying import verify
from tests.releasing.board.script import command
from tests.releasing.board.script import verify as verify_there
from tests.releasing.bundles import PROVENANCE, make_bundle, write_key

if TYPE_CHECKING:
    from pathlib import Path

WHY = Override(
    against="1.3.2", index="sha256:" + "ab" * 32, figures=("latency, ms on pi5 is worse",), reason="half the size"
)


def test_it_is_stored_signed_and_shown(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle")
    before = read_bundle(folder).descriptor.digest
    assert override_of(read_bundle(folder).index) is None
    made = store_override(folder, WHY)
    bundle = read_bundle(folder)
    bundle.check_all()  # nothing of the index before is left
    assert bundle.descriptor.digest == made.digest != before
    assert override_of(bundle.index) == WHY
    assert WHY.text == ("the gate against 1.3.2 was overridden (latency, ms on pi5 is worse): half the size")
    key = write_key(tmp_path / "team.key")
    sign(folder, key, provenance=PROVENANCE)
    assert verify(folder, keys=[key.public]).index_digest == made.digest.removeprefix("sha256:")
    push(folder, str(tmp_path / "share"))
    (found,) = listed(str(tmp_path / "share"))
    assert found.override == WHY.text


def test_the_board_shows_it(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle")
    store_override(folder, WHY)
    ended = verify_there(tmp_path, "check", folder, "--no-run")
    assert ended.code == 0, ended
    assert "the gate against 1.3.2 was overridden: half the size" in ended.report["warnings"]


def test_it_is_stored_again_with_another_reason_and_never_into_a_signed_release(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle")
    store_override(folder, WHY)
    other = WHY.model_copy(update={"reason": "asked for by the customer"})
    store_override(folder, other)
    assert override_of(read_bundle(folder).index) == other
    sign(folder, write_key(tmp_path / "team.key"), provenance=PROVENANCE)
    with pytest.raises(UsageError, match="is signed"):
        store_override(folder, WHY)
    assert override_of(read_bundle(folder).index) == other


@pytest.mark.parametrize("reason", ["", "  ", "a\nb", "\x1b[31mred", "\u202e", "x" * (MAX_REASON_CHARACTERS + 1)])
def test_a_reason_is_a_line_that_can_be_shown(reason: str) -> None:
    with pytest.raises(UsageError, match="written reason"):
        require_reason(reason)


def test_a_reason_is_kept_without_the_space_around_it() -> None:
    assert require_reason(" half the size ") == "half the size"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[" * 10_000,
        WHY.to_json().replace('"reason":"half the size"', '"reason":""'),
        WHY.to_json().replace('"reason":"half the size"', '"reason":1'),
    ],
)
def test_one_that_was_not_written_like_this_is_refused(tmp_path: Path, text: str) -> None:
    folder = make_bundle(tmp_path / "bundle")
    with_text(folder, text)
    with pytest.raises(ReleaseError):
        override_of(read_bundle(folder).index)
    assert verify_there(tmp_path, "check", folder, "--no-run").code == 7


def test_escapes_never_reach_a_terminal(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle")
    with_text(folder, WHY.model_copy(update={"reason": "\x1b[31mred"}).to_json())
    with pytest.raises(ReleaseError):
        override_of(read_bundle(folder).index)
    told = subprocess.run(command(tmp_path, "check", folder, "--no-run"), capture_output=True, text=True, check=True)
    assert "was overridden" in told.stdout
    assert "\x1b" not in told.stdout


def with_text(folder: Path, text: str) -> None:
    """Write any text in the place of an override, as somebody may."""
    bundle = read_bundle(folder)
    annotations: dict[str, Any] = {**bundle.index.annotations, OVERRIDE: text}
    data = oci_bytes(Index(manifests=bundle.index.manifests, annotations=annotations))
    made = descriptor_of(data, bundle.index.mediaType, annotations={VERSION_NAME: bundle.version})
    (folder / "blobs/sha256" / made.sha256).write_bytes(data)
    (folder / "blobs/sha256" / bundle.descriptor.sha256).unlink()
    write_index(folder, [made])
