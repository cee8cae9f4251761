"""Keyless signing that comes to nothing: every way ends in one sentence, and nothing is stored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgebuild.cli.trusting import Asked, sign_bundle
from edgebuild.errors import EdgebuildError, EnvironmentGap, UsageError
from edgebuild.releasing.dsse import parse_bundle
from edgebuild.releasing.keyless import Identity, KeylessSigner, hint_of, keyless_signer
from edgebuild.releasing.signing import sign
from edgebuild.releasing.trust import policy_of
from edgebuild.releasing.verifying import verify
from tests.releasing.bundles import PROVENANCE
from tests.releasing.keyless.client import signer, statement, unplug
from tests.releasing.keyless.pretend_sigstore import ALICE, ISSUER, PretendSigstore

BOB = "https://ci.example/doors/release.yml@refs/heads/main"


@pytest.mark.parametrize(
    ("claims", "match"),
    [
        ({"valid_s": -60}, r"^The identity token has expired\.$"),
        ({"aud": "somebody"}, r"^The identity token can't be used: Identity token is malformed"),
        ({"issuer": "https://unknown.example"}, r"^Sigstore refused, with HTTP 401: .*unknown issuer"),
    ],
)
def test_a_token_that_wont_do_is_the_users_to_change(
    claims: dict[str, Any], match: str, pretend: PretendSigstore, url: str
) -> None:
    with pytest.raises(UsageError, match=match):
        keyless_signer(pretend.token(**claims), json.dumps(pretend.trust_config(url)))
    with pytest.raises(UsageError, match="can't be used"):
        keyless_signer("no token", json.dumps(pretend.trust_config(url)))


def test_without_a_token_the_surroundings_are_asked(
    pretend: PretendSigstore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.dumps(pretend.trust_config(url))
    monkeypatch.setattr("sigstore.oidc.detect_credential", lambda: None)
    with pytest.raises(UsageError, match=r"^There is no identity token, and so nobody to sign as\.$") as caught:
        keyless_signer(None, config)
    assert "SIGSTORE_ID_TOKEN" in caught.value.hint
    monkeypatch.setattr("sigstore.oidc.detect_credential", lambda: pretend.token(BOB))
    data = keyless_signer(None, config).bundle(
        b'{"_type":"https://in-toto.io/Statement/v1","predicateType":"x",'
        b'"subject":[{"name":"x","digest":{"sha256":"ab"}}],"predicate":{}}'
    )
    assert hint_of(parse_bundle(data)) == f"{BOB} ({ISSUER})"


@pytest.mark.parametrize(
    ("path", "answer", "kind", "match"),
    [
        ("/api/v2/signingCert", (503, b"busy"), EnvironmentGap, "can't be reached: 503"),
        ("/api/v2/signingCert", (429, b"slowly"), EnvironmentGap, "can't be reached: 429"),
        ("/api/v2/signingCert", (403, b"no"), UsageError, "refused, with HTTP 403: no"),
        ("/api/v2/signingCert", (200, b"{}"), EnvironmentGap, "can't be used: "),
        ("/api/v2/signingCert", (200, b"<html>"), EnvironmentGap, "can't be "),
        ("/api/v1/log/entries", (500, b"{}"), EnvironmentGap, "can't be reached: 500"),
        ("/api/v1/log/entries", (400, b'{"code":400,"message":"no"}'), UsageError, "refused, with HTTP 400"),
        ("/api/v1/log/entries", (201, b"[]"), EnvironmentGap, "can't be used: "),
    ],
)
def test_what_a_sigstore_answers_instead_is_a_sentence(
    path: str,
    answer: tuple[int, bytes],
    kind: type[EdgebuildError],
    match: str,
    bundle: Path,
    pretend: PretendSigstore,
    url: str,
) -> None:
    before = shutil.copytree(bundle, bundle.parent / "before")
    pretend.instead[path] = answer
    with pytest.raises(kind, match=match) as caught:
        sign(bundle, signer(pretend, url), provenance=PROVENANCE)
    assert "\n" not in caught.value.message
    assert not any(token in str(caught.value) for token in pretend.tokens)
    assert _files(bundle) == _files(before), "nothing was signed"


def _files(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_a_log_that_signs_with_another_key_is_found_while_signing(
    bundle: Path, pretend: PretendSigstore, url: str
) -> None:
    lying = signer(pretend, url)
    pretend.log = PretendSigstore().log
    with pytest.raises(EnvironmentGap, match="What Sigstore answered is no signature by its trusted root: "):
        lying.bundle(statement(bundle))


def test_without_a_network_nothing_is_signed(
    pretend: PretendSigstore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unplug(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for config in (None, json.dumps(pretend.trust_config("http://127.0.0.1:9"))):
        with pytest.raises(EnvironmentGap, match=r"^Sigstore can't be reached: ") as caught:
            keyless_signer(pretend.token(), config)
        assert caught.value.hint == "Keyless signing needs a network; `--key` signs without one."


def test_a_home_that_cant_be_written_is_told(
    pretend: PretendSigstore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(EnvironmentGap, match=r"This machine stops it: .*Not a directory"):
        keyless_signer(pretend.token())


def test_a_configuration_that_is_none_is_a_sentence(bundle: Path, pretend: PretendSigstore, url: str) -> None:
    for text in ("{}", json.dumps(pretend.trusted_root())):
        with pytest.raises(UsageError, match="The trust configuration is none of Sigstore's"):
            keyless_signer(pretend.token(), text)
    sign(bundle, signer(pretend, url), provenance=PROVENANCE)
    empty = {**pretend.trusted_root(), "tlogs": []}
    for root in ("{}", json.dumps(empty), json.dumps(pretend.trust_config(url))):
        with pytest.raises(UsageError, match="The trusted root is none that Sigstore could be verified by"):
            verify(bundle, policy=policy_of([], [Identity(ALICE, ISSUER, root)]))


def test_a_token_that_expires_between_is_told(pretend: PretendSigstore, url: str, bundle: Path) -> None:
    from sigstore.oidc import ExpiredIdentity

    class Expired:
        def sign_dsse(self, _: object) -> None:
            raise ExpiredIdentity

    late = KeylessSigner(Expired(), signer(pretend, url)._verifier)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="has expired"):
        late.bundle(statement(bundle))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(identity="alice"), "An identity and its issuer are given together, as printable text."),
        (Asked(identity="", issuer="x"), "An identity and its issuer are given together, as printable text."),
        (Asked(identity="a\nb", issuer="x"), "An identity and its issuer are given together, as printable text."),
        (Asked(trusted_root=Path("x")), "A trusted root is for keyless signatures."),
        (Asked(policy=Path("x"), keys=(Path("x"),)), "A policy says by itself whose signatures are asked for."),
        (Asked(policy=Path("x"), identity="a", issuer="b"), "A policy says by itself whose signatures are asked for."),
        (Asked(identity="a", issuer="b", trusted_root=Path("no/x")), "no/x can't be read: No such file or directory."),
    ],
)
def test_whose_signatures_are_asked_for_is_said_once(asked: Asked, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked.read()
    assert caught.value.message == message


def test_a_release_is_signed_by_a_key_or_keyless(bundle: Path) -> None:
    key = bundle.parent / "team.key"
    for given, keyless, token in ((None, False, None), (key, True, None), (key, False, "token")):
        with pytest.raises(UsageError, match="A release is signed by a key, or keyless"):
            sign_bundle(bundle, given, keyless=keyless, token=token, trust_config=None)
