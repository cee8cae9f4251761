"""A step is data, and what of it enters its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from edgebuild.core.artifact import Int8Scheme
from edgebuild.core.steps import NoProgress, ProjectCode, RunsOn, Step, StepContext, never_stop
from edgebuild.errors import EdgebuildError

DEFAULT = Int8Scheme(activations="uint8")


class Made(Step):
    kind: ClassVar[str] = "made-by-a-test"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    unkeyed: ClassVar[frozenset[str]] = frozenset({"where"})

    name: str
    scheme: Int8Scheme = DEFAULT
    sizes: tuple[int, ...] = ()
    where: Path = Path("/somewhere")


def test_defaults_and_fields_that_shape_nothing_are_left_out() -> None:
    assert Made(name="a").key_fields() == {"name": "a"}
    assert Made(name="a", where=Path("/elsewhere")).key_fields() == {"name": "a"}


def test_values_and_tuples_become_plain_json() -> None:
    key = Made(name="a", scheme=Int8Scheme(activations="int8"), sizes=(1, 2)).key_fields()
    assert key["sizes"] == [1, 2]
    scheme = key["scheme"]
    assert isinstance(scheme, dict)
    assert scheme["activations"] == "int8"


class Anything(Step):
    kind: ClassVar[str] = "anything-by-a-test"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST

    it: Any


class Thing:
    def __str__(self) -> str:
        return "a thing"


@pytest.mark.parametrize("it", [Path("/a"), Thing(), len, {1: "a"}, b"a", {"a"}, 1j, (Path("a"),), {"a": [Thing()]}])
def test_what_has_no_one_text_is_refused_in_a_key(it: object) -> None:
    with pytest.raises(TypeError, match=r"Anything\.it can't be part of a key"):
        Anything(it=it).key_fields()


def test_the_users_code_is_reached_by_name_and_only_where_there_is_some(tmp_path: Path) -> None:
    context = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=tmp_path)
    with pytest.raises(EdgebuildError, match="data:test is needed, and there is no project"):
        context.load("data:test")
    code = ProjectCode(load={"data:test": len}.__getitem__, digest="d")
    context = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=tmp_path, code=code)
    assert context.load("data:test") is len
