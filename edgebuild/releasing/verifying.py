"""Verifying a bundle: its signatures by a policy or by keys, then every byte that they lead to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from edgebuild.errors import ReleaseError, UsageError
from edgebuild.releasing.dsse import parse_bundle, parse_statement
from edgebuild.releasing.keyless import hint_of, one_line
from edgebuild.releasing.keys import label_of
from edgebuild.releasing.model_signing import require_same_files, signed_files
from edgebuild.releasing.provenance import PREDICATE_TYPE
from edgebuild.releasing.referrers import digests_of, read_signed, release_name
from edgebuild.releasing.trust import policy_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from edgebuild.releasing.bundle import Bundle
    from edgebuild.releasing.dsse import Method, Statement
    from edgebuild.releasing.keys import PublicKey
    from edgebuild.releasing.referrers import StoredSignature
    from edgebuild.releasing.trust import Credential, Policy, Signer

    Known: TypeAlias = tuple[tuple[Signer, Credential], ...]

Kind = Literal["release index", "model files"]
#: How a signature was made that is by nobody known → why it doesn't count.
_UNKNOWN: Mapping[Method, str] = {
    "key": "by a key that isn't known",
    "sigstore": "by an identity that isn't known",
    "certificate": "by a certificate of no Sigstore's, and such aren't verified here",
}
_ROOT = "Pull or copy the release again; or the trusted root isn't that of the Sigstore that signed (--trusted-root)."
_COPY = "Pull or copy the release again, and ask who made it."


@dataclass(frozen=True)
class CheckedSignature:
    """A signature that is over what lies there, and whose it is.

    ``target`` is None where it is over the release index. ``hint`` names the key, or the identity and its issuer, and
    ``label`` says that to people; ``logged`` is whether a log or a timestamp says when. ``signer`` is the policy's name
    for them, None where there is no policy or it doesn't know them. ``counts_for`` are the targets that it counts for;
    where it counts for none, ``why_not`` says why. ``provenance`` is the predicate over the release index, as signed by
    somebody who counts.
    """

    kind: Kind
    target: str | None
    hint: str | None
    label: str
    logged: bool
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
    known = trusted.credentials()
    checked = tuple(_checked(bundle, each, known, named=policy is not None) for each in stored)
    _require_enough(bundle, checked, trusted)
    bundle.check_all()
    targets = _targets(bundle)
    unverified = tuple(_unverified(targets, checked))
    return Verified(bundle.project, bundle.version, bundle.descriptor.sha256, targets, checked, unverified)


def _targets(bundle: Bundle) -> tuple[str, ...]:
    return tuple(part.release.target for part in bundle.targets)


def _checked(bundle: Bundle, stored: StoredSignature, known: Known, *, named: bool) -> CheckedSignature:
    signature = parse_bundle(bundle.layout.read(stored.blob))
    statement = parse_statement(signature.payload)
    _require_subject(bundle, stored, statement)
    kind: Kind = "release index" if stored.part is None else "model files"
    target = stored.part.release.target if stored.part else None
    hint = hint_of(signature)
    logged = signature.method == "sigstore"
    owner = next((each for each in known if each[1].is_named_by(signature)), None)
    if owner is None:
        label = one_line(hint or "no identity named") if logged else label_of(hint)
        return CheckedSignature(kind, target, hint, label, logged, None, (), _UNKNOWN[signature.method], None)
    signer, credential = owner
    wrong = credential.why_wrong(signature)
    if wrong:
        raise ReleaseError(
            f"The signature over the {kind} of {release_name(bundle)} in the name of {_who(signer, credential)} is "
            f"wrong: {wrong}.",
            hint=_COPY if signature.method == "key" else _ROOT,
        )
    possible = (target,) if target is not None else _targets(bundle)
    counts_for = tuple(each for each in possible if signer.may_sign(bundle.project, each))
    provenance = statement.predicate if counts_for and target is None else None
    name, why_not = signer.name if named else None, _why_not(signer, counts_for)
    return CheckedSignature(
        kind, target, credential.hint, credential.label, logged, name, counts_for, why_not, provenance
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


def _why_not(signer: Signer, counts_for: tuple[str, ...]) -> str:
    if counts_for:
        return ""
    if signer.revoked:
        return "its key is revoked" if signer.public_key is not None else "this identity is revoked"
    return "the policy doesn't let this signer sign it"


def _require_enough(bundle: Bundle, checked: tuple[CheckedSignature, ...], policy: Policy) -> None:
    """Raise unless every target has the signers that the policy asks for."""
    over_index = [each for each in checked if each.kind == "release index"]
    if not over_index:
        raise ReleaseError(
            f"{release_name(bundle)} isn't signed: no signature is over its index.",
            hint="`edgebuild release sign` signs it.",
        )
    for target in _targets(bundle):
        names = {each.signer or each.hint for each in over_index if target in each.counts_for}
        if len(names) >= policy.threshold:
            continue
        others = [_refused(each, target) for each in over_index if target not in each.counts_for]
        raise ReleaseError(
            f"{release_name(bundle)} isn't trusted for target {target!r}: "
            f"{'; '.join([f'{len(names)} of {policy.threshold} signers needed', *others])}.",
            hint="The policy, or the key or identity given, says who has to sign.",
        )


def _refused(signature: CheckedSignature, target: str) -> str:
    who = signature.signer or "one signature"
    why = signature.why_not or f"the policy doesn't let this signer sign for {target!r}"
    return f"{who} ({signature.label}) doesn't count: {why}"


def _unverified(targets: tuple[str, ...], checked: tuple[CheckedSignature, ...]) -> Iterator[str]:
    for each in checked:
        if not each.counts:
            yield f"the signature over the {each.over} ({each.label}): {each.why_not}"
    signed = {each.target for each in checked if each.kind == "model files" and each.counts}
    for target in targets:
        if target not in signed:
            yield f"no trusted signature is over the model files of {target!r}; the release index covers them"
    if not any(each.logged and each.counts for each in checked):
        yield "when it was signed: keys say who, and no log or timestamp was asked"


def _who(signer: Signer, credential: Credential) -> str:
    alone = credential.label in (signer.name, label_of(signer.name))
    return credential.label if alone else f"{signer.name} ({credential.label})"
