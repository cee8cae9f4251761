"""A release that a gate held up, and that somebody lets pass: with a reason, which it carries from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from edgebuild.core.values import Value
from edgebuild.errors import ReleaseError, UsageError
from edgebuild.releasing.bundle import read_bundle
from edgebuild.releasing.changing import alone, store
from edgebuild.releasing.layout import VERSION_NAME, Index, descriptor_of, oci_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.releasing.layout import Descriptor

#: The annotation of a release index that holds an override: so it is signed with the release.
OVERRIDE = "dev.edgebuild.gate.override"
MAX_REASON_CHARACTERS = 500
_HINT = "Write a line that says why, of up to 500 characters."


class Override(Value):
    """What a gate found against a release, and why it may follow all the same.

    ``against`` is the version of the release that it was compared with, ``index`` the digest of that release's index;
    ``figures`` are those that were worse or open, in words.
    """

    against: str
    index: str
    figures: tuple[str, ...] = Field(min_length=1, max_length=1000)
    reason: str = Field(min_length=1, max_length=MAX_REASON_CHARACTERS)

    @property
    def text(self) -> str:
        """What is shown of it wherever the release is."""
        return f"the gate against {self.against} was overridden ({'; '.join(self.figures)}): {self.reason}"


def require_reason(reason: str) -> str:
    """Return a reason that can be stored and shown; raises ``UsageError``."""
    plain = reason.strip()
    if not 0 < len(plain) <= MAX_REASON_CHARACTERS or not plain.isprintable():
        raise UsageError("An override needs a written reason.", hint=_HINT)
    return plain


def override_of(index: Index) -> Override | None:
    """Return the override that a release carries; raises ``ReleaseError`` for one that can't be read."""
    text = index.annotations.get(OVERRIDE)
    if text is None:
        return None
    try:
        found = Override.model_validate_json(text, strict=True)
    except (ValidationError, RecursionError) as error:
        raise ReleaseError("The override of this release's gate can't be read.") from error
    if found.to_json() != text or not found.text.isprintable():
        raise ReleaseError("The override of this release's gate is not what was written.")
    return found


def require_unsigned(folder: Path) -> None:
    """Raise ``UsageError`` for a bundle that is signed: an override becomes a part of what is signed."""
    if read_bundle(folder).signatures:
        raise UsageError(
            f"{folder} is signed, and an override would make another release of it.",
            hint="Create it again under the next version, run the gate with --override, and sign it then.",
        )


def store_override(folder: Path, override: Override) -> Descriptor:
    """Write an override into a bundle that nobody signed yet; return the release index, which is another one now."""
    with alone(folder):
        require_unsigned(folder)
        bundle = read_bundle(folder)
        index = Index(
            manifests=bundle.index.manifests, annotations={**bundle.index.annotations, OVERRIDE: override.to_json()}
        )
        data = oci_bytes(index)
        listed = descriptor_of(data, index.mediaType, annotations={VERSION_NAME: bundle.version})
        store(folder, [data], [listed])
    return listed
