"""The weights file: bit-exact there and back; whatever isn't what was written is refused with one sentence."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgebuild.devices.runner import weights_file as form
from edgebuild.errors import ModelError
from edgebuild.models.weights_file import code_lengths, encode, read_weights
from tests.mutants import COUNTS, damaged, flipped

if TYPE_CHECKING:
    from pathlib import Path

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=12)
FEW = st.sampled_from([0.0, -0.0, 1.5, -2.25, float("nan"), float("inf"), 1e-45])
ARRAYS = st.one_of(
    hnp.arrays(st.sampled_from([np.dtype(d) for d in form.DTYPES]), SHAPES),
    hnp.arrays(np.float32, SHAPES, elements=FEW.map(np.float32), fill=st.just(np.float32(0))),
)


def sparse(size: int = 3000, share: float = 0.05, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    generator = np.random.default_rng(seed)
    book = generator.standard_normal(32).astype(np.float32)
    return np.where(generator.random(size) < share, generator.choice(book, size), np.float32(0)).astype(np.float32)


def sealed(body: bytes, tensors: int = 1) -> bytes:
    """A body with a header that fits it: what an attacker would write."""
    head = struct.pack("<8sHIQ", form.MAGIC, form.VERSION, tensors, len(body))
    return head + hashlib.sha256(head + body).digest() + body


def tensor(layout: int, shape: tuple[int, ...], content: bytes, name: bytes = b"w", dtype: int = 0) -> bytes:
    head = struct.pack("<H", len(name)) + name + struct.pack("<BBB", dtype, layout, len(shape))
    return head + struct.pack(f"<{len(shape)}I", *shape) + content


@given(st.dictionaries(st.text(max_size=8), ARRAYS, max_size=4))
@settings(deadline=None, max_examples=150)
def test_round_trip(tensors: dict[str, Any]) -> None:
    back = form.decode(encode(tensors))
    assert list(back) == list(tensors)
    for name, value in tensors.items():
        assert back[name].dtype == value.dtype
        assert back[name].shape == value.shape
        assert back[name].tobytes() == value.tobytes()


@given(st.integers(1, 40_000), st.sampled_from([0.0, 0.001, 0.08, 0.6, 1.0]), st.integers(0, 9))
@settings(deadline=None, max_examples=30)
def test_round_trip_of_shared_and_pruned_weights(size: int, share: float, seed: int) -> None:
    value = sparse(size, share, seed)
    assert form.decode(encode({"w": value}))["w"].tobytes() == value.tobytes()


def test_it_is_about_as_small_as_the_entropy_says() -> None:
    value = sparse(200_000)
    kept = value[value != 0]
    _, counts = np.unique(kept, return_counts=True)
    entropy = -(counts / len(kept) * np.log2(counts / len(kept))).sum()
    gap = -(0.05 * np.log2(0.05) + 0.95 * np.log2(0.95)) / 0.05
    assert len(encode({"w": value})) < 1.06 * len(kept) * (entropy + gap) / 8


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=300))
@settings(deadline=None, max_examples=60)
def test_codes_are_complete_and_never_too_long(counts: list[int]) -> None:
    lengths = code_lengths(np.array(counts))
    assert lengths.max() <= 16
    used = lengths[lengths > 0]
    assert len(used) == np.count_nonzero(counts)
    assert len(used) < 2 or sum(2.0 ** -int(length) for length in used) == 1
    assert code_lengths(np.array([1 << i for i in range(40)])).max() == 16


SMALL = encode({"w": sparse(400), "bias": np.arange(5, dtype=np.float32)})


@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
@settings(deadline=None, max_examples=200)
def test_any_flipped_byte_is_noticed(place: int, change: int) -> None:
    damaged = bytearray(SMALL)
    damaged[place] ^= change
    with pytest.raises(form.Damaged):
        form.decode(bytes(damaged))


@given(st.integers(0, len(SMALL) - 1), st.binary(max_size=3))
@settings(deadline=None, max_examples=100)
def test_any_truncation_and_anything_behind_it_is_noticed(length: int, more: bytes) -> None:
    with pytest.raises(form.Damaged):
        form.decode(SMALL[:length])
    if more:
        with pytest.raises(form.Damaged):
            form.decode(SMALL + more)


@given(st.integers(0, len(SMALL) - form.HEADER.size - 1), st.integers(1, 255), st.booleans())
@settings(deadline=None, max_examples=400)
def test_damage_under_a_digest_that_fits_is_refused_or_decodes_within_the_limit(
    place: int, change: int, cut: bool
) -> None:
    body = bytearray(SMALL[form.HEADER.size :])
    body[place] ^= change
    try:
        found = form.decode(sealed(bytes(body[:place] if cut else body), 2), limit=1 << 20)
    except form.Damaged:
        return
    assert sum(value.nbytes for value in found.values()) <= 1 << 20


#: A symbol takes 16 bits, so a codebook of 70,000 entries would be read by other ones.
LARGE = struct.pack("<I", 70_000) + bytes(70_000) + bytes(69_999) + b"\1" + struct.pack("<I", 70_000) + bytes(8750)
HOSTILE = {
    "an empty tensor with axes beyond memory": tensor(0, (0, 2**32 - 1, 2**32 - 1, 2**32 - 1), b""),
    "a codebook that no symbol reaches": tensor(form.CODEBOOK, (70_000,), LARGE, dtype=4),
    "a tensor of exabytes": tensor(0, (2**32 - 1, 2**32 - 1), b""),
    "zeros beyond the limit": tensor(form.GAPS, (1 << 28,), struct.pack("<BI", 7, 0) + bytes(8) + bytes(4)),
    "more gaps than elements": tensor(form.GAPS, (3,), struct.pack("<BI", 7, 1 << 31) + bytes(8) + bytes(4)),
    "a span of nothing": tensor(form.GAPS, (3,), struct.pack("<BI", 0, 1) + b"\1" + struct.pack("<I", 1) + b"\0"),
    "a codebook larger than its tensor": tensor(form.CODEBOOK, (3,), struct.pack("<I", 1 << 31)),
    "an incomplete code": tensor(
        form.CODEBOOK, (2,), struct.pack("<I", 2) + bytes(8) + b"\2\2" + struct.pack("<I", 4) + b"\0"
    ),
    "too many codes": tensor(
        form.CODEBOOK, (3,), struct.pack("<I", 3) + bytes(12) + b"\1\1\1" + struct.pack("<I", 3) + b"\0"
    ),
    "a long code": tensor(
        form.CODEBOOK, (2,), struct.pack("<I", 2) + bytes(8) + b"\1\xff" + struct.pack("<I", 2) + b"\0"
    ),
    "a stream that promises gigabytes": tensor(
        form.CODEBOOK, (2,), struct.pack("<I", 2) + bytes(8) + b"\1\1" + struct.pack("<I", 2**32 - 1)
    ),
    "gaps that lead out": tensor(
        form.GAPS, (1,), struct.pack("<BI", 1, 1) + b"\0\1" + struct.pack("<I", 1) + b"\0" + bytes(4) + b"more"
    ),
    "a name that isn't text": tensor(0, (), bytes(4), name=b"\xff\xfe"),
    "an unknown dtype": tensor(0, (), bytes(4), dtype=200),
    "two of a name": tensor(0, (), bytes(4)) + tensor(0, (), bytes(4)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_without_taking_memory(name: str) -> None:
    data = sealed(HOSTILE[name], 2 if name == "two of a name" else 1)
    tracemalloc.start()
    try:
        with pytest.raises(form.Damaged):
            form.decode(data, limit=1 << 26)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def test_a_code_that_is_never_used_is_no_damage() -> None:
    empty = struct.pack("<BI", 7, 0) + b"\1\1" + bytes(6) + struct.pack("<I", 0)
    found = form.decode(sealed(tensor(form.GAPS, (4,), empty), 1))
    assert found["w"].tolist() == [0, 0, 0, 0]


def test_a_later_version_and_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.ebw"
    for content, said in (
        (b"PK\3\4" + bytes(90), "no weights file"),
        (SMALL[:8] + b"\2" + SMALL[9:], "of version 2, this reads 1"),
        (SMALL[:-1], "bytes behind its header"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=said):
            read_weights(path)
    path.unlink()
    with pytest.raises(ModelError, match="can't be read"):
        read_weights(path)
    path.write_bytes(SMALL)
    assert set(read_weights(path)) == {"w", "bias"}
    with pytest.raises(ModelError, match="larger than 100 bytes"):
        read_weights(path, limit=100)


def test_what_the_format_has_no_place_for_is_refused() -> None:
    with pytest.raises(ModelError, match="w is complex64"):
        encode({"w": np.zeros(2, np.complex64)})


FUZZED = encode(
    {
        "plain": np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6),
        "sparse": sparse(400),
        "codes": (np.arange(200, dtype=np.uint8) % 5).reshape(2, 100),
        "empty": np.zeros((0, 3), np.float16),
        "one": np.asarray(2.5),
    }
)


@pytest.mark.parametrize("count", COUNTS)
def test_damage_of_any_kind_is_refused_in_one_sentence(count: int, tmp_path: Path) -> None:
    """As it comes, and with a digest made to fit: what an attacker would write."""
    limit, path = 1 << 20, tmp_path / "weights.bin"
    for seed in range(count):
        data = damaged(FUZZED, seed)
        body = damaged(FUZZED[form.HEADER.size :], seed)
        if data != FUZZED:
            with pytest.raises(form.Damaged):
                form.decode(data, limit)
        with contextlib.suppress(form.Damaged):
            decoded = form.decode(sealed(body, tensors=5), limit)
            assert sum(value.nbytes for value in decoded.values()) <= limit
        if seed % 50 == 0 and data != FUZZED:
            path.write_bytes(data)
            with pytest.raises(ModelError, match="can't be used"):
                read_weights(path, limit)


@pytest.mark.parametrize("count", COUNTS)
def test_one_flipped_bit_never_passes(count: int) -> None:
    for seed in range(count):
        with pytest.raises(form.Damaged):
            form.decode(flipped(FUZZED, seed))


def test_damage_takes_no_memory_that_the_limit_does_not_bound() -> None:
    limit = 1 << 20
    for seed in range(300):
        tracemalloc.start()
        with contextlib.suppress(form.Damaged):
            form.decode(sealed(damaged(FUZZED[form.HEADER.size :], seed), tensors=5), limit)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 16 * limit, seed
