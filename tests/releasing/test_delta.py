"""Deltas: small, read by the zstd program as well, and refused wherever they don't make what they say."""

from __future__ import annotations

import functools
import io
import json
import random
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.core.values import canonical_json, digest_bytes
from edgebuild.errors import EdgebuildError, Interrupted, ReleaseError
from edgebuild.releasing import delta_plan
from edgebuild.releasing.delta import Delta, apply, delta
from edgebuild.releasing.delta_plan import (
    APPLY_BYTES,
    PART_BYTES,
    REFERENCE_BYTES,
    Plan,
    PlannedBlob,
    make_patch,
    patched,
    read_plan,
    reference,
)
from tests import needs
from tests.releasing.registries.bundles import add_signature, make_bundle, sbom, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OLD = random.Random(1).randbytes(300_000)
SMALL = b"threshold: 0.5\n"


def changed(data: bytes, *, runs: int, length: int, seed: int = 2) -> bytes:
    """Return data of which ``runs`` places have other bytes."""
    source, made = random.Random(seed), bytearray(data)
    for at in source.sample(range(0, len(data) - length, length), runs):
        made[at : at + length] = source.randbytes(length)
    return bytes(made)


NEW = changed(OLD, runs=3, length=1000)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    files = {"artifact/model.bin": OLD, "settings.txt": SMALL, "sbom.cdx.json": sbom(onnxruntime="1.32.0")}
    return make_bundle(tmp_path / "old", {"nano": files, "pi": {**files, "artifact/model.bin": OLD[::-1]}})


@pytest.fixture
def new(tmp_path: Path) -> Path:
    files = {"artifact/model.bin": NEW, "settings.txt": SMALL, "sbom.cdx.json": sbom(onnxruntime="1.33.0")}
    more = {**files, "artifact/model.bin": OLD[::-1], "artifact/more.bin": random.Random(5).randbytes(90_000)}
    return make_bundle(tmp_path / "new", {"nano": files, "pi": more}, version="1.5.0")


@pytest.fixture
def made(old: Path, new: Path, tmp_path: Path) -> Delta:
    return delta(old, new, tmp_path / "delta")


def test_what_is_applied_is_the_new_bundle(old: Path, new: Path, tmp_path: Path, made: Delta) -> None:
    before = tree(tmp_path / "delta")
    assert made.patched_bytes == len(NEW)
    assert made.patch_bytes < 3 * 1000 + 500
    assert made.taken_bytes > len(OLD)
    assert 90_000 < made.whole_bytes < 96_000
    assert sum(len(data) for data in before.values()) < 120_000
    assert apply(old, tmp_path / "delta", tmp_path / "applied") == made.end
    assert tree(tmp_path / "applied") == tree(new)
    assert tree(tmp_path / "delta") == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_equal_bundles_make_equal_deltas(old: Path, new: Path, tmp_path: Path, made: Delta) -> None:
    assert delta(old, new, tmp_path / "again") == made
    assert tree(tmp_path / "again") == tree(tmp_path / "delta")


def test_five_megabytes_with_two_per_cent_changed(tmp_path: Path) -> None:
    base = random.Random(3).randbytes(5_000_000)
    runs, length = 25, 4000
    old = make_bundle(tmp_path / "old", {"pi": {"artifact/model.bin": base}})
    new = make_bundle(
        tmp_path / "new", {"pi": {"artifact/model.bin": changed(base, runs=runs, length=length)}}, version="2"
    )
    found = delta(old, new, tmp_path / "delta")
    assert found.patch_bytes <= 1.1 * runs * length
    (patch,) = (tmp_path / "delta" / "patches").iterdir()
    apply(old, tmp_path / "delta", tmp_path / "applied")
    assert tree(tmp_path / "applied") == tree(new)
    needs.skip_without(needs.program("zstd", "zstd"))
    base_file = old / "blobs" / "sha256" / digest_bytes(base)
    done = subprocess.run(
        ["zstd", "-d", "-c", f"--patch-from={base_file}", str(patch)], check=True, capture_output=True
    )
    assert digest_bytes(done.stdout) == patch.stem


@needs.marked(needs.program("zstd", "zstd"))
def test_what_the_zstd_program_makes_is_read(tmp_path: Path, old: Path, new: Path, made: Delta) -> None:
    (tmp_path / "base").write_bytes(OLD)
    (tmp_path / "to").write_bytes(NEW)
    patch = tmp_path / "delta" / "patches" / f"{digest_bytes(NEW)}.zst"
    subprocess.run(
        ["zstd", "-q", "-f", f"--patch-from={tmp_path}/base", f"{tmp_path}/to", "-o", str(patch)], check=True
    )
    rewrite(tmp_path / "delta", lambda plan: frames_of(plan, [patch.stat().st_size]))
    apply(old, tmp_path / "delta", tmp_path / "applied")
    assert tree(tmp_path / "applied") == tree(new)


def frames_of(plan: dict[str, Any], frames: list[int]) -> None:
    for blob in plan["blobs"]:
        if blob["how"] == "patch":
            blob["frames"] = frames


def test_parts_of_large_blobs_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs of several parts, of which the new ones are moved a little, in a process whose memory is counted."""
    monkeypatch.setattr(delta_plan, "_LEVEL", 6)
    size = 4 * PART_BYTES + 12_345
    base = random.Random(4).randbytes(size)
    new = base[:1000] + b"moved" * 100 + changed(base, runs=5, length=5000)[1000:]
    (tmp_path / "base").write_bytes(base)
    (tmp_path / "new").write_bytes(new)
    with (
        (tmp_path / "base").open("rb") as old,
        (tmp_path / "new").open("rb") as file,
        (tmp_path / "p").open("wb") as out,
    ):
        frames = make_patch(old, len(base), file, len(new), out)
    assert len(frames) == 5
    assert sum(frames) < 1.1 * (5 * 5000 + 500) + 5 * 2000
    planned = PlannedBlob(digest=f"sha256:{digest_bytes(new)}", size=len(new), how="patch", frames=frames)
    code = (
        "import hashlib, resource; from edgebuild.releasing.delta_plan import PlannedBlob, patched, _zstd; _zstd();"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; sha = hashlib.sha256();"
        f"blob = PlannedBlob(digest='', size={len(new)}, how='patch', frames={frames});"
        f"[sha.update(each) for each in patched(blob, open('base', 'rb'), {size}, open('p', 'rb'))];"
        "print(sha.hexdigest(), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    digest, grown = said.split()
    assert f"sha256:{digest}" == planned.digest
    assert int(grown) < APPLY_BYTES


def test_the_reference_of_a_part_is_bounded_and_never_empty() -> None:
    for base in (70_000, PART_BYTES, REFERENCE_BYTES, REFERENCE_BYTES + 1, 10 * PART_BYTES):
        for begin in range(0, 12 * PART_BYTES, PART_BYTES):
            first, last = reference(begin, base)
            assert 0 <= first < last <= base
            assert last - first == min(base, REFERENCE_BYTES)


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=64, max_size=3000), st.binary(min_size=1, max_size=3000), st.integers(0, 2**32))
def test_any_patch_makes_its_blob_or_is_refused(base: bytes, new: bytes, seed: int) -> None:
    out = io.BytesIO()
    frames = make_patch(io.BytesIO(base), len(base), io.BytesIO(new), len(new), out)
    planned = PlannedBlob(digest="", size=len(new), how="patch", frames=frames)
    assert b"".join(patched(planned, io.BytesIO(base), len(base), io.BytesIO(out.getvalue()))) == new
    spoilt = bytearray(out.getvalue())
    spoilt[seed % len(spoilt)] ^= 1 << seed % 8
    try:
        made = b"".join(patched(planned, io.BytesIO(base), len(base), io.BytesIO(bytes(spoilt))))
    except ReleaseError:
        return
    assert len(made) == len(new)


def test_another_base_is_refused(old: Path, new: Path, tmp_path: Path, made: Delta) -> None:
    with pytest.raises(ReleaseError, match="starts from another release") as caught:
        apply(new, tmp_path / "delta", tmp_path / "applied")
    assert caught.value.hint
    assert not (tmp_path / "applied").exists()


def test_signatures_of_the_old_bundle_dont_matter_and_those_of_the_new_come_along(
    old: Path, new: Path, tmp_path: Path
) -> None:
    add_signature(new, "boss")
    delta(old, new, tmp_path / "delta")
    add_signature(old, "late")
    apply(old, tmp_path / "delta", tmp_path / "applied")
    assert tree(tmp_path / "applied") == tree(new)


def test_every_changed_byte_is_found(old: Path, new: Path, tmp_path: Path, made: Delta) -> None:
    folder = tmp_path / "delta"
    for at, (name, data) in enumerate(sorted(tree(folder).items())):
        for place in {0, len(data) // 2, len(data) - 1}:
            spoilt = bytearray(data)
            spoilt[place] ^= 0x10
            (folder / name).write_bytes(spoilt)
            with pytest.raises(ReleaseError) as caught:
                apply(old, folder, tmp_path / f"applied-{at}-{place}")
            assert caught.value.message
            shutil.rmtree(tmp_path / f".applied-{at}-{place}.part", ignore_errors=True)
        (folder / name).unlink()
        with pytest.raises(ReleaseError):
            apply(old, folder, tmp_path / f"applied-{at}")
        (folder / name).write_bytes(data)
        shutil.rmtree(tmp_path / f".applied-{at}.part", ignore_errors=True)
    apply(old, folder, tmp_path / "applied")
    assert tree(tmp_path / "applied") == tree(new)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "delta.json"
    plan = json.loads(path.read_bytes())
    change(plan)
    path.write_text(canonical_json(plan))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plan: plan.update(end=plan["start"]), "leads to another release"),
        (lambda plan: plan["blobs"].pop(), "of other blobs"),
        (lambda plan: plan["blobs"].append(plan["blobs"][0]), "of other blobs"),
        (lambda plan: plan["blobs"][0].update(size=1 << 30), "of other blobs|not what was written"),
        (lambda plan: plan["blobs"][0].update(size=-1), "not what was written"),
        (lambda plan: plan["blobs"][0].update(digest="sha256:../../etc"), "not what was written"),
        (lambda plan: plan["blobs"][0].update(how="run"), "not what was written"),
        (lambda plan: plan.update(more=1), "not what was written"),
        (lambda plan: frames_of(plan, []), "not what was written"),
        (lambda plan: frames_of(plan, [1, 2]), "not what was written"),
        (lambda plan: frames_of(plan, [1 << 40]), "not what was written"),
        (lambda plan: frames_of(plan, [100]), "doesn't make"),
    ],
)
def test_a_plan_that_was_made_up_is_refused(
    old: Path, tmp_path: Path, made: Delta, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    rewrite(tmp_path / "delta", change)
    with pytest.raises(ReleaseError, match=words):
        apply(old, tmp_path / "delta", tmp_path / "applied")
    assert not (tmp_path / "applied").exists()


def patch_of(folder: Path) -> Path:
    (found,) = (folder / "patches").iterdir()
    return found


def test_bombs_are_refused(old: Path, tmp_path: Path, made: Delta) -> None:
    zstd = delta_plan._zstd()
    parameters = zstd.CompressionParameter
    for bomb in (
        zstd.compress(bytes(200 << 20)),
        # Says that it needs a window of 2 GiB.
        zstd.compress(bytes(300_000), options={parameters.window_log: 31, parameters.content_size_flag: 0}),
        b"".join(zstd.compress(bytes(300_000)) for _ in range(2)),
        zstd.compress(bytes(299_999)),
        # A frame that says nothing, and one with a dictionary of its own.
        b"\x50\x2a\x4d\x18\x00\x00\x00\x00",
        b"\x37\xa4\x30\xec" + bytes(100),
    ):
        patch_of(tmp_path / "delta").write_bytes(bomb)
        rewrite(tmp_path / "delta", functools.partial(frames_of, frames=[len(bomb)]))
        with pytest.raises(ReleaseError, match=r"doesn't make|makes something else"):
            apply(old, tmp_path / "delta", tmp_path / "applied")
        assert sum(len(data) for data in tree(tmp_path / ".applied.part").values()) < 1_500_000


def test_links_and_pipes_in_a_delta_arent_followed(old: Path, tmp_path: Path, made: Delta) -> None:
    secret = tmp_path / "secret"
    patch = patch_of(tmp_path / "delta")
    patch.rename(secret)
    patch.symlink_to(secret)
    with pytest.raises(ReleaseError):
        apply(old, tmp_path / "delta", tmp_path / "applied")
    patch.unlink()
    subprocess.run(["mkfifo", str(patch)], check=True)
    with pytest.raises(ReleaseError):
        apply(old, tmp_path / "delta", tmp_path / "applied")
    patch.unlink()
    secret.rename(patch)
    apply(old, tmp_path / "delta", tmp_path / "applied")


def test_what_was_made_before_an_interruption_is_used_again(old: Path, new: Path, tmp_path: Path, made: Delta) -> None:
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Interrupted("Stopped.")

    with pytest.raises(Interrupted):
        apply(old, tmp_path / "delta", tmp_path / "applied", check=stop)
    assert not (tmp_path / "applied").exists()
    apply(old, tmp_path / "delta", tmp_path / "applied")
    assert tree(tmp_path / "applied") == tree(new)
    with pytest.raises(ReleaseError, match="exists already"):
        apply(old, tmp_path / "delta", tmp_path / "applied")
    with pytest.raises(ReleaseError, match="exists already"):
        delta(old, new, tmp_path / "delta")


def test_a_changed_bundle_makes_no_delta(old: Path, new: Path, tmp_path: Path) -> None:
    for folder, data in ((old, OLD), (new, NEW)):
        path = folder / "blobs" / "sha256" / digest_bytes(data)
        path.write_bytes(data[:-1] + b"!")
        with pytest.raises(ReleaseError, match="was changed"):
            delta(old, new, tmp_path / "delta")
        path.write_bytes(data)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new"}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_text_is_a_plan_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("plan")
    digests = st.sampled_from([f"sha256:{'0' * 64}", f"sha256:{'f' * 64}", "sha256:", ""])
    blobs = st.builds(
        PlannedBlob,
        digest=digests,
        size=st.integers(0, 1 << 36),
        how=st.sampled_from(["take", "whole", "patch"]),
        base=digests,
        frames=st.lists(st.integers(-1, 1 << 40), max_size=3).map(tuple),
    )
    plan = data.draw(st.builds(Plan, start=digests, end=digests, blobs=st.lists(blobs, max_size=3).map(tuple)))
    text = bytearray(plan.text())
    for _ in range(data.draw(st.integers(0, 2))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    (folder / "delta.json").write_bytes(text)
    try:
        found = read_plan(folder)
    except EdgebuildError:
        return
    assert found.text() == bytes(text)
    assert all(not each.problem() for each in found.blobs)
