"""OpenSSF Model Signing v1.0 as the specification says it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.errors import ReleaseError
from edgebuild.releasing.dsse import Statement, parse_statement, statement_bytes
from edgebuild.releasing.model_signing import PREDICATE_TYPE, model_statement, require_same_files, signed_files

FILES = {"b/c.bin": "01" * 32, "b.bin": "02" * 32, "é": "03" * 32, "z": "04" * 32}


def test_the_statement_is_that_of_the_specification() -> None:
    statement = model_statement("pi5", FILES)
    assert statement.name == "pi5"
    assert statement.predicate_type == "https://model_signing/signature/v1.0"
    names = [each["name"] for each in statement.predicate["resources"]]
    assert names == ["b.bin", "b/c.bin", "z", "é"], "sorted by code point"
    assert statement.predicate["resources"][0] == {"name": "b.bin", "digest": "02" * 32, "algorithm": "sha256"}
    assert statement.predicate["serialization"] == {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    digests = b"".join(bytes([each]) * 32 for each in (2, 1, 4, 3))
    assert statement.sha256 == hashlib.sha256(digests).hexdigest()


@given(
    files=st.dictionaries(
        st.text(min_size=1).filter(lambda text: text.isprintable()), st.binary(min_size=32, max_size=32), min_size=1
    )
)
def test_what_is_stated_is_read_back(files: dict[str, bytes]) -> None:
    digests = {name: digest.hex() for name, digest in files.items()}
    assert signed_files(parse_statement(statement_bytes(model_statement("m", digests)))) == digests


def test_what_readers_have_to_bear_is_borne() -> None:
    whole = model_statement("pi5", FILES)
    resources = [{**each, "uri": "file:x"} for each in reversed(whole.predicate["resources"])]
    root = hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources)).hexdigest()
    serialization = {**whole.predicate["serialization"], "ignore_paths": [".git", "model.sig"]}
    other = Statement("model", root, PREDICATE_TYPE, {"resources": resources, "serialization": serialization})
    assert signed_files(other) == FILES


def test_what_isnt_supported_or_contradicts_itself_is_refused() -> None:
    whole = model_statement("pi5", FILES)

    def refused(match: str, resources: Any = None, **serialization: Any) -> None:
        predicate = {
            "resources": whole.predicate["resources"] if resources is None else resources,
            "serialization": {**whole.predicate["serialization"], **serialization},
        }
        with pytest.raises(ReleaseError, match=match):
            signed_files(replace(whole, predicate=predicate))

    first, *others = whole.predicate["resources"]
    refused("serialization.method: Input should be 'files'", method="shards", shard_size=1)
    refused("hash_type", hash_type="blake3")
    refused("with links followed", allow_symlinks=True)
    refused("allow_symlinks", allow_symlinks=0)
    refused("shard_size", shard_size=1)
    refused("resources", [])
    refused("algorithm", [{**first, "algorithm": "blake2b"}, *others])
    refused("digest that is no SHA-256", [{**first, "digest": "02" * 31}, *others])
    refused("digest that is no SHA-256", [{**first, "digest": "xy" * 32}, *others])
    refused("lists a file of the model twice", [first, first, *others])
    refused("its root digest isn't that of its files", others)
    with pytest.raises(ReleaseError, match=r"is of the type 'https://model_signing/Digests/v0[.]1'"):
        signed_files(replace(whole, predicate_type="https://model_signing/Digests/v0.1"))
    with pytest.raises(ReleaseError, match="more"):
        signed_files(replace(whole, predicate={**whole.predicate, "more": 1}))


def test_the_first_file_that_differs_is_named() -> None:
    require_same_files(FILES, dict(FILES), "pi5")
    for there, match in (
        ({**FILES, "b.bin": "ff" * 32}, "'b.bin' isn't what was signed"),
        ({**FILES, "new": "ff" * 32}, "'new' wasn't signed"),
        ({name: FILES[name] for name in list(FILES)[:-1]}, "'z' was signed, but isn't there"),
    ):
        with pytest.raises(ReleaseError, match=match):
            require_same_files(FILES, there, "pi5")
