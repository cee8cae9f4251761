"""`release sign`, `release verify` and `release policy`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.cli.answering import Answer
from edgebuild.cli.output import plain, say
from edgebuild.cli.there import OnDevice, show_on_device
from edgebuild.core.values import Value
from edgebuild.errors import ReleaseError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgebuild.core.record import BuildRecord
    from edgebuild.releasing.bundle import Bundle
    from edgebuild.releasing.signing import StatementSigner
    from edgebuild.releasing.trust import Policy
    from edgebuild.releasing.verifying import CheckedSignature

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


class Signed(Value):
    """A release that was signed: its index by ``signer``, and by that everything, and the files of each target."""

    name: str
    signer: str
    release_digest: str
    targets: tuple[str, ...]
    replaced: int


class ReleaseSignature(Value):
    """A signature over what lies there; where it counts for no target, ``why_not`` says why."""

    over: str
    target: str | None
    by: str
    counts_for: tuple[str, ...]
    why_not: str


class Verified(Value):
    """A release every byte of which is as released.

    ``vouched`` is whether it was asked who signed it, and enough of them did. ``override`` says which gate it passed
    for a reason only. ``device`` is what a device said of it, where one was asked.
    """

    project: str
    version: str
    release_digest: str
    vouched: bool
    signatures: tuple[ReleaseSignature, ...]
    unverified: tuple[str, ...]
    override: str
    device: OnDevice | None


class PolicyWritten(Value):
    """A trust policy as boards read it, and the names of whom it trusts."""

    path: str
    threshold: int
    signers: tuple[str, ...]


def sign_bundle(
    folder: Path, key: Path | None, *, keyless: bool, token: str | None, trust_config: Path | None
) -> Answer:
    """Sign a bundle, by a key or keyless; people are told what by."""
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

    def told() -> None:
        say(f"Signed {signed.name} by {'' if keyless else 'key '}{plain(signed.hint)}")
        say(f"  the release index sha256:{signed.index_digest}, and so everything")
        for target in signed.targets:
            say(f"  the files of {target}, by OpenSSF Model Signing")
        if signed.replaced:
            say(f"  {signed.replaced} signatures by the same were replaced")

    value = Signed(
        name=signed.name,
        signer=signed.hint,
        release_digest=f"sha256:{signed.index_digest}",
        targets=signed.targets,
        replaced=signed.replaced,
    )
    return Answer(value=value, text=told)


def _signer(key: Path | None, token: str | None, trust_config: Path | None) -> StatementSigner:
    if key is not None:
        from edgebuild.releasing.keys import load_signing_key

        return load_signing_key(key, _passphrase)
    from edgebuild.releasing.keyless import keyless_signer, read_json_text

    config = None if trust_config is None else read_json_text(trust_config)
    return keyless_signer(token or os.environ.get(TOKEN), config)


def verify_bundle(folder: Path, trust: Policy | None) -> Verified:
    """Verify every byte, and the signatures where it is said whose they have to be."""
    from edgebuild.releasing.bundle import read_bundle, require_measured_artifact
    from edgebuild.releasing.override import override_of
    from edgebuild.releasing.verifying import verify

    bundle = read_bundle(folder)
    for part in bundle.targets:
        require_measured_artifact(bundle, part)
    override = override_of(bundle.index)
    found = None if trust is None else verify(folder, policy=trust)
    if found is None:
        bundle.check_all()
    return Verified(
        project=bundle.project,
        version=bundle.version,
        release_digest=bundle.descriptor.digest,
        vouched=found is not None,
        signatures=() if found is None else tuple(map(_signature, found.signatures)),
        unverified=() if found is None else found.unverified,
        override="" if override is None else override.text,
        device=None,
    )


def _signature(signature: CheckedSignature) -> ReleaseSignature:
    return ReleaseSignature(
        over=signature.over,
        target=signature.target,
        by=signature.signer or signature.hint or signature.label,
        counts_for=signature.counts_for,
        why_not=signature.why_not,
    )


def verified(found: Verified, there: OnDevice | None = None) -> Answer:
    """Return what was verified here, and on a device where one was asked: its exit code is the command's."""

    def told() -> None:
        _show_verified(found)
        if there is not None:
            show_on_device(there)

    code = 0 if there is None else there.exit_code
    return Answer(value=found.model_copy(update={"device": there}), text=told, code=code)


def _show_verified(found: Verified) -> None:
    if found.override:
        say(plain(found.override))
    say(f"{found.project} {found.version}: every byte is as released ({found.release_digest})")
    if not found.vouched:
        say("nobody vouches for it: give --key, --identity or --policy to check who signed it")
    for each in found.signatures:
        how = f"for {', '.join(each.counts_for)}" if each.counts_for else f"doesn't count: {each.why_not}"
        say(f"  signed: {each.over}, by {plain(each.by)}; {how}")
    for text in found.unverified:
        say(f"  not vouched for: {plain(text)}")


def write_policy(source: Path, out: Path) -> Answer:
    """Write a trust policy as canonical JSON; raises ``UsageError`` where that can't be done."""
    from edgebuild.releasing.trust import read_policy

    policy = read_policy(source)
    try:
        out.write_text(policy.to_json(), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{out} can't be written: {error.strerror or error}.", hint="Name another file.") from error
    return Answer(
        value=PolicyWritten(
            path=str(out.absolute()),
            threshold=policy.threshold,
            signers=tuple(signer.name for signer in policy.signers),
        ),
        text=lambda: say(f"Wrote {out}: `verify.py check BUNDLE --policy {out.name}` asks for what it says."),
    )


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
