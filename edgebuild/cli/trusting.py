"""`release sign`, `release verify`, and what a device is asked to do with a release."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.cli.console import stop_if_interrupted
from edgebuild.cli.output import plain, say
from edgebuild.errors import ReleaseError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgebuild.core.record import BuildRecord
    from edgebuild.devices.client import RunnerClient
    from edgebuild.releasing.bundle import Bundle
    from edgebuild.releasing.on_device import BoardAnswer
    from edgebuild.releasing.signing import StatementSigner
    from edgebuild.releasing.trust import Policy

TOKEN = "SIGSTORE_ID_TOKEN"  # noqa: S105  a variable's name
PASSPHRASE = "EDGEBUILD_KEY_PASSPHRASE"  # noqa: S105  a variable's name
MAX_IDENTITY = 1000
RECORD = "evidence/build.json"


@dataclass(frozen=True)
class Asked:
    """Whose signatures a command asks for; nobody's where all of it is left out."""

    keys: Sequence[Path] = ()
    policy: Path | None = None
    identity: str | None = None
    issuer: str | None = None
    trusted_root: Path | None = None

    def read(self) -> Policy | None:
        """Return it as a policy; raises ``UsageError`` where it makes no sense."""
        from edgebuild.releasing.keyless import Identity, read_json_text
        from edgebuild.releasing.keys import load_public_key
        from edgebuild.releasing.trust import policy_of, read_policy

        named = [each for each in (self.identity, self.issuer) if each is not None]
        if len(named) == 1 or not all(each.isprintable() and 0 < len(each) <= MAX_IDENTITY for each in named):
            raise UsageError(
                "An identity and its issuer are given together, as printable text.", hint="--identity NAME --issuer URL"
            )
        if self.policy is not None and (self.keys or named):
            raise UsageError("A policy says by itself whose signatures are asked for.", hint="Leave out the others.")
        if self.trusted_root is not None and self.policy is None and not named:
            raise UsageError("A trusted root is for keyless signatures.", hint="Give --identity and --issuer, too.")
        root = None if self.trusted_root is None else read_json_text(self.trusted_root)
        if self.policy is not None:
            return read_policy(self.policy, root)
        keys = [load_public_key(path) for path in self.keys]
        identities = [Identity(named[0], named[1], root or "")] if named else []
        return policy_of(keys, identities) if keys or identities else None


NOBODY = Asked()


def sign_bundle(folder: Path, key: Path | None, *, keyless: bool, token: str | None, trust_config: Path | None) -> None:
    """Sign a bundle, by a key or keyless, and say what by."""
    from edgebuild.releasing.bundle import read_bundle
    from edgebuild.releasing.provenance import provenance
    from edgebuild.releasing.signing import sign

    if (key is None) != keyless or (key is not None and (token is not None or trust_config is not None)):
        raise UsageError(
            "A release is signed by a key, or keyless.",
            hint="`--key team.key`, or `--keyless` with what belongs to it.",
        )
    predicate = provenance(_records(read_bundle(folder)))
    signed = sign(folder, _signer(key, token, trust_config), provenance=predicate)
    say(f"Signed {signed.name} by {'' if keyless else 'key '}{plain(signed.hint)}")
    say(f"  the release index sha256:{signed.index_digest}, and so everything")
    for target in signed.targets:
        say(f"  the files of {target}, by OpenSSF Model Signing")
    if signed.replaced:
        say(f"  {signed.replaced} signatures by the same were replaced")


def _signer(key: Path | None, token: str | None, trust_config: Path | None) -> StatementSigner:
    if key is not None:
        from edgebuild.releasing.keys import load_signing_key

        return load_signing_key(key, _passphrase)
    from edgebuild.releasing.keyless import keyless_signer, read_json_text

    config = None if trust_config is None else read_json_text(trust_config)
    return keyless_signer(token or os.environ.get(TOKEN), config)


def verify_bundle(folder: Path, asked: Asked) -> None:
    """Verify every byte, and the signatures where it is said whose they have to be."""
    from edgebuild.releasing.bundle import read_bundle, require_measured_artifact
    from edgebuild.releasing.override import override_of
    from edgebuild.releasing.verifying import verify

    trust = asked.read()
    bundle = read_bundle(folder)
    for part in bundle.targets:
        require_measured_artifact(bundle, part)
    override = override_of(bundle.index)
    if override is not None:
        say(plain(override.text))
    if trust is None:
        bundle.check_all()
        say(f"{bundle.project} {bundle.version}: every byte is as released ({bundle.descriptor.digest})")
        say("nobody vouches for it: give --key, --identity or --policy to check who signed it")
        return
    found = verify(folder, policy=trust)
    say(f"{found.project} {found.version}: every byte is as released (sha256:{found.index_digest})")
    for signature in found.signatures:
        who = plain(signature.signer or signature.hint or signature.label)
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
    from edgebuild.core.record import BuildRecord

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
    asked: Asked = NOBODY,
    arguments: Sequence[str] = (),
) -> int:
    """Have a device (this machine without a name) check, install or roll back by itself; return the exit code."""
    from edgebuild.releasing.bundle import is_name
    from edgebuild.releasing.on_device import run_on_device

    if command != "check" and not root:
        if device is None or root is not None:
            raise UsageError("This machine has no folder for releases by itself.", hint="Name one with --root.")
        if not is_name(project):
            raise UsageError(f"{project!r} names no project.", hint="Name it with --name, or the folder with --root.")
    if root and device is None:
        root = str(Path(root).absolute())
    trust = asked.read()
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
