"""Who is believed: every kind of key, policies, and signatures that were stripped, swapped, forged or replayed."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.core.values import canonical_json
from edgebuild.releasing.board.signatures import pre_authentication

from .bundles import CURVES, Key, make_key, tiny
from .script import verify
from .test_reading import rewritten

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Key]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: make_key(folder, name) for name in ("anna", "ben", "mallory")}


def signer(name: str, key: Key, **fields: Any) -> dict[str, Any]:
    return {"name": name, "public_key": key.public.read_text(), **fields}


def policy(folder: Path, threshold: int, *signers: dict[str, Any]) -> Path:
    path = folder / "trust.json"
    path.write_text(json.dumps({"schema_version": 1, "threshold": threshold, "signers": signers}))
    return path


@pytest.mark.parametrize("kind", [*CURVES, "ED25519"])
def test_every_kind_of_key_signs_the_index_and_the_files(tmp_path: Path, kind: str) -> None:
    key = make_key(tmp_path, "team", kind)
    bundle = tiny(tmp_path / "bundle", by=(key,), files_by=(key,))
    ended = verify(tmp_path, "check", bundle, "--no-run", "--key", key.public, "--files")
    assert ended.code == 0, ended
    who = [{"name": str(key.public), "key": key.hint}]
    assert ended.report["signed"] == {"pi": {"index": who, "files": who}}


def test_one_of_several_keys_is_enough_and_others_do_no_harm(tmp_path: Path, keys: dict[str, Key]) -> None:
    bundle = tiny(tmp_path / "bundle", by=(keys["mallory"], keys["anna"]))
    words = ("--key", keys["ben"].public, "--key", keys["anna"].public)
    ended = verify(tmp_path, "check", bundle, "--no-run", *words)
    assert ended.code == 0
    assert [each["key"] for each in ended.report["signed"]["pi"]["index"]] == [keys["anna"].hint]


def test_what_is_not_signed_by_the_key_is_refused(tmp_path: Path, keys: dict[str, Key]) -> None:
    anna = ("--no-run", "--key", keys["anna"].public)
    ended = verify(tmp_path, "check", tiny(tmp_path / "unsigned"), *anna)
    assert (ended.code, "isn't signed, and a signature is asked for" in ended.message) == (7, True)
    ended = verify(tmp_path, "check", tiny(tmp_path / "other", by=(keys["mallory"],)), *anna)
    assert (ended.code, ended.message) == (7, "None of the asked signers signed the release index, 1 must have.")
    ended = verify(tmp_path, "check", tiny(tmp_path / "files", files_by=(keys["anna"],)), *anna)
    assert (ended.code, ended.message) == (7, "None of the asked signers signed the release index, 1 must have.")
    ended = verify(tmp_path, "check", tiny(tmp_path / "index", by=(keys["anna"],)), *anna, "--files")
    assert (ended.code, "signed the files of target pi, 1 must have" in ended.message) == (7, True)


def test_signatures_that_were_stripped_or_come_from_another_release_are_refused(
    tmp_path: Path, keys: dict[str, Key]
) -> None:
    anna = ("--no-run", "--key", keys["anna"].public)
    old = tiny(tmp_path / "old", by=(keys["anna"],))
    index = json.loads((old / "index.json").read_bytes())
    stripped = tiny(tmp_path / "stripped")
    assert verify(tmp_path, "check", stripped, *anna).code == 7
    moved = tiny(tmp_path / "moved", by=(keys["anna"],), subject="1" * 64)
    ended = verify(tmp_path, "check", moved, *anna)
    assert (ended.code, "signed another release" in ended.message) == (7, True)
    index["manifests"] = index["manifests"][:1]
    (old / "index.json").write_text(canonical_json(index))
    ended = verify(tmp_path, "check", old, *anna)
    assert (ended.code, "belongs to no part of the bundle" in ended.message) == (7, True)


def test_a_signature_over_the_files_is_none_over_the_index(tmp_path: Path, keys: dict[str, Key]) -> None:
    """The manifest of a signature isn't signed: whoever moves one to another subject gains nothing."""
    bundle = tiny(tmp_path / "bundle", files_by=(keys["anna"],))
    index = json.loads((bundle / "index.json").read_bytes())["manifests"][0]
    subject = {name: index[name] for name in ("mediaType", "digest", "size")}
    rewritten(bundle, lambda value: value.update(subject=subject), 1)
    ended = verify(tmp_path, "check", bundle, "--no-run", "--key", keys["anna"].public)
    assert (ended.code, "signed another release" in ended.message) == (7, True)


@pytest.mark.parametrize(
    "change",
    [
        {"payload": "e30="},
        {"payload": "!"},
        {"payloadType": "text/plain"},
        {"signatures": []},
        {"signatures": [{"sig": "AAAA"}]},
        {"signatures": [{"sig": 1}]},
        {"signatures": None},
    ],
)
def test_an_envelope_that_was_forged_is_refused(tmp_path: Path, keys: dict[str, Key], change: dict[str, Any]) -> None:
    def forge(data: bytes) -> bytes:
        value = json.loads(data)
        value["dsseEnvelope"].update(change)
        return json.dumps(value).encode()

    bundle = tiny(tmp_path / "bundle", by=(keys["anna"],), forge=forge)
    ended = verify(tmp_path, "check", bundle, "--no-run", "--key", keys["anna"].public)
    assert ended.code == 7
    assert "is wrong" in ended.message or "can't be read" in ended.message


@pytest.mark.parametrize(
    "material",
    [
        {"publicKey": {"hint": "zz", "rawBytes": [1]}},
        {"publicKey": {"hint": ["a"], "rawBytes": {"a": 1}}},
        {"publicKey": {"hint": {}, "rawBytes": None}},
        {"publicKey": [[]]},
    ],
)
def test_a_signature_that_names_its_key_strangely_counts_for_nothing(
    tmp_path: Path, keys: dict[str, Key], material: Any
) -> None:
    def forge(data: bytes) -> bytes:
        return json.dumps({**json.loads(data), "verificationMaterial": material}).encode()

    bundle = tiny(tmp_path / "bundle", by=(keys["anna"],), forge=forge)
    ended = verify(tmp_path, "check", bundle, "--no-run", "--key", keys["anna"].public)
    assert (ended.code, ended.message) == (7, "None of the asked signers signed the release index, 1 must have.")


@pytest.mark.parametrize("certificate", [{"rawBytes": "TUZr"}, {"rawBytes": {"a": 1}}, None])
def test_a_keyless_signature_counts_for_nothing_and_that_is_told(
    tmp_path: Path, keys: dict[str, Key], certificate: Any
) -> None:
    def keyless(data: bytes) -> bytes:
        return json.dumps({**json.loads(data), "verificationMaterial": {"certificate": certificate}}).encode()

    why = "a keyless signature, by a certificate, isn't checked on a device and counts for nothing here"
    bundle = tiny(tmp_path / "bundle", by=(keys["anna"],), forge=keyless)
    ended = verify(tmp_path, "check", bundle, "--no-run", "--key", keys["anna"].public)
    expected = f"None of the asked signers signed the release index, 1 must have; {why}."
    assert (ended.code, ended.message) == (7, expected)


def test_a_policy_may_name_identities_which_count_for_nothing(tmp_path: Path, keys: dict[str, Key]) -> None:
    why = "a keyless signature, by a certificate, isn't checked on a device and counts for nothing here"
    bundle = tiny(tmp_path / "bundle", by=(keys["anna"],))
    alice = {"name": "alice", "identity": "alice@example.org", "issuer": "https://issuer.example"}
    words = ("check", bundle, "--no-run", "--policy")
    ended = verify(tmp_path, *words, policy(tmp_path, 1, {**alice, "trusted_root": "{}"}, signer("anna", keys["anna"])))
    assert (ended.code, [each["name"] for each in ended.report["signed"]["pi"]["index"]]) == (0, ["anna"])
    assert ended.report["warnings"].count(why) == 1
    ended = verify(tmp_path, *words, policy(tmp_path, 2, alice, signer("anna", keys["anna"])))
    assert (ended.code, ended.message) == (7, f"1 of the asked signers signed the release index, 2 must have; {why}.")
    ended = verify(tmp_path, *words, policy(tmp_path, 1, alice))
    assert (ended.code, why in ended.message) == (7, True)
    for odd in ({"issuer": 1}, {"public_key": "x"}, {"name": ""}, {"trust": ""}):
        assert verify(tmp_path, *words, policy(tmp_path, 1, {**alice, **odd})).code == 2
    del alice["issuer"]
    assert verify(tmp_path, *words, policy(tmp_path, 1, alice)).code == 2


def test_the_policy_says_who_and_how_many(tmp_path: Path, keys: dict[str, Key]) -> None:
    bundle = tiny(tmp_path / "bundle", by=(keys["anna"], keys["ben"]))
    anna, ben = signer("anna", keys["anna"]), signer("ben", keys["ben"])

    def code(threshold: int, *signers: dict[str, Any]) -> tuple[int, str]:
        ended = verify(tmp_path, "check", bundle, "--no-run", "--policy", policy(tmp_path, threshold, *signers))
        return ended.code, ended.message

    assert code(1, anna)[0] == code(2, anna, ben)[0] == code(2, {**anna, "targets": ["pi"]}, ben)[0] == 0
    assert code(1, signer("mallory", keys["mallory"]))[0] == 7
    assert code(2, anna)[0] == 7
    for change, why in (
        ({"revoked": True}, "revoked"),
        ({"targets": ["jetson"]}, "not for target pi"),
        ({"projects": ["windows"]}, "not for project doors"),
    ):
        refused, message = code(2, anna, {**ben, **change})
        assert (refused, f"of no account: ben ({why})" in message) == (7, True), message
    assert code(2, anna, {**ben, "name": "anna"})[0] == 7, "two keys of one signer are one signer"
    assert code(2, anna, {**anna, "name": "anna's other name"})[0] == 7, "one key under two names is one signer"
    assert code(1, {**anna, "revoked": True}, {**ben, "name": "anna"})[0] == 0, "an old key of a signer, and a new one"


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0},
        {"threshold": True},
        {"threshold": "1"},
        {"signers": []},
        {"signers": [{"name": "anna"}]},
        {"signers": [{"name": "anna", "public_key": "x"}]},
        {"signers": ["anna"]},
        {"schema_version": 2},
        {"treshold": 3},
    ],
)
def test_a_policy_that_is_not_understood_is_refused(tmp_path: Path, keys: dict[str, Key], change: Any) -> None:
    path = policy(tmp_path, 1, signer("anna", keys["anna"]))
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    ended = verify(tmp_path, "check", tiny(tmp_path / "bundle", by=(keys["anna"],)), "--no-run", "--policy", path)
    assert ended.code == 2, ended


def test_a_key_that_is_none_is_a_sentence(tmp_path: Path, keys: dict[str, Key]) -> None:
    bundle = tiny(tmp_path / "bundle", by=(keys["anna"],))
    rsa = make_key(tmp_path, "rsa", "RSA")
    for path in (tmp_path / "none.pub", keys["anna"].private, rsa.public):
        assert verify(tmp_path, "check", bundle, "--no-run", "--key", path).code == 2
    assert verify(tmp_path, "check", bundle, "--no-run", "--files").code == 2


def test_without_openssl_a_key_is_no_use(tmp_path: Path, keys: dict[str, Key], monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tiny(tmp_path / "bundle", by=(keys["anna"],))
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    ended = verify(tmp_path, "check", bundle, "--no-run", "--key", keys["anna"].public)
    assert (ended.code, ended.message) == (6, "There is no openssl here, and so no signature can be verified.")
    assert verify(tmp_path, "check", bundle, "--no-run").code == 0


def test_an_openssl_that_is_too_old_for_a_key_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL 1.1.1, as JetPack 5 has it, verifies EC keys but can't be asked about Ed25519."""
    old = tmp_path / "bin" / "openssl"
    old.parent.mkdir()
    real = shutil.which("openssl")
    old.write_text(f'#!/bin/sh\n[ "$1" = version ] && echo "OpenSSL 1.1.1f  31 Mar 2020" || exec {real} "$@"\n')
    old.chmod(0o755)
    keys = {kind: make_key(tmp_path, kind, kind) for kind in ("P-384", "ED25519")}
    bundle = tiny(tmp_path / "bundle", by=tuple(keys.values()))
    monkeypatch.setenv("PATH", f"{old.parent}:{os.environ['PATH']}")
    ended = verify(tmp_path, "check", bundle, "--no-run", "--key", keys["ED25519"].public)
    assert (ended.code, ended.message.startswith("The openssl here can't verify signatures by Ed25519")) == (6, True)
    assert verify(tmp_path, "check", bundle, "--no-run", "--key", keys["P-384"].public).code == 0


def test_what_is_signed_is_what_dsse_says() -> None:
    start = b"DSSEv1 28 application/vnd.in-toto+json 5 "
    assert pre_authentication(b"hello") == start + b"hello"
