from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

import pytest

from edgebuild.errors import EnvironmentGap
from edgebuild.techniques import registry as table

if TYPE_CHECKING:
    from edgebuild.techniques.technique import Technique


def _with(monkeypatch: pytest.MonkeyPatch, entry: EntryPoint) -> dict[str, type[Technique]]:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: (entry,) if group == table.GROUP else ())
    return table.techniques_by_name()


def test_the_table_names_techniques_as_they_call_themselves() -> None:
    assert {name: technique.kind for name, technique in table.TABLE.items()} == {name: name for name in table.TABLE}
    assert table.parameter_models().keys() == table.TABLE.keys()


def test_a_plugin_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("mine", "edgebuild.techniques.factorising.factorise:Factorise", table.GROUP)
    assert _with(monkeypatch, entry)["mine"] is table.TABLE["factorise"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            EntryPoint("factorise", "edgebuild.techniques.factorising.factorise:Factorise", table.GROUP),
            "exists already",
        ),
        (EntryPoint("broken", "no_such_module:make", table.GROUP), "can't be loaded"),
        (EntryPoint("dull", "json:dumps", table.GROUP), "is no technique"),
    ],
)
def test_a_bad_plugin_is_an_error(entry: EntryPoint, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentGap, match=message):
        _with(monkeypatch, entry)
