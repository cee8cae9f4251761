"""Whom releases are believed: a policy names signers, what they may sign, and how many of them it takes.

People write TOML; boards read the same as canonical JSON (``Policy.to_json``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from edgebuild.catalogue.tables import MAX_BYTES, Table, collect, key_path, read_toml
from edgebuild.core.files import ABSENT, read_plain, why_not_plain
from edgebuild.errors import ConfigError
from edgebuild.releasing.dsse import strict_json
from edgebuild.releasing.keys import PublicKey, public_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("must be printable")
    return name


_Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
_Names = Annotated[tuple[_Name, ...], Field(min_length=1)]
_HINT = "docs/release.md describes the file."


class Signer(Table):
    """Somebody with a key. Without ``targets`` or ``projects`` every one of them is theirs to sign."""

    name: _Name
    public_key: str
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


class Policy(Table):
    """Whose signatures a release needs: of ``threshold`` different names, for each of its targets.

    One name may stand several times with a key each, as while a key is replaced; it counts once.
    """

    schema_version: Literal[1]
    threshold: Annotated[int, Field(ge=1)]
    signers: Annotated[tuple[Signer, ...], Field(min_length=1, max_length=1000)]

    def by_hint(self) -> dict[str, tuple[Signer, PublicKey]]:
        """Return signers and their keys by the keys' hints."""
        keys = [(signer, public_key(signer.public_key.encode())) for signer in self.signers]
        return {key.hint: (signer, key) for signer, key in keys}


def policy_of(keys: Sequence[PublicKey]) -> Policy:
    """Return the policy that one signature by any of these keys will do."""
    by_hint = {key.hint: key for key in keys}
    signers = tuple(Signer(name=hint, public_key=key.pem) for hint, key in by_hint.items())
    return Policy(schema_version=1, threshold=1, signers=signers)


def read_policy(path: Path) -> Policy:
    """Return the policy in a TOML file, or in a JSON file where its name ends in ``.json``.

    Keys are brought into their one form. Raises ``ConfigError`` with every problem of the file.
    """
    if why_not_plain(path) == ABSENT:
        raise ConfigError(str(path), ("the file doesn't exist",), hint=_HINT)
    data = _read_json(path) if path.suffix == ".json" else read_toml(path)
    policy, problems = collect(Policy, data)
    problems += tuple(_problems_of_keys(data))
    if policy is None or problems:
        raise ConfigError(str(path), problems, hint=_HINT)
    signers = tuple(
        signer.model_copy(update={"public_key": public_key(signer.public_key.encode()).pem})
        for signer in policy.signers
    )
    return policy.model_copy(update={"signers": signers})


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


def _problems_of_keys(data: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with keys and across signers. No key is quoted: it may be a private one."""
    listed = data.get("signers")
    signers = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    seen: dict[str, int] = {}
    for index, signer in enumerate(signers):
        text = signer.get("public_key")
        if not isinstance(text, str):
            continue
        where = key_path(("signers", index, "public_key"), data)
        try:
            hint = public_key(text.encode()).hint
        except ValueError as error:
            yield f"{where}: {error}"
            continue
        if hint in seen:
            yield f"{where}: is the key of signer #{seen[hint] + 1} too; a key stands once"
        seen.setdefault(hint, index)
    names = {str(each.get("name")) for each in signers if each.get("revoked") is not True}
    threshold = data.get("threshold")
    if signers and isinstance(threshold, int) and threshold > len(names):
        yield f"threshold: {threshold} signers are asked for, the file names {len(names)} that aren't revoked"
