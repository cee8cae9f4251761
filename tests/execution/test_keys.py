from __future__ import annotations

import copy
from importlib import metadata
from types import SimpleNamespace
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgebuild.core.steps import RunsOn
from edgebuild.core.values import canonical_json
from edgebuild.execution.keys import explain_change, key_of, key_parts

NAMES = st.text(min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)


@st.composite
def ingredients(draw: st.DrawFn) -> dict[str, Any]:
    """All that a key is made of."""
    return {
        "kind": draw(NAMES),
        "version": draw(st.integers(1, 9)),
        "place": draw(st.sampled_from(RunsOn)),
        "tools": draw(st.sampled_from([(), ("pydantic",), ("pydantic", "fsspec"), ("not-there-at-all",)])),
        "parameters": draw(st.dictionaries(NAMES, JSON, max_size=3)),
        "inputs": draw(st.dictionaries(NAMES, DIGESTS, max_size=3)),
        "seed": draw(st.integers(0, 9)),
        "isa": draw(st.sampled_from(["avx2", "neon"])),
        "device": draw(st.dictionaries(NAMES, NAMES, max_size=2)),
        "uses_code": draw(st.booleans()),
        "code": draw(DIGESTS),
    }


def parts(i: dict[str, Any]) -> dict[str, Any]:
    step: Any = SimpleNamespace(
        kind=i["kind"],
        version=i["version"],
        runs_on=i["place"],
        uses_code=i.get("uses_code", False),
        all_tools=lambda: i["tools"],
        key_fields=lambda: i["parameters"],
    )
    return key_parts(
        step,
        i["inputs"],
        seed=i["seed"],
        isa=i["isa"],
        device_configuration=i["device"],
        code_digest=i.get("code", ""),
    )


def shuffled(value: Any) -> Any:
    """The same value with its mappings in another order."""
    if isinstance(value, dict):
        return {name: shuffled(value[name]) for name in reversed(value)}
    return value


@given(ingredients())
def test_equal_parts_have_equal_keys_whatever_their_order(i: dict[str, Any]) -> None:
    again = parts(shuffled(copy.deepcopy(i)))
    assert key_of(again) == key_of(parts(i))
    assert explain_change(parts(i), again) == ""


@given(ingredients(), ingredients(), st.data())
@settings(max_examples=50)
def test_any_change_gives_another_key_and_an_explanation(
    i: dict[str, Any], j: dict[str, Any], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["kind", "version", "parameters", "inputs", "seed", "tools", "code", "uses_code"]))
    changed = i | {name: j[name]}
    assume(canonical_json(parts(changed)) != canonical_json(parts(i)))
    assert key_of(parts(changed)) != key_of(parts(i))
    assert explain_change(parts(i), parts(changed)) != ""


@given(ingredients(), ingredients())
@settings(max_examples=50)
def test_the_machine_counts_exactly_where_it_shapes_the_result(i: dict[str, Any], j: dict[str, Any]) -> None:
    assume(i["isa"] != j["isa"] and i["device"] != j["device"] and i["code"] != j["code"])

    def same(**change: Any) -> bool:
        return key_of(parts(i | change)) == key_of(parts(i))

    assert same(isa=j["isa"]) is (i["place"] is not RunsOn.HOST_KERNELS)
    assert same(device=j["device"]) is (i["place"] is not RunsOn.DEVICE)
    assert same(code=j["code"]) is not i["uses_code"]


def test_a_parameter_of_another_type_is_another_parameter() -> None:
    base = {
        "kind": "k",
        "version": 1,
        "place": RunsOn.HOST,
        "tools": (),
        "inputs": {},
        "seed": 0,
        "isa": "",
        "device": {},
    }
    keys = {key_of(parts(base | {"parameters": {"p": value}})) for value in (1, 1.0, True, "1", [1], None)}
    assert len(keys) == 6


def test_tool_versions_are_those_installed() -> None:
    base = {"kind": "k", "version": 1, "place": RunsOn.HOST, "parameters": {}, "inputs": {}, "seed": 0, "isa": ""}
    tools = parts(base | {"tools": ("pydantic", "not-there-at-all"), "device": {}})["tools"]
    assert tools == {"pydantic": metadata.version("pydantic"), "not-there-at-all": "not installed"}


def test_explanations_read_well() -> None:
    old = {
        "kind": "quantise", "version": 1, "seed": 0, "isa": "avx2",
        "parameters": {"bits": 8, "scheme": {"weights": "int8"}},
        "inputs": {"model": "a" * 64},
        "tools": {"onnxruntime": "1.31"},
        "device": {"governor": "powersave"},
    }  # fmt: skip
    new = {
        "kind": "quantise", "version": 2, "seed": 0, "isa": "avx512_vnni",
        "parameters": {"bits": 4, "scheme": {"weights": "uint8"}, "groups": 2},
        "inputs": {"model": "b" * 64, "calibration": "c" * 64},
        "tools": {"onnxruntime": "1.32"},
        "device": {"governor": "performance"},
    }  # fmt: skip
    assert explain_change(old, new) == (
        "version of the step 1 → 2, instruction set avx2 → avx512_vnni, parameter bits 8 → 4, parameter groups default"
        " → 2, parameter scheme changed, input calibration changed, input model changed, tool onnxruntime 1.31 → 1.32,"
        " device configuration governor powersave → performance"
    )


@given(st.dictionaries(NAMES, JSON, max_size=4), st.dictionaries(NAMES, JSON, max_size=4))
def test_any_record_at_all_can_be_compared(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert isinstance(explain_change(old, new), str)
