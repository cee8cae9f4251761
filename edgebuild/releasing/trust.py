"""Whom releases are believed: a policy names signers, what they may sign, and how many of them it takes.

People write TOML; boards read the same as canonical JSON (``Policy.to_json``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, Field, model_serializer

from edgebuild.catalogue.tables import MAX_BYTES, Table, collect, key_path, read_toml
from edgebuild.core.files import ABSENT, read_plain, why_not_plain
from edgebuild.core.values import canonical_json
from edgebuild.errors import ConfigError, UsageError
from edgebuild.releasing.dsse import strict_json
from edgebuild.releasing.keyless import Identity, read_json_text
from edgebuild.releasing.keys import PublicKey, public_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pydantic import SerializerFunctionWrapHandler

    from edgebuild.releasing.dsse import SignatureBundle


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("must be printable")
    return name


_Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
_Identity = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_printable)]
_Names = Annotated[tuple[_Name, ...], Field(min_length=1)]
#: What a signer is known by: a key, or an identity. Boards that know of no identities read a policy of keys alone.
_KNOWN_BY = ("public_key", "identity", "issuer", "trusted_root")
_HINT = "docs/release.md describes the file."


class Credential(Protocol):
    """What signatures in somebody's name are held against: a key, or an identity by an issuer's word."""

    @property
    def hint(self) -> str:
        """What names it in signatures."""

    @property
    def label(self) -> str:
        """It, as people are told it."""

    def is_named_by(self, signature: SignatureBundle) -> bool:
        """Whether a signature says that it is by this."""

    def why_wrong(self, signature: SignatureBundle) -> str:
        """Return why a signature isn't by this, or nothing where it is."""


class Signer(Table):
    """Somebody with a key, or whom an issuer knows. Without ``targets`` or ``projects`` every one is theirs to sign.

    ``trusted_root`` is the JSON text of the Sigstore that makes out their certificates; None: the public one.
    """

    name: _Name
    public_key: str | None = None
    identity: _Identity | None = None
    issuer: _Identity | None = None
    trusted_root: str | None = None
    targets: _Names | None = None
    projects: _Names | None = None
    revoked: bool = False

    def may_sign(self, project: str, target: str) -> bool:
        """Whether a signature of theirs counts there."""
        return (
            not self.revoked
            and (self.projects is None or project in self.projects)
            and (self.targets is None or target in self.targets)
        )

    def credential(self) -> Credential:
        """Return what their signatures are held against; raises ``ValueError`` for a key that is none."""
        if self.identity is not None and self.issuer is not None:
            return Identity(self.identity, self.issuer, self.trusted_root or "")
        return public_key((self.public_key or "").encode())

    @model_serializer(mode="wrap")
    def _without_what_is_not_theirs(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if value is not None or name not in _KNOWN_BY}


class Policy(Table):
    """Whose signatures a release needs: of ``threshold`` different names, for each of its targets.

    One name may stand several times with a key each, as while a key is replaced; it counts once.
    """

    schema_version: Literal[1]
    threshold: Annotated[int, Field(ge=1)]
    signers: Annotated[tuple[Signer, ...], Field(min_length=1, max_length=1000)]

    def credentials(self) -> tuple[tuple[Signer, Credential], ...]:
        """Return the signers, each with what their signatures are held against."""
        return tuple((signer, signer.credential()) for signer in self.signers)


def policy_of(keys: Sequence[PublicKey], identities: Sequence[Identity] = ()) -> Policy:
    """Return the policy that one signature by any of these will do."""
    by_hint = {key.hint: key for key in keys}
    signers = [Signer(name=hint, public_key=key.pem) for hint, key in by_hint.items()]
    signers += [
        Signer(name=each.label, identity=each.name, issuer=each.issuer, trusted_root=each.trusted_root or None)
        for each in identities
    ]
    return Policy(schema_version=1, threshold=1, signers=tuple(signers))


def read_policy(path: Path, trusted_root: str | None = None) -> Policy:
    """Return the policy in a TOML file, or in a JSON file where its name ends in ``.json``.

    Keys are brought into their one form. A trusted root that a signer names as a file, beside the policy, is read into
    the policy; ``trusted_root``, a JSON text, is for those that name none. Raises ``ConfigError`` with every problem.
    """
    if why_not_plain(path) == ABSENT:
        raise ConfigError(str(path), ("the file doesn't exist",), hint=_HINT)
    data = _read_json(path) if path.suffix == ".json" else read_toml(path)
    policy, problems = collect(Policy, data)
    problems += tuple(_problems_of_signers(data))
    if policy is None or problems:
        raise ConfigError(str(path), problems, hint=_HINT)
    signers = []
    for signer in policy.signers:
        try:
            signers.append(_settled(signer, path.parent, trusted_root))
        except (ValueError, RecursionError, UsageError) as error:
            problems += (f"trusted_root of {signer.name}: {error}",)
    if problems:
        raise ConfigError(str(path), problems, hint=_HINT)
    return policy.model_copy(update={"signers": tuple(signers)})


def _settled(signer: Signer, folder: Path, trusted_root: str | None) -> Signer:
    """Return a signer with their key in its one form, or with the text of the trusted root.

    Raises ``UsageError``, ``ValueError`` or ``RecursionError`` for a trusted root that can't be read.
    """
    if signer.public_key is not None:
        return signer.model_copy(update={"public_key": public_key(signer.public_key.encode()).pem})
    given = signer.trusted_root
    if given is None:
        return signer.model_copy(update={"trusted_root": trusted_root})
    is_text = given.lstrip().startswith("{")
    text = canonical_json(strict_json(given.encode())) if is_text else read_json_text(folder / given)
    return signer.model_copy(update={"trusted_root": text})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = read_plain(path, MAX_BYTES)
        if len(raw) > MAX_BYTES:
            raise ValueError("larger than 1 MiB")
        data = strict_json(raw)
        if not isinstance(data, dict):
            raise ValueError("no object")
    except OSError as error:
        raise ConfigError(str(path), (f"the file can't be read: {error.strerror or error}",), hint=_HINT) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), (f"not the JSON of a policy: {error}",), hint=_HINT) from error
    return data


def _problems_of_signers(data: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with what signers are known by, and across them. No key is quoted: it may be private."""
    listed = data.get("signers")
    signers = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    seen: dict[str | tuple[str, ...], int] = {}
    for index, signer in enumerate(signers):
        text = signer.get("public_key")
        where = key_path(("signers", index, "identity" if text is None else "public_key"), data)
        others = [signer.get(each) is not None for each in ("identity", "issuer", "trusted_root")]
        if any(others) if text is not None else not all(others[:2]):
            yield f"{key_path(('signers', index), data)}: needs a public_key, or an identity with its issuer"
            continue
        try:
            known_by = (
                (str(signer["identity"]), str(signer["issuer"]))
                if text is None
                else public_key(str(text).encode()).hint
            )
        except ValueError as error:
            if isinstance(text, str):
                yield f"{where}: {error}"
            continue
        if known_by in seen:
            what = "identity" if text is None else "key"
            yield f"{where}: is the {what} of signer #{seen[known_by] + 1} too; each stands once"
        seen.setdefault(known_by, index)
    names = {str(each.get("name")) for each in signers if each.get("revoked") is not True}
    threshold = data.get("threshold")
    if signers and isinstance(threshold, int) and threshold > len(names):
        yield f"threshold: {threshold} signers are asked for, the file names {len(names)} that aren't revoked"
