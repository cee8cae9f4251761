"""What of a step enters its key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from edgebuild.core.artifact import Int8Scheme
from edgebuild.core.steps import fields_of

DEFAULT = Int8Scheme(activations="uint8")


@dataclass(frozen=True, kw_only=True)
class _Step:
    name: str
    scheme: Int8Scheme = DEFAULT
    sizes: tuple[int, ...] = ()
    where: Path = Path("/somewhere")


def test_defaults_and_excluded_fields_are_left_out() -> None:
    assert fields_of(_Step(name="a"), without={"where": "no part of the result"}) == {"name": "a"}


def test_values_and_tuples_become_plain_json() -> None:
    step = _Step(name="a", scheme=Int8Scheme(activations="int8"), sizes=(1, 2))
    key = fields_of(step, without={"where": "no part of the result"})
    assert key["sizes"] == [1, 2]
    scheme = key["scheme"]
    assert isinstance(scheme, dict)
    assert scheme["activations"] == "int8"


@dataclass(frozen=True, kw_only=True)
class _Anything:
    it: object


class _Thing:
    def __str__(self) -> str:
        return "a thing"


@pytest.mark.parametrize("it", [Path("/a"), _Thing(), len, {1: "a"}, b"a", {"a"}, 1j, (Path("a"),), {"a": [_Thing()]}])
def test_what_has_no_one_text_is_refused_in_a_key(it: object) -> None:
    with pytest.raises(TypeError, match=r"_Anything\.it can't be part of a key"):
        fields_of(_Anything(it=it), without={})
