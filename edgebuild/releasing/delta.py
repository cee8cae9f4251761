"""Makes a delta bundle of two bundles, and a bundle of an old one and a delta: see ``delta_plan`` for its form.

A blob of a target is patched from the one that the same target has under the same path in the old bundle, where both
have 64 KiB and it saves a tenth; what the old bundle has isn't sent, and all else travels whole.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.core.artifact_files import open_plain
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.errors import ReleaseError
from edgebuild.execution.disk import sync_file, sync_folder
from edgebuild.releasing.blobs import blob_path, disk_errors, require_room, staged
from edgebuild.releasing.contents import blobs_of
from edgebuild.releasing.delta_plan import PATCHES, PLAN_FILE, Plan, PlannedBlob, make_patch, patched, read_plan
from edgebuild.releasing.layout import INDEX_TYPE, Descriptor, Layout, LayoutWriter
from edgebuild.releasing.referrers import read_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgebuild.core.steps import Progress
    from edgebuild.releasing.blobs import Staging
    from edgebuild.releasing.bundle import Bundle

MIN_PATCHED_BYTES = 64 << 10
#: A patch that is larger than that part of its blob isn't worth the work on the device.
_WORTH = 0.9
_COPY = "Copy the delta again, or make it again from the same two bundles."


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What a delta holds: digests of both release indexes, and bytes of the new blobs by how they come about.

    ``patch_bytes`` is the size of the patches that make ``patched_bytes``.
    """

    start: str
    end: str
    taken_bytes: int
    whole_bytes: int
    patched_bytes: int
    patch_bytes: int


def delta(
    old: Path,
    new: Path,
    out: Path,
    *,
    progress: Progress | None = None,
    check: Callable[[], None] = never_stop,
) -> Delta:
    """Write what makes the bundle ``new`` of the bundle ``old`` into the new folder ``out``, whole or not at all.

    Takes half a second a MB that changed. Raises ``ReleaseError`` for a bundle that can't be read or was changed,
    ``EnvironmentGap`` without zstd.
    """
    before, after = read_signed(old)[0], read_signed(new)[0]
    with disk_errors(out):
        if os.path.lexists(out):
            raise ReleaseError(f"{out} exists already.", hint="Name a folder that doesn't, or remove it.")
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent))
        try:
            made = scratch / "delta"
            writer = LayoutWriter(made)
            (made / PATCHES).mkdir()
            for each in _documents(after):
                writer.add_file(blob_path(new, each), each.mediaType)
            plan = _plan(before, after, writer, progress or NoProgress(), check)
            (made / PLAN_FILE).write_bytes(plan.text())
            writer.finish(after.layout.index.manifests)
            _sync(made)
            made.rename(out)
            sync_folder(out.absolute().parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return _summary(plan)


def apply(
    old: Path,
    delta: Path,
    out: Path,
    *,
    progress: Progress | None = None,
    check: Callable[[], None] = never_stop,
) -> str:
    """Make the new bundle of ``old`` and a delta in the new folder ``out``, and return its release index's digest.

    Every blob is held against its digest, nothing is written outside ``out``, and memory stays below
    ``delta_plan.APPLY_BYTES``. What was made before an interruption is used again. Whether the result is trusted is for
    ``verify`` to say, as of any bundle. Raises ``ReleaseError`` for a delta of another base, or one that doesn't make
    what it says.
    """
    plan, sent = read_plan(delta), Layout(delta)
    before = read_signed(old)[0]
    if before.descriptor.digest != plan.start:
        raise ReleaseError(
            f"{delta} starts from another release than {old} ({plan.start}, not {before.descriptor.digest}).",
            hint="Use the delta from the version that is there, or the whole bundle.",
        )
    documents, blobs = _contents(sent, plan)
    bases = {each.digest: each for each in before.descriptors()}
    with staged(out) as staging:
        total = sum(each.size for each in blobs)
        require_room(staging.folder, total)
        with (progress or NoProgress()).task(f"apply {delta.name}", total=float(total)) as task:

            def count(size: int) -> None:
                check()
                task.advance(size)

            for each in documents:
                if not staging.take(each, delta, lambda _: None):
                    raise ReleaseError(f"{each.digest} is missing in {delta}, or was changed.", hint=_COPY)
            for blob, planned in zip(blobs, plan.blobs, strict=True):
                if not staging.has(blob, count):
                    _make(staging, blob, planned, (old, delta), bases, count)
        staging.finish(sent.index.manifests, (*documents, *blobs), out)
    return plan.end


def _plan(before: Bundle, after: Bundle, writer: LayoutWriter, progress: Progress, check: Callable[[], None]) -> Plan:
    known = {each.digest for each in before.descriptors()}
    bases = dict(_pairs(before, after))
    planned = []
    blobs = _blobs(after)
    with progress.task("compare", total=float(sum(each.size for each in blobs))) as task:
        for blob in blobs:
            check()
            if blob.digest in known:
                planned.append(PlannedBlob(digest=blob.digest, size=blob.size, how="take"))
            else:
                planned.append(_sent(blob, bases.get(blob.digest), before.layout, after.layout, writer))
            task.advance(blob.size)
    return Plan(start=before.descriptor.digest, end=after.descriptor.digest, blobs=tuple(planned))


def _pairs(before: Bundle, after: Bundle) -> Iterator[tuple[str, Descriptor]]:
    """Yield the digest of each new file with the old file of its place."""
    places = {(part.release.target, path): each for part in before.targets for path, each in part.files().items()}
    for part in after.targets:
        for path, each in part.files().items():
            base = places.get((part.release.target, path))
            if base is not None and min(base.size, each.size) >= MIN_PATCHED_BYTES:
                yield each.digest, base


def _sent(blob: Descriptor, base: Descriptor | None, old: Layout, new: Layout, writer: LayoutWriter) -> PlannedBlob:
    new.check(blob)
    if base is not None:
        old.check(base)
        patch = writer.folder / PATCHES / f"{blob.sha256}.zst"
        with old.open(base) as reference, new.open(blob) as file, patch.open("wb") as out:
            frames = make_patch(reference, base.size, file, blob.size, out)
        if sum(frames) <= _WORTH * blob.size:
            return PlannedBlob(digest=blob.digest, size=blob.size, how="patch", base=base.digest, frames=frames)
        patch.unlink()
    writer.add_file(blob_path(new.folder, blob), blob.mediaType)
    return PlannedBlob(digest=blob.digest, size=blob.size, how="whole")


def _contents(sent: Layout, plan: Plan) -> tuple[tuple[Descriptor, ...], tuple[Descriptor, ...]]:
    """Return the manifests of the new bundle and its blobs, which the plan lists one by one, and nothing else."""
    first = sent.index.manifests[0] if sent.index.manifests else None
    if first is None or first.mediaType != INDEX_TYPE or first.digest != plan.end:
        raise ReleaseError(f"{sent.folder} leads to another release than its {PLAN_FILE} says.", hint=_COPY)
    listed = (*sent.nested(first).manifests, *sent.index.manifests[1:])
    blobs = blobs_of(sent.manifest(each) for each in listed)
    if [(each.digest, each.size) for each in blobs] != [(each.digest, each.size) for each in plan.blobs]:
        raise ReleaseError(f"{PLAN_FILE} in {sent.folder} is of other blobs than its manifests list.", hint=_COPY)
    return (first, *listed), blobs


def _make(
    staging: Staging,
    blob: Descriptor,
    planned: PlannedBlob,
    folders: tuple[Path, Path],
    bases: dict[str, Descriptor],
    count: Callable[[int], None],
) -> None:
    old, delta = folders
    if planned.how != "patch":
        where = old if planned.how == "take" else delta
        if not staging.take(blob, where, count):
            raise ReleaseError(f"{blob.digest} is missing in {where}, or was changed.", hint=_COPY)
        return
    base = bases.get(planned.base)
    if base is None:
        raise ReleaseError(f"{delta} patches {planned.base}, which {old} hasn't got.", hint=_COPY)
    try:
        with Layout(old).open(base) as reference, open_plain(delta / PATCHES / f"{blob.sha256}.zst") as patch:
            whole = staging.write(blob, patched(planned, reference, base.size, patch), count)
    except FileNotFoundError:
        whole = False
    if not whole:
        raise ReleaseError(f"The patch of {blob.digest} makes something else of {planned.base}.", hint=_COPY)


def _documents(bundle: Bundle) -> Iterator[Descriptor]:
    yield bundle.descriptor
    yield from (part.descriptor for part in bundle.targets)
    yield from (each for each, _ in bundle.signatures)


def _blobs(bundle: Bundle) -> tuple[Descriptor, ...]:
    return blobs_of([*(part.manifest for part in bundle.targets), *(manifest for _, manifest in bundle.signatures)])


def _summary(plan: Plan) -> Delta:
    sizes = {how: sum(each.size for each in plan.blobs if each.how == how) for how in ("take", "whole", "patch")}
    return Delta(
        start=plan.start,
        end=plan.end,
        taken_bytes=sizes["take"],
        whole_bytes=sizes["whole"],
        patched_bytes=sizes["patch"],
        patch_bytes=sum(sum(each.frames) for each in plan.blobs),
    )


def _sync(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))
