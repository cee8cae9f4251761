"""`release push | pull | promote | list`: bundles on their way."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.cli.console import stop_if_interrupted
from edgebuild.cli.output import plain, say
from edgebuild.releasing.layout import LAYOUT_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def push_bundle(folder: Path, to: str) -> None:
    """Send a bundle, or a delta, and say how much of it was there already."""
    from edgebuild.cli.progress import make_progress
    from edgebuild.releasing.delta_plan import PLAN_FILE
    from edgebuild.releasing.push import push

    if (folder / PLAN_FILE).is_file():
        _push_delta(folder, to)
        return
    done = push(folder, to, progress=make_progress(), check=stop_if_interrupted)
    say(f"Pushed {done.digest} as {done.tag}, with {done.signatures} signatures")
    say(f"  {_size(done.sent_bytes)} sent, {_size(done.there_bytes)} were there")
    if done.before not in ("", done.digest):
        say(f"  {done.tag} was {done.before} until now")


def _push_delta(folder: Path, to: str) -> None:
    from edgebuild.cli.progress import make_progress
    from edgebuild.releasing.delta_travel import push_delta

    done = push_delta(folder, to, progress=make_progress(), check=stop_if_interrupted)
    say(f"Pushed the delta from {done.start} beside {done.end}")
    say(f"  {_size(done.sent_bytes)} sent, {_size(done.there_bytes)} were there")


def pull_bundle(what: str, folder: Path | None, older: Path | None) -> None:
    """Fetch a release into a new folder."""
    from edgebuild.cli.progress import make_progress
    from edgebuild.releasing.pull import pull

    into = folder or Path(Path(what.replace("@sha256:", "-").replace(":", "-")).name)
    done = pull(what, into, older=older, progress=make_progress(), check=stop_if_interrupted)
    say(f"Pulled {done.digest} into {into}")
    patched = f", {_size(done.patched_bytes)} made by a delta" if done.patched_bytes else ""
    say(f"  {_size(done.fetched_bytes)} fetched, {_size(done.taken_bytes)} taken from what was here{patched}")


def promote_release(what: str, tag: str) -> None:
    """Move a tag to a release."""
    from edgebuild.releasing.registry import promote

    digest, before = promote(what, tag)
    say(f"{tag} is {digest}" + (f", and was {before}" if before and before != digest else ""))


def list_releases(where: str) -> None:
    """Print the releases of a repository."""
    from rich.table import Table
    from rich.text import Text

    from edgebuild.cli.output import make_console
    from edgebuild.releasing.registry import listed

    table = Table("version", "tags", "targets", "signatures", "digest", box=None, pad_edge=False)
    found = [each for place in _bundles_in(where) for each in listed(place, check=stop_if_interrupted)]
    for each in found:
        words = each.version, ", ".join(each.tags), ", ".join(each.targets), str(each.signatures), each.digest[:19]
        table.add_row(*(Text(plain(word)) for word in words))
    make_console().print(table)
    for each in found:
        if each.override:
            say(f"{plain(each.version)}: {plain(each.override)}")


def make_delta(old: Path, new: Path, out: Path) -> None:
    """Write what makes one bundle of another."""
    from edgebuild.cli.progress import make_progress
    from edgebuild.releasing.delta import delta

    made = delta(old, new, out, progress=make_progress(), check=stop_if_interrupted)
    say(f"Delta from {made.start} to {made.end}: {out}")
    say(
        f"  {_size(made.patch_bytes)} of patches make {_size(made.patched_bytes)}; {_size(made.whole_bytes)} whole, "
        f"{_size(made.taken_bytes)} taken from the old one"
    )


def apply_delta(old: Path, delta: Path, out: Path) -> None:
    """Make the new bundle."""
    from edgebuild.cli.progress import make_progress
    from edgebuild.releasing.delta import apply

    digest = apply(old, delta, out, progress=make_progress(), check=stop_if_interrupted)
    say(f"Made {digest}: {out}")
    say("Nobody vouches for it by that: verify it as any bundle.")


def show_affected(component: str, places: Sequence[str]) -> int:
    """Print which releases carry a component; return 0 for none, 3 for some, 4 where only doubts are left."""
    from edgebuild.releasing.affected import affected

    here = [place for each in places for place in _bundles_in(each)]
    survey = affected(component, here, check=stop_if_interrupted)
    for each in survey.carried:
        tags = f" ({', '.join(each.tags)})" if each.tags else ""
        what = f"can't be told: {each.unclear}" if each.unclear else f"carries {each.found}"
        say(f"{each.where} {plain(each.version)}{plain(tags)}, {plain(each.target)}: {plain(what)}")
    say(f"{len(survey.carried)} of {survey.targets} targets of {survey.releases} releases, for {survey.component}")
    if any(not each.unclear for each in survey.carried):
        return 3
    return 4 if survey.carried else 0


@contextlib.contextmanager
def at_hand(bundle: str, older: Path | None) -> Iterator[Path]:
    """Yield a bundle's folder: the one that is named, or one into which the release is pulled.

    ``older`` is a folder of releases from which what it has needn't be pulled.
    """
    if (Path(bundle) / LAYOUT_FILE).is_file():
        yield Path(bundle)
        return
    from edgebuild.cli.progress import make_progress
    from edgebuild.releasing.pull import pull

    with tempfile.TemporaryDirectory(prefix="edgebuild-pull-") as scratch:
        folder = Path(scratch, "bundle")
        done = pull(bundle, folder, older=older, progress=make_progress(), check=stop_if_interrupted)
        say(f"Pulled {done.digest}: {_size(done.fetched_bytes)} fetched")
        yield folder


def _bundles_in(where: str) -> tuple[str, ...]:
    """Return the bundles in a folder that `release create` writes into; anything else as it is."""
    folder = Path(where)
    if (folder / LAYOUT_FILE).is_file():
        return (str(folder.absolute()),)
    found = sorted(path.parent for path in folder.glob(f"*/{LAYOUT_FILE}")) if folder.is_dir() else []
    return tuple(str(each.absolute()) for each in found) or (where,)


def _size(count: int) -> str:
    from edgebuild.reporting.formatting import bytes_text

    return bytes_text(count)
