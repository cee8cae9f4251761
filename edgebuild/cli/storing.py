"""`store du` and `store gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.building.context import HOME, store_of
from edgebuild.building.projects import load_project
from edgebuild.cli.output import say
from edgebuild.devices.local import DEVICE
from edgebuild.devices.local_folder import bytes_of, tidy

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.catalogue.project import Project
    from edgebuild.execution.store import Store


def show_usage(project: Path) -> None:
    """Print what a project's store holds."""
    loaded = load_project(project)
    with store_of(loaded) as store:
        usage = store.usage()
        quota = f", quota {_size(usage.quota_bytes)}" if usage.quota_bytes is not None else ""
        say(f"{_place(store)}: {_size(usage.total_bytes)} in {usage.entries} results{quota}")
        say(f"  results         {_size(usage.blob_bytes):>10}  ({usage.blobs} files)")
        say(f"  unfinished work {_size(usage.scratch_bytes):>10}")
        say(f"  running builds  {_size(usage.staging_bytes):>10}")
    say(f"{_device(loaded)}: {_size(bytes_of(_device(loaded)))} in copies of results, for the runs on this machine")


def collect_garbage(project: Path, quota_gb: float | None) -> None:
    """Bring a project's store down to its quota and print what went."""
    loaded = load_project(project)
    with store_of(loaded) as store:
        quota = quota_gb if quota_gb is not None else loaded.store.quota_gb
        report = store.gc(None if quota is None else int(quota * 1e9))
        say(
            f"{_place(store)}: removed {report.removed_entries} results, {_size(report.removed_bytes)}; "
            f"{_size(report.left_bytes)} are left"
        )
        if not report.within_quota:
            say("  what running builds use is still more than the quota")
        if store.url is not None:
            say("  only the copy: who else uses what lies at the URL can't be seen from here")
    _tidy(_device(loaded), None if quota is None else max(0, int(quota * 1e9) - report.left_bytes))


def _tidy(device: Path, most_bytes: int | None) -> None:
    """What the store leaves of the quota is for copies, which the next build makes again where it needs them."""
    before = bytes_of(device)
    if not before:
        return
    if not tidy(device, most_bytes):
        say(f"{device}: in use, so nothing was removed")
        return
    left = bytes_of(device)
    say(f"{device}: removed copies of results, {_size(before - left)}; {_size(left)} are left")


def _device(project: Project) -> Path:
    return project.folder / HOME / DEVICE


def _place(store: Store) -> str:
    return str(store.root) if store.url is None else f"{store.url} (its copy here: {store.root})"


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError  # the loop ends with GB
