from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

import pytest

from edgebuild.core.artifact import Int8Scheme, Precision
from edgebuild.errors import EnvironmentGap, UsageError
from edgebuild.quantisers import registry
from tests.techniques.nets import contract_of, residual_net

if TYPE_CHECKING:
    from collections.abc import Callable


def _with(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> Callable[[str], registry.Factory]:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries if group == registry.GROUP else ())
    return registry.quantiser


def test_the_table_makes_steps_by_name() -> None:
    precision = Precision(kind="int8", scheme=Int8Scheme(activations="uint8"), quantiser="edgebuild")
    made = {
        name: factory(precision, contract_of(residual_net()), (), 10).kind for name, factory in registry.TABLE.items()
    }
    assert made == {
        "edgebuild": "quantise",
        "half-storage": "half-storage",
        "int8-storage": "int8-storage",
        "nncf": "nncf-quantise",
        "onnxruntime": "ort-quantise",
        "onnxruntime-dynamic": "ort-quantise-dynamically",
    }


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match="no quantiser 'nope'") as caught:
        registry.quantiser("nope")
    assert "edgebuild, half-storage, int8-storage, nncf, onnxruntime, onnxruntime-dynamic" in caught.value.hint


def test_a_precision_without_a_scheme_is_refused() -> None:
    with pytest.raises(UsageError, match="no int8 scheme"):
        registry.TABLE["edgebuild"](Precision(kind="fp32"), contract_of(residual_net()), (), 10)


def test_a_plugin_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _with(monkeypatch, EntryPoint("other", "json:dumps", registry.GROUP))("other")
    assert vars(found) == vars(json.dumps)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (EntryPoint("nncf", "json:dumps", registry.GROUP), "exists already"),
        (EntryPoint("broken", "no_such_module:make", registry.GROUP), "can't be loaded"),
        (EntryPoint("dull", "sys:version", registry.GROUP), "is no quantiser"),
    ],
)
def test_a_bad_plugin_is_an_error(entry: EntryPoint, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentGap, match=message):
        _with(monkeypatch, entry)("edgebuild")
