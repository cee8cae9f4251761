"""`release push | pull | promote | list`: bundles on their way."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.cli.answering import Answer
from edgebuild.cli.console import stop_if_interrupted
from edgebuild.cli.output import plain, say
from edgebuild.core.values import Value
from edgebuild.releasing.layout import LAYOUT_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Pushed(Value):
    """A release that lies at its place now; bytes that were there already weren't sent again.

    ``before`` is the digest that the tag meant until then, empty where it is new.
    """

    release_digest: str
    tag: str
    before: str
    signatures: int
    sent_bytes: int
    there_bytes: int


class PushedDelta(Value):
    """A delta that lies beside the release ``end`` now, which it makes of the release ``start``."""

    start: str
    end: str
    sent_bytes: int
    there_bytes: int


class Pulled(Value):
    """A release that was fetched into ``folder``; bytes that were taken were here already.

    ``patched_bytes`` were made of what was here by a delta, whose bytes are among those that were fetched.
    """

    release_digest: str
    version: str
    folder: str
    signatures: int
    fetched_bytes: int
    taken_bytes: int
    patched_bytes: int


class Promoted(Value):
    """What a tag means now, and what it meant before; empty where it meant nothing."""

    tag: str
    release_digest: str
    before: str


class ListedRelease(Value):
    """A release of a repository; ``override`` says which gate it passed for a reason only."""

    release_digest: str
    version: str
    created: str
    tags: tuple[str, ...]
    targets: tuple[str, ...]
    signatures: int
    override: str


class DeltaMade(Value):
    """What makes the release ``end`` of the release ``start``: ``patch_bytes`` of patches make ``patched_bytes``.

    ``whole_bytes`` are sent as they are, ``taken_bytes`` are the old release's.
    """

    folder: str
    start: str
    end: str
    taken_bytes: int
    whole_bytes: int
    patched_bytes: int
    patch_bytes: int


class DeltaApplied(Value):
    """The bundle that a delta made; nobody vouches for it by that."""

    folder: str
    release_digest: str


class CarriedBy(Value):
    """A target of a release that carries a component, in the version ``found``; or may: ``unclear`` says why."""

    where: str
    release_digest: str
    version: str
    tags: tuple[str, ...]
    target: str
    found: str
    unclear: str


class Affected(Value):
    """Who carries a component, of how many that were looked at; exit code 3 where one does, 4 where one may."""

    component: str
    carried: tuple[CarriedBy, ...]
    releases: int
    targets: int


def push_bundle(folder: Path, to: str) -> Answer:
    """Send a bundle, or a delta; people are told how much of it was there already."""
    from edgebuild.cli.progress import make_progress
    from edgebuild.releasing.delta_plan import PLAN_FILE
    from edgebuild.releasing.push import push

    if (folder / PLAN_FILE).is_file():
        return _push_delta(folder, to)
    done = push(folder, to, progress=make_progress(), check=stop_if_interrupted)

    def told() -> None:
        say(f"Pushed {done.digest} as {done.tag}, with {done.signatures} signatures")
        say(f"  {_size(done.sent_bytes)} sent, {_size(done.there_bytes)} were there")
        if done.before not in ("", done.digest):
            say(f"  {done.tag} was {done.before} until now")

    return Answer(value=Pushed(**_renamed(asdict(done))), text=told)


def _push_delta(folder: Path, to: str) -> Answer:
    from edgebuild.cli.progress import make_progress
    from edgebuild.releasing.delta_travel import push_delta

    done = push_delta(folder, to, progress=make_progress(), check=stop_if_interrupted)

    def told() -> None:
        say(f"Pushed the delta from {done.start} beside {done.end}")
        say(f"  {_size(done.sent_bytes)} sent, {_size(done.there_bytes)} were there")

    return Answer(value=PushedDelta(**asdict(done)), text=told)


def pull_bundle(what: str, folder: Path | None, older: Path | None) -> Answer:
    """Fetch a release into a new folder."""
    from edgebuild.cli.progress import make_progress
    from edgebuild.releasing.pull import pull

    into = folder or Path(Path(what.replace("@sha256:", "-").replace(":", "-")).name)
    done = pull(what, into, older=older, progress=make_progress(), check=stop_if_interrupted)

    def told() -> None:
        say(f"Pulled {done.digest} into {into}")
        patched = f", {_size(done.patched_bytes)} made by a delta" if done.patched_bytes else ""
        say(f"  {_size(done.fetched_bytes)} fetched, {_size(done.taken_bytes)} taken from what was here{patched}")

    value = Pulled(
        release_digest=done.digest,
        version=done.version,
        folder=str(into.absolute()),
        signatures=done.signatures,
        fetched_bytes=done.fetched_bytes,
        taken_bytes=done.taken_bytes,
        patched_bytes=done.patched_bytes,
    )
    return Answer(value=value, text=told)


def promote_release(what: str, tag: str) -> Answer:
    """Move a tag to a release."""
    from edgebuild.releasing.registry import promote

    digest, before = promote(what, tag)
    was = f", and was {before}" if before and before != digest else ""
    return Answer(
        value=Promoted(tag=tag, release_digest=digest, before=before or ""), text=lambda: say(f"{tag} is {digest}{was}")
    )


def list_releases(where: str) -> Answer:
    """Return the releases of a repository."""
    from edgebuild.releasing.registry import listed

    found = tuple(
        ListedRelease(**_renamed(asdict(each)))
        for place in _bundles_in(where)
        for each in listed(place, check=stop_if_interrupted)
    )
    return Answer(value=found, text=lambda: _show_releases(found))


def _show_releases(found: Sequence[ListedRelease]) -> None:
    from rich.table import Table
    from rich.text import Text

    from edgebuild.cli.output import make_console

    table = Table("version", "tags", "targets", "signatures", "digest", box=None, pad_edge=False)
    for each in found:
        words = (
            each.version,
            ", ".join(each.tags),
            ", ".join(each.targets),
            str(each.signatures),
            each.release_digest[:19],
        )
        table.add_row(*(Text(plain(word)) for word in words))
    make_console().print(table)
    for each in found:
        if each.override:
            say(f"{plain(each.version)}: {plain(each.override)}")


def make_delta(old: Path, new: Path, out: Path) -> Answer:
    """Write what makes one bundle of another."""
    from edgebuild.cli.progress import make_progress
    from edgebuild.releasing.delta import delta

    made = delta(old, new, out, progress=make_progress(), check=stop_if_interrupted)

    def told() -> None:
        say(f"Delta from {made.start} to {made.end}: {out}")
        say(
            f"  {_size(made.patch_bytes)} of patches make {_size(made.patched_bytes)}; {_size(made.whole_bytes)} "
            f"whole, {_size(made.taken_bytes)} taken from the old one"
        )

    return Answer(value=DeltaMade(folder=str(out.absolute()), **asdict(made)), text=told)


def apply_delta(old: Path, delta: Path, out: Path) -> Answer:
    """Make the new bundle."""
    from edgebuild.cli.progress import make_progress
    from edgebuild.releasing.delta import apply

    digest = apply(old, delta, out, progress=make_progress(), check=stop_if_interrupted)

    def told() -> None:
        say(f"Made {digest}: {out}")
        say("Nobody vouches for it by that: verify it as any bundle.")

    return Answer(value=DeltaApplied(folder=str(out.absolute()), release_digest=digest), text=told)


def find_affected(component: str, places: Sequence[str]) -> Answer:
    """Return which releases carry a component; exit code 0 for none, 3 for some, 4 where only doubts are left."""
    from edgebuild.releasing.affected import affected

    here = [place for each in places for place in _bundles_in(each)]
    survey = affected(component, here, check=stop_if_interrupted)
    value = Affected(
        component=survey.component,
        carried=tuple(CarriedBy(**_renamed(asdict(each))) for each in survey.carried),
        releases=survey.releases,
        targets=survey.targets,
    )
    certain = any(not each.unclear for each in survey.carried)
    return Answer(value=value, text=lambda: _show_affected(value), code=3 if certain else 4 if survey.carried else 0)


def _show_affected(survey: Affected) -> None:
    for each in survey.carried:
        tags = f" ({', '.join(each.tags)})" if each.tags else ""
        what = f"can't be told: {each.unclear}" if each.unclear else f"carries {each.found}"
        say(f"{each.where} {plain(each.version)}{plain(tags)}, {plain(each.target)}: {plain(what)}")
    say(f"{len(survey.carried)} of {survey.targets} targets of {survey.releases} releases, for {survey.component}")


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


def _renamed(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an answer: every value has a method ``digest`` already."""
    return {"release_digest" if name == "digest" else name: each for name, each in fields.items()}


def _size(count: int) -> str:
    from edgebuild.reporting.formatting import bytes_text

    return bytes_text(count)
