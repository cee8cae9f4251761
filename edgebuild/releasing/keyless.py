"""Signatures without a key of one's own, by Sigstore.

An issuer (OIDC) says who somebody is, Sigstore makes out a certificate for some minutes in that name, and a public log
notes the signature. Signing needs a network. Verifying needs none: a *trusted root* holds the certificates and the
logs' keys that are believed.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from edgebuild.core.files import read_plain
from edgebuild.core.values import canonical_json
from edgebuild.errors import EdgebuildError, EnvironmentGap, UsageError
from edgebuild.releasing.dsse import PAYLOAD_TYPE, parse_bundle, strict_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cryptography import x509
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import Signer
    from sigstore.verify import Verifier

    from edgebuild.releasing.dsse import SignatureBundle

#: Sigstore's own file of this kind has 6 kB.
MAX_ROOT_BYTES = 256 << 10
#: Sigstore's have 1 to 2 kB.
MAX_CERTIFICATE_BYTES = 64 << 10
#: The name of the issuer in a certificate, as Fulcio writes it and `sigstore` reads it.
_ISSUER = "1.3.6.1.4.1.57264.1.1"
#: An identity of a kind that has no form of its own in certificates, such as a user's name.
_OTHER_NAME = "1.3.6.1.4.1.57264.1.7"
_TOKEN = "SIGSTORE_ID_TOKEN, --identity-token or a CI job that may ask for one (GitHub: id-token: write) brings it."  # noqa: S105
_OUT_OF_REACH = "Keyless signing needs a network; `--key` signs without one."
_NO_LONGER = {408, 429}
_MAX_SAID = 200


@dataclass(frozen=True)
class Claim:
    """Whom a certificate says that it is for. Nobody has checked it yet."""

    names: frozenset[str]
    issuer: str

    def __str__(self) -> str:
        return f"{', '.join(sorted(self.names))} ({self.issuer})"


@dataclass(frozen=True)
class Identity:
    """Somebody, by the word of an issuer, whose signatures are held against ``trusted_root``.

    ``trusted_root`` is the JSON text of a Sigstore's; empty is the public one's, as the installed package knows it.
    """

    name: str
    issuer: str
    trusted_root: str = ""

    @property
    def hint(self) -> str:
        """The identity, as signatures are told apart by it."""
        return f"{self.name} ({self.issuer})"

    @property
    def label(self) -> str:
        """The identity, as people are told it."""
        return one_line(self.hint)

    def is_named_by(self, signature: SignatureBundle) -> bool:
        """Whether a signature says that it is this identity's."""
        claim = _claim_of(signature)
        return claim is not None and self.name in claim.names and self.issuer == claim.issuer

    def why_wrong(self, signature: SignatureBundle) -> str:
        """Return why a signature isn't this identity's, or nothing where it is. No network is asked.

        It has to be over what it holds, by a certificate of the trusted root that was valid when the log, or a
        timestamp, says; the certificate and the signature have to stand in the trusted root's logs. Raises
        ``EnvironmentGap`` without `sigstore`, and ``UsageError`` where the trusted root is none.
        """
        return _why_wrong(_verifier(self.trusted_root), signature, self.name, self.issuer)


class KeylessSigner:
    """Signs in the name of whom an issuer vouches for, by the Sigstore that it was made with.

    The same certificate does for all that is signed in the minutes for which it is valid.
    """

    def __init__(self, signer: Signer, verifier: Verifier) -> None:
        self._signer = signer
        self._verifier = verifier

    def bundle(self, payload: bytes) -> bytes:
        """Return the Sigstore bundle, in canonical JSON, of a payload: signed, noted in the log and verified.

        Raises ``EnvironmentGap`` where Sigstore is out of reach, or answers what its own trusted root doesn't bear
        out, and ``UsageError`` where it refuses.
        """
        from sigstore.dsse import Statement

        with _told():
            made = self._signer.sign_dsse(Statement(payload))
        signature = parse_bundle(canonical_json(json.loads(made.to_json())).encode())
        claim = _claim_of(signature)
        wrong = _why_wrong(self._verifier, signature, min(claim.names), claim.issuer) if claim else "it names nobody"
        if wrong:
            raise EnvironmentGap(
                f"What Sigstore answered is no signature by its trusted root: {wrong}.", hint="Nothing was signed."
            )
        return signature.data


def keyless_signer(token: str | None, trust_config: str | None = None) -> KeylessSigner:
    """Return a signer for whom a token vouches, or what the CI job vouches for that runs this.

    ``trust_config`` is the JSON text of a Sigstore's configuration for clients; without it the public one's is asked
    for. A certificate is asked for at once. Raises ``EnvironmentGap`` without `sigstore` or out of the network's reach,
    and ``UsageError`` for a token or a configuration that is none, has expired or is refused.
    """
    _require_sigstore()
    from sigstore.sign import Signer, SigningContext
    from sigstore.verify import Verifier

    identity = _identity_token(token)
    with _told():
        config = _trust_config(trust_config)
        signer = Signer(identity, SigningContext.from_trust_config(config))
        return KeylessSigner(signer, Verifier(trusted_root=config.trusted_root))


def hint_of(signature: SignatureBundle) -> str | None:
    """Return whom a signature says that it is by: a key's hint, or an identity and its issuer. None: it doesn't say."""
    claim = _claim_of(signature)
    return signature.hint if claim is None else str(claim)


def read_json_text(path: Path) -> str:
    """Return a trusted root, or a configuration for clients, as canonical JSON; raises ``UsageError``.

    What it says is looked at when it is used, since `sigstore` alone knows its form.
    """
    try:
        data = read_plain(path, MAX_ROOT_BYTES)
        if len(data) > MAX_ROOT_BYTES:
            raise ValueError("it is larger than any is")
        return canonical_json(strict_json(data))
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON of Sigstore's: {one_line(str(error))}.") from error


def one_line(text: str) -> str:
    """Return a text as the end of a sentence: one line, of a length that people read, without what pydantic quotes."""
    line = " ".join(text.partition(" [type=")[0].split()).rstrip(".")
    return line if len(line) <= _MAX_SAID else f"{line[: _MAX_SAID - 1]}…"


def _claim_of(signature: SignatureBundle) -> Claim | None:
    certificate = signature.certificate
    return None if certificate is None or len(certificate) > MAX_CERTIFICATE_BYTES else _claim_in(certificate)


@lru_cache(maxsize=64)
def _claim_in(certificate: bytes) -> Claim | None:
    """Return whom a certificate in DER names; None where it can't be read or names nobody."""
    from cryptography import x509

    try:
        extensions = x509.load_der_x509_certificate(certificate).extensions
        given = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        issuer: Any = extensions.get_extension_for_oid(x509.ObjectIdentifier(_ISSUER)).value
        others = [each.value.decode() for each in given.get_values_for_type(x509.OtherName) if _is_name(each)]
        names = given.get_values_for_type(x509.RFC822Name) + given.get_values_for_type(x509.UniformResourceIdentifier)
        return Claim(frozenset([*names, *others]), issuer.value.decode()) if [*names, *others] else None
    except Exception:  # noqa: BLE001 - a stranger's bytes; the library raises many kinds, some of its own
        return None


def _is_name(name: x509.OtherName) -> bool:
    return name.type_id.dotted_string == _OTHER_NAME


def _why_wrong(verifier: Verifier, signature: SignatureBundle, name: str, issuer: str) -> str:
    from sigstore.models import Bundle
    from sigstore.verify import policy

    try:
        found = verifier.verify_dsse(Bundle.from_json(signature.data), policy.Identity(identity=name, issuer=issuer))
    except Exception as error:  # noqa: BLE001 - a stranger's bytes; the library raises whatever its insides raise
        return one_line(str(error) or type(error).__name__)
    return "" if found == (PAYLOAD_TYPE, signature.payload) else "it is over something else"


@lru_cache(maxsize=16)
def _verifier(trusted_root: str) -> Verifier:
    _require_sigstore()
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier
    from sigstore_models.trustroot import v1

    try:
        return Verifier(trusted_root=TrustedRoot(v1.TrustedRoot.from_json(trusted_root or _public_root())))
    except Exception as error:
        what = one_line(str(error) or type(error).__name__)
        raise UsageError(f"The trusted root is none that Sigstore could be verified by: {what}.") from error


def _public_root() -> str:
    """Return the trusted root in the installed package.

    Not the one that `sigstore` keeps in the user's cache: without a network nothing verifies that, and it stays behind
    when the package is brought up to date.
    """
    from sigstore._internal.tuf import DEFAULT_TUF_URL
    from sigstore._utils import read_embedded

    return read_embedded("trusted_root.json", DEFAULT_TUF_URL).decode()


def _trust_config(text: str | None) -> ClientTrustConfig:
    from sigstore.models import ClientTrustConfig

    if text is None:
        return ClientTrustConfig.production()
    try:
        return ClientTrustConfig.from_json(text)
    except ValueError as error:
        raise UsageError(f"The trust configuration is none of Sigstore's: {one_line(str(error))}.") from error


def _identity_token(token: str | None) -> IdentityToken:
    import jwt
    from sigstore.oidc import IdentityError, IdentityToken, detect_credential

    try:
        found = token or detect_credential()
        if not found:
            raise UsageError("There is no identity token, and so nobody to sign as.", hint=_TOKEN)
        return IdentityToken(found)
    except IdentityError as error:
        over = isinstance(error.__cause__, jwt.ExpiredSignatureError)
        why = "has expired" if over else f"can't be used: {one_line(str(error))}"
        raise UsageError(f"The identity token {why}.", hint=_TOKEN) from error


@contextmanager
def _told() -> Iterator[None]:
    """Turn what goes wrong while signing into one sentence."""
    try:
        yield
    except EdgebuildError:
        raise
    except Exception as error:
        raise _in_words(error) from error


def _in_words(error: Exception) -> EdgebuildError:
    import requests
    from sigstore.errors import NetworkError, TUFError
    from sigstore.oidc import ExpiredIdentity

    why = one_line(str(error) or type(error).__name__)
    if isinstance(error, ExpiredIdentity):
        return UsageError("The identity token has expired.", hint=_TOKEN)
    chain = (error, error.__cause__, error.__context__)
    network = next((each for each in chain if isinstance(each, requests.RequestException)), None)
    answer = network.response if network is not None else None
    if answer is not None and 400 <= answer.status_code < 500 and answer.status_code not in _NO_LONGER:
        said = one_line(answer.text)
        hint = "Is the token still valid, and for this Sigstore?"
        return UsageError(f"Sigstore refused, with HTTP {answer.status_code}: {said}.", hint=hint)
    if isinstance(error, TUFError) and error.__cause__ is not None:
        why = one_line(f"{why}: {error.__cause__}")
    if network is not None or isinstance(error, NetworkError | TUFError):
        return EnvironmentGap(f"Sigstore can't be reached: {one_line(str(network or why))}.", hint=_OUT_OF_REACH)
    if isinstance(error, OSError):
        return EnvironmentGap(f"This machine stops it: {why}.", hint="Sigstore's client keeps files in your home.")
    return EnvironmentGap(f"What Sigstore answered can't be used: {why}.", hint="Nothing was signed.")


def _require_sigstore() -> None:
    try:
        import sigstore.models  # noqa: F401
    except ImportError as error:
        raise EnvironmentGap("sigstore is not installed.", hint="pip install 'edgebuild[sigstore]'") from error
