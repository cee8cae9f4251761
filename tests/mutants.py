"""Damage for fuzz tests, seeded: the same number is the same damage on every machine.

A test takes ``COUNTS`` as its parameter: few mutants in ``make test``, ten thousand in ``make proofs``.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

#: How many mutants a fuzz test tries.
COUNTS = (pytest.param(100, id="short"), pytest.param(10_000, id="long", marks=pytest.mark.proof))

#: Numbers at the edges of what fields, sizes and counters hold.
_EDGES = (0, 1, 0x7F, 0x80, 0xFF)

#: What stands where something else was expected: wrong types, edges of ranges, text that terminals and files obey.
ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    -(2**63) - 1,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
    "",
    "0",
    "nan",
    "x" * 10_000,
    "../../escape",
    "/absolute",
    "a\x00b",
    "line\nbreak\r",
    "\x1b[31mred\x1b[0m",
    "\u202eright to left",
    "\ud800 half of a pair",
    "😀",
    [],
    [[]],
    {},
    {"": None},
)


def damaged(data: bytes, seed: int) -> bytes:
    """Return ``data`` with one to three damages: flipped, lost, doubled, moved, made-up or edge-valued bytes."""
    chance = random.Random(seed)
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        at = chance.randrange(len(out) + 1)
        length = chance.choice((1, 1, 2, 4, 8, 64, max(1, len(out) // 4)))
        kind = chance.randrange(8)
        if kind <= 1 and at < len(out):
            out[at] ^= 1 << chance.randrange(8)
        elif kind == 2 and at < len(out):
            out[at] = chance.choice(_EDGES)
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            out[at:at] = out[at : at + length]
        elif kind == 5:
            out[at:at] = chance.randbytes(length)
        elif kind == 6:
            out[at : at + length] = bytes([chance.choice(_EDGES)]) * length
        else:
            del out[at:]
    return bytes(out)


def flipped(data: bytes, seed: int) -> bytes:
    """Return ``data`` with exactly one bit flipped."""
    chance = random.Random(seed)
    out = bytearray(data)
    out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
    return bytes(out)


def altered(value: Any, seed: int) -> Any:
    """Return a JSON value with one to three alterations somewhere in it: fields lost, added, or of another kind."""
    chance = random.Random(seed)
    holder = [copy.deepcopy(value)]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        where, key = chance.choice(_spots(holder))
        kind = chance.randrange(6)
        if kind == 0 and where is not holder:
            del where[key]
        elif kind == 1 and isinstance(where[key], (dict, list)):
            _grow(where[key], chance)
        elif kind == 2 and isinstance(where[key], (int, float)) and not isinstance(where[key], bool):
            where[key] = -where[key] if chance.random() < 0.5 else where[key] * 10**9
        else:
            where[key] = copy.deepcopy(chance.choice(ODD))
    return holder[0]


def _spots(holder: list[Any]) -> list[tuple[Any, Any]]:
    """Return every place in a JSON value as (container, key)."""
    spots: list[tuple[Any, Any]] = []
    todo: list[Any] = [holder]
    while todo:
        container = todo.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            spots.append((container, key))
            if isinstance(container[key], (dict, list)):
                todo.append(container[key])
    return spots


def _grow(container: Any, chance: random.Random) -> None:
    if isinstance(container, dict):
        container[chance.choice(("extra", "", "__class__"))] = copy.deepcopy(chance.choice(ODD))
    else:
        container.append(copy.deepcopy(container[0] if container else chance.choice(ODD)))
