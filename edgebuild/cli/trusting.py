"""`release sign`, `release verify`, and what a device is asked to do with a release."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.cli.console import stop_if_interrupted
from edgebuild.cli.output import plain, say
from edgebuild.core.record import BuildRecord
from edgebuild.errors import ReleaseError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgebuild.devices.client import RunnerClient
    from edgebuild.releasing.bundle import Bundle
    from edgebuild.releasing.on_device import BoardAnswer

PASSPHRASE = "EDGEBUILD_KEY_PASSPHRASE"  # noqa: S105  a variable's name
RECORD = "evidence/build.json"


def sign_bundle(folder: Path, key: Path) -> None:
    """Sign a bundle and say what by."""
    from edgebuild.releasing.bundle import read_bundle
    from edgebuild.releasing.keys import load_signing_key
    from edgebuild.releasing.provenance import provenance
    from edgebuild.releasing.signing import sign

    signing_key = load_signing_key(key, _passphrase)
    signed = sign(folder, signing_key, provenance=provenance(_records(read_bundle(folder))))
    say(f"Signed {signed.name} by key {signed.hint}")
    say(f"  the release index sha256:{signed.index_digest}, and so everything")
    for target in signed.targets:
        say(f"  the files of {target}, by OpenSSF Model Signing")
    if signed.replaced:
        say(f"  {signed.replaced} signatures of this key were replaced")


def verify_bundle(folder: Path, keys: Sequence[Path], policy: Path | None) -> None:
    """Verify every byte, and the signatures where it is said whose they have to be."""
    from edgebuild.releasing.bundle import read_bundle, require_measured_artifact
    from edgebuild.releasing.keys import load_public_key
    from edgebuild.releasing.override import override_of
    from edgebuild.releasing.trust import read_policy
    from edgebuild.releasing.verifying import verify

    bundle = read_bundle(folder)
    for part in bundle.targets:
        require_measured_artifact(bundle, part)
    override = override_of(bundle.index)
    if override is not None:
        say(plain(override.text))
    if not keys and policy is None:
        bundle.check_all()
        say(f"{bundle.project} {bundle.version}: every byte is as released ({bundle.descriptor.digest})")
        say("nobody vouches for it: give --key or --policy to check who signed it")
        return
    found = verify(
        folder,
        keys=[load_public_key(path) for path in keys],
        policy=None if policy is None else read_policy(policy),
    )
    say(f"{found.project} {found.version}: every byte is as released (sha256:{found.index_digest})")
    for signature in found.signatures:
        who = plain(signature.signer or signature.hint or "somebody")
        how = f"for {', '.join(signature.counts_for)}" if signature.counts else f"doesn't count: {signature.why_not}"
        say(f"  signed: {signature.over}, by {who}; {how}")
    for each in found.unverified:
        say(f"  not vouched for: {plain(each)}")


def write_policy(source: Path, out: Path) -> None:
    """Write a trust policy as canonical JSON; raises ``UsageError`` where that can't be done."""
    from edgebuild.releasing.trust import read_policy

    text = read_policy(source).to_json()
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{out} can't be written: {error.strerror or error}.", hint="Name another file.") from error
    say(f"Wrote {out}: `verify.py check BUNDLE --policy {out.name}` asks for what it says.")


def _passphrase() -> bytes:
    given = os.environ.get(PASSPHRASE)
    if given is not None:
        return given.encode()
    from getpass import getpass

    try:
        return getpass("Passphrase of the key: ").encode()
    except EOFError as error:
        raise UsageError("The key is protected by a passphrase.", hint=f"Set {PASSPHRASE}.") from error


def _records(bundle: Bundle) -> list[BuildRecord]:
    records = []
    for part in bundle.targets:
        try:
            fields = json.loads(bundle.layout.read(part.files()[RECORD], limit=256 << 20))
            fields.pop("sha256", None)
            records.append(BuildRecord.model_validate_json(json.dumps(fields)))
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ReleaseError(f"The release holds no record of its build for {part.release.target}.") from error
    return records


def run_there(
    command: str,
    *,
    device: str | None,
    bundle: Path | None = None,
    root: str | None = None,
    project: str = "",
    keys: Sequence[Path] = (),
    policy: Path | None = None,
    arguments: Sequence[str] = (),
) -> int:
    """Have a device (this machine without a name) check, install or roll back by itself; return the exit code."""
    from edgebuild.releasing.bundle import is_name
    from edgebuild.releasing.on_device import run_on_device
    from edgebuild.releasing.trust import policy_of, read_policy

    if command != "check" and not root:
        if device is None or root is not None:
            raise UsageError("This machine has no folder for releases by itself.", hint="Name one with --root.")
        if not is_name(project):
            raise UsageError(f"{project!r} names no project.", hint="Name it with --name, or the folder with --root.")
    if root and device is None:
        root = str(Path(root).absolute())
    trust = read_policy(policy) if policy is not None else None
    if keys:
        from edgebuild.releasing.keys import load_public_key

        trust = policy_of([load_public_key(path) for path in keys])
    files = {} if trust is None else {"--policy": trust.to_json().encode()}
    with _client(device) as client:
        words = list(arguments)
        if command != "check":
            words += [f"--root={root or f'{client.device.root}-releases/{project}'}"]
        answer = run_on_device(client, command, words, bundle=bundle, files=files, check=stop_if_interrupted)
        _tell(answer, client.device.id)
    return answer.code


@contextlib.contextmanager
def _client(name: str | None) -> Iterator[RunnerClient]:
    from edgebuild.backends.table import backends
    from edgebuild.cli.progress import make_progress
    from edgebuild.core.files import cache_home
    from edgebuild.devices.hold import holding
    from edgebuild.devices.local import local_device
    from edgebuild.fleet.inventory import entry_of
    from edgebuild.fleet.provider import InventoryProvider, attached

    devices = InventoryProvider()
    here = local_device(cache_home() / "release")
    with (
        attached(here if name is None else devices.connect(entry_of(name, devices.entries())), backends()) as at,
        holding(at.client, make_progress(), stop_if_interrupted)("release", False),
    ):
        yield at.client


def _tell(answer: BoardAnswer, device: str) -> None:
    say(f"On {device}:")
    for line in answer.lines:
        say(f"  {line}", error=answer.code != 0)
