"""Verifying a bundle: its signatures by a policy or by keys, then every byte that they lead to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgebuild.errors import ReleaseError, UsageError
from edgebuild.releasing.dsse import parse_bundle, parse_statement
from edgebuild.releasing.model_signing import require_same_files, signed_files
from edgebuild.releasing.provenance import PREDICATE_TYPE
from edgebuild.releasing.referrers import digests_of, read_signed, release_name
from edgebuild.releasing.trust import policy_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from edgebuild.releasing.bundle import Bundle
    from edgebuild.releasing.dsse import SignatureBundle, Statement
    from edgebuild.releasing.keys import PublicKey
    from edgebuild.releasing.referrers import StoredSignature
    from edgebuild.releasing.trust import Policy, Signer

Kind = Literal["release index", "model files"]
_COPY = "Pull or copy the release again, and ask who made it."


@dataclass(frozen=True)
class CheckedSignature:
    """A signature that is over what lies there, and whose it is.

    ``target`` is None where it is over the release index. ``signer`` is the policy's name for the key, None where
    there is no policy or it doesn't know the key. ``counts_for`` are the targets that it counts for; where it counts
    for none, ``why_not`` says why. ``provenance`` is the predicate over the release index, as signed by a key that
    counts.
    """

    kind: Kind
    target: str | None
    hint: str | None
    signer: str | None
    counts_for: tuple[str, ...]
    why_not: str
    provenance: dict[str, Any] | None

    @property
    def counts(self) -> bool:
        """Whether a signer that is trusted with it made it."""
        return bool(self.counts_for)

    @property
    def over(self) -> str:
        """What it is over, for people."""
        return self.kind if self.target is None else f"{self.kind} of {self.target!r}"


@dataclass(frozen=True)
class Verified:
    """A release that is whole and signed as it has to be; ``unverified`` says what nobody vouched for."""

    project: str
    version: str
    index_digest: str
    targets: tuple[str, ...]
    signatures: tuple[CheckedSignature, ...]
    unverified: tuple[str, ...]


def verify(folder: Path, *, keys: Sequence[PublicKey] = (), policy: Policy | None = None) -> Verified:
    """Verify a bundle from anywhere, either by a policy or by keys, of which one signature by any will do.

    Only signatures over the release index decide, since digests lead from it to every byte; each target needs as many
    different signers as the policy says. Signatures over model files are checked, and told. One by an unknown or a
    revoked key doesn't count, and does no harm where others suffice: it may be another team's, or an older key's.
    A signature that is wrong is refused whoever made it.

    Raises ``ReleaseError``; ``UsageError`` where neither or both of ``keys`` and ``policy`` are given.
    """
    if bool(keys) == (policy is not None):
        raise UsageError(
            "A release is verified by public keys or by a trust policy, one of the two.",
            hint="`--key team.pub`, or `--policy trust.toml`.",
        )
    trusted = policy or policy_of(keys)
    bundle, stored = read_signed(folder)
    known = trusted.by_hint()
    checked = tuple(_checked(bundle, each, known, named=policy is not None) for each in stored)
    _require_enough(bundle, checked, trusted, known)
    bundle.check_all()
    targets = _targets(bundle)
    unverified = tuple(_unverified(targets, checked))
    return Verified(bundle.project, bundle.version, bundle.descriptor.sha256, targets, checked, unverified)


def _targets(bundle: Bundle) -> tuple[str, ...]:
    return tuple(part.release.target for part in bundle.targets)


def _checked(
    bundle: Bundle, stored: StoredSignature, known: dict[str, tuple[Signer, PublicKey]], *, named: bool
) -> CheckedSignature:
    signature = parse_bundle(bundle.layout.read(stored.blob))
    statement = parse_statement(signature.payload)
    _require_subject(bundle, stored, statement)
    kind: Kind = "release index" if stored.part is None else "model files"
    target = stored.part.release.target if stored.part else None
    owner = _owner(signature, known)
    if owner is None:
        by_key = signature.method == "key"
        why = "by a key that isn't known" if by_key else "by a certificate, and only keys are verified here"
        return CheckedSignature(kind, target, signature.hint, None, (), why, None)
    signer, key = owner
    if not key.verifies(signature.signature, signature.signed):
        raise ReleaseError(
            f"The signature over the {kind} of {release_name(bundle)} in the name of {_who(signer, key)} is wrong.",
            hint=_COPY,
        )
    possible = (target,) if target is not None else _targets(bundle)
    counts_for = tuple(each for each in possible if signer.may_sign(bundle.project, each))
    provenance = statement.predicate if counts_for and target is None else None
    return CheckedSignature(
        kind, target, key.hint, signer.name if named else None, counts_for, _why_not(signer, counts_for), provenance
    )


def _require_subject(bundle: Bundle, stored: StoredSignature, statement: Statement) -> None:
    """Raise unless a statement is over what its signature is stored with."""
    if stored.part is not None:
        require_same_files(signed_files(statement), digests_of(stored.part), stored.part.release.target)
        return
    if statement.predicate_type != PREDICATE_TYPE:
        raise ReleaseError(
            f"A signature over the release index is of the type {statement.predicate_type!r}, not {PREDICATE_TYPE}.",
            hint=_COPY,
        )
    if (statement.name, statement.sha256) != (release_name(bundle), bundle.descriptor.sha256):
        raise ReleaseError(
            f"A signature in {bundle.layout.folder} is over another release: {statement.name!r}, whose index is "
            f"sha256:{statement.sha256}.",
            hint=_COPY,
        )


def _owner(signature: SignatureBundle, known: dict[str, tuple[Signer, PublicKey]]) -> tuple[Signer, PublicKey] | None:
    """Return whose signature a bundle says that it is; where it says nothing, whose it turns out to be."""
    if signature.method != "key":
        return None
    if signature.hint is not None:
        return known.get(signature.hint)
    return next((each for each in known.values() if each[1].verifies(signature.signature, signature.signed)), None)


def _why_not(signer: Signer, counts_for: tuple[str, ...]) -> str:
    if counts_for:
        return ""
    return "its key is revoked" if signer.revoked else "the policy doesn't let this signer sign it"


def _require_enough(
    bundle: Bundle,
    checked: tuple[CheckedSignature, ...],
    policy: Policy,
    known: dict[str, tuple[Signer, PublicKey]],
) -> None:
    """Raise unless every target has the signers that the policy asks for."""
    over_index = [each for each in checked if each.kind == "release index"]
    if not over_index:
        raise ReleaseError(
            f"{release_name(bundle)} isn't signed: no signature is over its index.",
            hint="`edgebuild release sign` signs it.",
        )
    for target in _targets(bundle):
        names = {known[each.hint][0].name for each in over_index if each.hint and target in each.counts_for}
        if len(names) >= policy.threshold:
            continue
        others = [_refused(each, target) for each in over_index if target not in each.counts_for]
        raise ReleaseError(
            f"{release_name(bundle)} isn't trusted for target {target!r}: "
            f"{'; '.join([f'{len(names)} of {policy.threshold} signers needed', *others])}.",
            hint="The policy, or the key given, says who has to sign.",
        )


def _refused(signature: CheckedSignature, target: str) -> str:
    who = signature.signer or "one signature"
    why = signature.why_not or f"the policy doesn't let this signer sign for {target!r}"
    return f"{who} ({_short(signature.hint)}) doesn't count: {why}"


def _unverified(targets: tuple[str, ...], checked: tuple[CheckedSignature, ...]) -> Iterator[str]:
    for each in checked:
        if not each.counts:
            yield f"the signature over the {each.over} ({_short(each.hint)}): {each.why_not}"
    signed = {each.target for each in checked if each.kind == "model files" and each.counts}
    for target in targets:
        if target not in signed:
            yield f"no trusted signature is over the model files of {target!r}; the release index covers them"
    yield "when it was signed: keys say who, and no log or timestamp was asked"


def _who(signer: Signer, key: PublicKey) -> str:
    return _short(key.hint) if signer.name == key.hint else f"{signer.name} ({_short(key.hint)})"


def _short(hint: str | None) -> str:
    return f"key {hint[:16]}" if hint else "no key named"
