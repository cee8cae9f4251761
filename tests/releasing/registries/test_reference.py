from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgebuild.errors import UsageError
from edgebuild.releasing.registries.credentials import Credentials, find_credentials
from edgebuild.releasing.registries.reference import (
    Reference,
    fallback_tag,
    is_fallback_tag,
    is_loopback,
    parse_reference,
    require_tag,
)

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("registry.example/doors:1.4.0", Reference(host="registry.example", repository="doors", tag="1.4.0")),
        ("localhost:5000/a/b-c_d.e", Reference(host="localhost:5000", repository="a/b-c_d.e")),
        ("[::1]:5000/a:x", Reference(host="[::1]:5000", repository="a", tag="x")),
        (f"r/a:t@{DIGEST}", Reference(host="r", repository="a", tag="t", digest=DIGEST)),
        ("./releases:prod", Reference(host="", repository="./releases", tag="prod")),
        ("/share/a:b/c", Reference(host="", repository="/share/a:b/c")),
        ("oci:relative/folder:1.0", Reference(host="", repository="relative/folder", tag="1.0")),
        ("~/x", Reference(host="", repository="~/x")),
        (".", Reference(host="", repository=".")),
    ],
)
def test_a_reference_is_read_as_it_is_written(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected
    assert str(expected) == text.removeprefix("oci:")


@pytest.mark.parametrize(
    "text",
    [
        "", "doors", "doors:1.4", "https://r/doors:1", "r/", "r/:1", "r/Doors", "r/a//b", "r/a:", "r/a:-x", "r/../x:1",
        "r/a@sha256:12", f"r/a:{'x' * 129}", "r/" + "a" * 256, "r:port/a", "user:word@r/a",
        "r/a:" + fallback_tag(DIGEST),
        "r/a\n", "r/a:1\n", "-r/a", "r/a@md5:00",
    ],
)  # fmt: skip
def test_what_names_no_release_is_said(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(text)
    assert caught.value.hint


@given(st.text(max_size=60))
@example("[/a")
@example("r/a:b:c")
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_reference(text)
    except UsageError:
        return
    if found.host:
        assert parse_reference(str(found)) == found


def test_the_tags_of_referrers_are_nobodys() -> None:
    assert is_fallback_tag(fallback_tag(DIGEST))
    assert require_tag("1.4.0-rc_1") == "1.4.0-rc_1"
    assert not is_fallback_tag("sha256-x")


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000", "[::1]"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["localhost.evil.example", "127.0.0.1@192.0.2.1", "192.0.2.1", "0.0.0.0", "[::2]", "[", ""],  # noqa: S104
)
def test_other_machines(host: str) -> None:
    assert not is_loopback(host)


def docker(folder: Path, text: str) -> dict[str, str]:
    (folder / "config.json").write_text(text)
    return {"DOCKER_CONFIG": str(folder)}


def test_credentials_come_from_the_environment_first(tmp_path: Path) -> None:
    auth = base64.b64encode(b"bob:of:docker").decode()
    environment = docker(tmp_path, json.dumps({"auths": {"r": {"auth": auth}, "https://s": {"auth": auth}, "t": {}}}))
    assert find_credentials("r", environment) == Credentials("bob", "of:docker")
    assert find_credentials("s", environment) == Credentials("bob", "of:docker")
    assert find_credentials("t", environment) is None
    assert find_credentials("u", environment) is None
    assert find_credentials("r", {"DOCKER_CONFIG": str(tmp_path / "none")}) is None
    given_both = {**environment, "EDGEBUILD_REGISTRY_USER": "ann", "EDGEBUILD_REGISTRY_PASSWORD": "s3cret-word"}
    found = find_credentials("r", given_both)
    assert found == Credentials("ann", "s3cret-word")
    assert "s3cret-word" not in repr(found)
    with pytest.raises(UsageError, match="Only one"):
        find_credentials("r", {"EDGEBUILD_REGISTRY_USER": "ann"})


@pytest.mark.parametrize(
    "text",
    [
        "s3cret-word", "[]", "[" * 100_000, '{"auths": {"r": "s3cret-word"}}',
        '{"auths": {"r": {"auth": "s3cret-word"}}}',
        '{"auths": {"r": {"auth": 5}}}', '{"auths": {"r": {"auth": "czNjcmV0"}}}',
    ],
)  # fmt: skip
def test_a_configuration_that_cant_be_read_isnt_quoted(tmp_path: Path, text: str) -> None:
    environment = docker(tmp_path, text)
    with pytest.raises(UsageError, match="no configuration of Docker's") as caught:
        find_credentials("r", environment)
    assert "s3cret" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"


def test_a_configuration_that_is_no_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UsageError, match="can't be read"):
        find_credentials("r", {"DOCKER_CONFIG": str(tmp_path)})
