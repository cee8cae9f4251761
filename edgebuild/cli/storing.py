"""`store du` and `store gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.building.context import HOME, store_of
from edgebuild.building.projects import load_project
from edgebuild.cli.answering import Answer
from edgebuild.cli.output import say
from edgebuild.core.values import Value
from edgebuild.devices.local import DEVICE
from edgebuild.devices.local_folder import bytes_of, tidy

if TYPE_CHECKING:
    from pathlib import Path


class StoreUsage(Value):
    """What a store holds, in bytes. ``url`` is where a shared store lies whose copy here this is.

    ``staging_bytes`` is of running builds and comes on top of ``total_bytes``, which the quota bounds;
    ``copies_bytes`` is of copies of results, in ``copies``, for the runs on this machine.
    """

    root: str
    url: str | None
    entries: int
    files: int
    total_bytes: int
    result_bytes: int
    unfinished_bytes: int
    staging_bytes: int
    quota_bytes: int | None
    copies: str
    copies_bytes: int


class StoreCollected(Value):
    """What was removed of a store and of the copies of its results, in bytes, and what is left.

    Of a shared store only the copy here is collected. ``copies_in_use``: a build needs them, so none was removed.
    """

    root: str
    url: str | None
    removed_entries: int
    removed_bytes: int
    left_bytes: int
    within_quota: bool
    copies: str
    copies_removed_bytes: int
    copies_left_bytes: int
    copies_in_use: bool


def usage(project: Path) -> Answer:
    """Return what a project's store holds."""
    loaded = load_project(project)
    copies = loaded.folder / HOME / DEVICE
    with store_of(loaded) as store:
        used = store.usage()
        value = StoreUsage(
            root=str(store.root),
            url=store.url,
            entries=used.entries,
            files=used.blobs,
            total_bytes=used.total_bytes,
            result_bytes=used.blob_bytes,
            unfinished_bytes=used.scratch_bytes,
            staging_bytes=used.staging_bytes,
            quota_bytes=used.quota_bytes,
            copies=str(copies),
            copies_bytes=bytes_of(copies),
        )
    return Answer(value=value, text=lambda: _show_usage(value))


def _show_usage(used: StoreUsage) -> None:
    quota = f", quota {_size(used.quota_bytes)}" if used.quota_bytes is not None else ""
    say(f"{_place(used)}: {_size(used.total_bytes)} in {used.entries} results{quota}")
    say(f"  results         {_size(used.result_bytes):>10}  ({used.files} files)")
    say(f"  unfinished work {_size(used.unfinished_bytes):>10}")
    say(f"  running builds  {_size(used.staging_bytes):>10}")
    say(f"{used.copies}: {_size(used.copies_bytes)} in copies of results, for the runs on this machine")


def collect_garbage(project: Path, quota_gb: float | None) -> Answer:
    """Bring a project's store down to its quota and return what went."""
    loaded = load_project(project)
    copies = loaded.folder / HOME / DEVICE
    with store_of(loaded) as store:
        gigabytes = quota_gb if quota_gb is not None else loaded.store.quota_gb
        quota = None if gigabytes is None else int(gigabytes * 1e9)
        report = store.gc(quota)
        root, url = str(store.root), store.url
    # What the store leaves of the quota is for copies, which the next build makes again where it needs them.
    before = bytes_of(copies)
    in_use = before > 0 and not tidy(copies, None if quota is None else max(0, quota - report.left_bytes))
    left = bytes_of(copies)
    value = StoreCollected(
        root=root,
        url=url,
        removed_entries=report.removed_entries,
        removed_bytes=report.removed_bytes,
        left_bytes=report.left_bytes,
        within_quota=report.within_quota,
        copies=str(copies),
        copies_removed_bytes=before - left,
        copies_left_bytes=left,
        copies_in_use=in_use,
    )
    return Answer(value=value, text=lambda: _show_collected(value))


def _show_collected(done: StoreCollected) -> None:
    say(
        f"{_place(done)}: removed {done.removed_entries} results, {_size(done.removed_bytes)}; "
        f"{_size(done.left_bytes)} are left"
    )
    if not done.within_quota:
        say("  what running builds use is still more than the quota")
    if done.url is not None:
        say("  only the copy: who else uses what lies at the URL can't be seen from here")
    if done.copies_in_use:
        say(f"{done.copies}: in use, so nothing was removed")
    elif done.copies_removed_bytes or done.copies_left_bytes:
        removed, left = _size(done.copies_removed_bytes), _size(done.copies_left_bytes)
        say(f"{done.copies}: removed copies of results, {removed}; {left} are left")


def _place(store: StoreUsage | StoreCollected) -> str:
    return store.root if store.url is None else f"{store.url} (its copy here: {store.root})"


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError  # the loop ends with GB
