"""Trust policies: read from TOML and JSON, with every problem of a file at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from edgebuild.errors import ConfigError
from edgebuild.releasing.keyless import Identity
from edgebuild.releasing.trust import Policy, Signer, policy_of, read_policy
from tests.releasing.bundles import write_key

if TYPE_CHECKING:
    from pathlib import Path


def _toml(name: str, pem: str, more: str = "") -> str:
    return f'\n[[signers]]\nname = "{name}"\npublic_key = """\n{pem}"""\n{more}\n'


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    alice, bob = (write_key(tmp_path / f"{name}.key").public for name in ("alice", "bob"))
    text = "schema_version = 1\nthreshold = 2\n"
    text += _toml("alice", alice.pem.replace("\n", "\r\n"), 'targets = ["pi5"]\nprojects = ["doors"]')
    text += _toml("bob", bob.pem, "revoked = false")
    (tmp_path / "trust.toml").write_text(text)
    policy = read_policy(tmp_path / "trust.toml")
    assert policy == Policy(
        schema_version=1,
        threshold=2,
        signers=(
            Signer(name="alice", public_key=alice.pem, targets=("pi5",), projects=("doors",)),
            Signer(name="bob", public_key=bob.pem),
        ),
    )
    assert [credential.label for _, credential in policy.credentials()] == [alice.label, bob.label]
    (tmp_path / "trust.json").write_text(policy.to_json())
    assert read_policy(tmp_path / "trust.json") == policy
    assert json.loads(policy.to_json()) == {
        "schema_version": 1,
        "threshold": 2,
        "signers": [
            {
                "name": "alice",
                "public_key": alice.pem,
                "targets": ["pi5"],
                "projects": ["doors"],
                "revoked": False,
            },
            {"name": "bob", "public_key": bob.pem, "targets": None, "projects": None, "revoked": False},
        ],
    }


def test_who_may_sign_what() -> None:
    signer = Signer(name="alice", public_key="", targets=("pi5", "jetson"), projects=("doors",))
    assert signer.may_sign("doors", "pi5")
    assert not signer.may_sign("doors", "x86")
    assert not signer.may_sign("windows", "pi5")
    assert not signer.model_copy(update={"revoked": True}).may_sign("doors", "pi5")
    assert Signer(name="bob", public_key="").may_sign("windows", "x86")


def test_every_problem_is_told_at_once_and_no_private_key_is_quoted(tmp_path: Path) -> None:
    alice = write_key(tmp_path / "alice.key", "Ed25519").public
    private = (tmp_path / "alice.key").read_text()
    write_key(tmp_path / "carol.key")
    text = "schema_version = 2\nthreshold = 4\ntreshold = 1\n"
    text += _toml("alice", alice.pem) + _toml("alice's twin", alice.pem)
    text += _toml("bob", private, "targets = []")
    text += _toml("carol", "no key", 'revoked = "yes"') + '\n[[signers]]\npublic_key = 7\nproject = "doors"\n'
    (tmp_path / "trust.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_policy(tmp_path / "trust.toml")
    problems = "\n".join(caught.value.problems)
    for expected in (
        "schema_version: must be 1, got 2",
        'treshold: unknown key; did you mean "threshold"?',
        "[[signers]]#2.public_key: is the key of signer #1 too; each stands once",
        "[[signers]]#3.public_key: holds a private key where the public one belongs",
        "[[signers]]#3.targets: must not be empty",
        "[[signers]]#4.public_key: is no public key in PEM",
        '[[signers]]#4.revoked: must be true or false, got "yes"',
        "[[signers]]#5.name: is missing",
        "[[signers]]#5.public_key: must be text, got 7",
        '[[signers]]#5.project: unknown key; did you mean "projects"?',
    ):
        assert expected in problems
    assert len(caught.value.problems) == 10
    assert private.splitlines()[1][:20] not in str(caught.value)


@pytest.mark.parametrize(
    ("revoked", "threshold", "problem"),
    [
        ("true", 1, "threshold: 1 signers are asked for, the file names 0 that aren't revoked"),
        ("false", 2, "threshold: 2 signers are asked for, the file names 1 that aren't revoked"),
        ("false", 0, "threshold: must be at least 1, got 0"),
    ],
)
def test_a_threshold_that_nobody_reaches_is_a_problem(
    revoked: str, threshold: int, problem: str, tmp_path: Path
) -> None:
    first, second = (write_key(tmp_path / f"{name}.key").public for name in ("old", "new"))
    text = f"schema_version = 1\nthreshold = {threshold}\n" + _toml("alice", first.pem, f"revoked = {revoked}")
    text += _toml("alice", second.pem, f"revoked = {revoked}")
    (tmp_path / "trust.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_policy(tmp_path / "trust.toml")
    assert caught.value.problems == (problem,)


def test_files_that_are_no_policy(tmp_path: Path) -> None:
    for name, text, match in (
        ("absent.toml", None, "the file doesn't exist"),
        ("a.toml", "threshold = ", "not valid TOML"),
        ("b.toml", "", r"schema_version: is missing"),
        ("a.json", "[]", "not the JSON of a policy: no object"),
        ("b.json", '{"threshold":1,"threshold":2}', "a key stands twice in one object"),
        ("c.json", "[" * 100_000, "not the JSON of a policy"),
        ("d.json", " " * (1 << 20) + " {}", "larger than 1 MiB"),
        ("e.json", '{"schema_version":1,"threshold":true,"signers":[]}', "threshold: must be a whole number, got true"),
        ("g.json", '{"schema_version":1,"threshold":1,"signers":[{"name":"\\u001b[2J"}]}', "name: must be printable"),
        ("f.json", '{"schema_version":1,"threshold":1,"signers":"me"}', 'signers: must be a list, got "me"'),
    ):
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        with pytest.raises(ConfigError, match=match):
            read_policy(path)


def test_keys_alone_are_a_policy_of_any_of_them(tmp_path: Path) -> None:
    alice, bob = (write_key(tmp_path / f"{name}.key").public for name in ("alice", "bob"))
    policy = policy_of([alice, bob, alice])
    assert policy.threshold == 1
    assert [signer.public_key for signer in policy.signers] == [alice.pem, bob.pem]


def _identity(name: str, identity: str, more: str = "") -> str:
    return f'\n[[signers]]\nname = "{name}"\nidentity = "{identity}"\nissuer = "https://issuer.example"\n{more}\n'


def test_identities_stand_beside_keys_with_the_trusted_roots_that_files_hold(tmp_path: Path) -> None:
    alice = write_key(tmp_path / "alice.key").public
    text = "schema_version = 1\nthreshold = 2\n" + _toml("alice", alice.pem)
    text += _identity("alice", "alice@example.org", "revoked = true") + _identity("ci", "https://ci.example/x")
    text += _identity("bob", "bob@example.org", 'trusted_root = "roots/private.json"\nprojects = ["doors"]')
    (tmp_path / "trust.toml").write_text(text)
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots/private.json").write_text('{"tlogs": [ ]}')
    policy = read_policy(tmp_path / "trust.toml", '{"given":1}')
    issuer = "https://issuer.example"
    credentials = [credential for _, credential in policy.credentials()]
    assert credentials[0].label == alice.label
    assert credentials[1:] == [
        Identity("alice@example.org", issuer, '{"given":1}'),
        Identity("https://ci.example/x", issuer, '{"given":1}'),
        Identity("bob@example.org", issuer, '{"tlogs":[]}'),
    ]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/trust.json").write_text(policy.to_json())
    assert read_policy(tmp_path / "elsewhere/trust.json") == policy, "the roots are in it"
    assert json.loads(read_policy(tmp_path / "trust.toml").to_json())["signers"][2] == {
        "name": "ci",
        "identity": "https://ci.example/x",
        "issuer": issuer,
        "targets": None,
        "projects": None,
        "revoked": False,
    }


def test_every_problem_of_identities_is_told(tmp_path: Path) -> None:
    key = write_key(tmp_path / "alice.key").public
    text = "schema_version = 1\nthreshold = 1\n" + _identity("alice", "a") + _identity("alice again", "a")
    text += _toml("both", key.pem, 'identity = "a"') + _toml("root", key.pem, 'trusted_root = "x"')
    text += '\n[[signers]]\nname = "half"\nidentity = "b"\n\n[[signers]]\nname = "nothing"\n' + _identity("odd", "\\n")
    (tmp_path / "trust.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_policy(tmp_path / "trust.toml")
    assert set(caught.value.problems) == {
        "[[signers]]#2.identity: is the identity of signer #1 too; each stands once",
        *(f"[[signers]]#{each}: needs a public_key, or an identity with its issuer" for each in (3, 4, 5, 6)),
        '[[signers]]#7.identity: must be printable, got "\\n"',
    }


@pytest.mark.parametrize(
    ("root", "match"),
    [
        ("absent.json", "trusted_root of alice: .*absent.json can't be read: No such file"),
        ("list.json", "trusted_root of alice: .*list.json is no JSON of Sigstore's"),
        ("large.json", "trusted_root of alice: .*it is larger than any is"),
        ("{no", "trusted_root of alice: "),
    ],
)
def test_trusted_roots_that_are_none_are_problems_of_the_policy(root: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[")
    (tmp_path / "large.json").write_text(" " * (1 << 20))
    text = "schema_version = 1\nthreshold = 1\n" + _identity("alice", "a", f'trusted_root = "{root}"')
    (tmp_path / "trust.toml").write_text(text + _identity("bob", "b", 'trusted_root = "none"'))
    with pytest.raises(ConfigError, match=match) as caught:
        read_policy(tmp_path / "trust.toml")
    assert len(caught.value.problems) == 2
