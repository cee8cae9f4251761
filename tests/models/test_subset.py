"""A sample of a data set: deterministic, nested, in proportion, whole samples, many groups."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.core.artifact import TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, StepContext, never_stop
from edgebuild.models.dataset import Dataset, write_dataset
from edgebuild.models.subset import SampleData, choose, strata_of

if TYPE_CHECKING:
    from pathlib import Path

samples = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from("abc"), st.one_of(st.none(), st.sampled_from(["g", "h", "i"]))),
    min_size=1,
    max_size=60,
)


@given(samples, st.integers(1, 200), st.integers(1, 200), st.integers(0, 3))
def test_a_smaller_choice_is_part_of_a_larger_one_and_holds_enough(
    data: list[tuple[int, str, str | None]], one: int, other: int, seed: int
) -> None:
    lengths, strata, groups = (list(column) for column in zip(*data, strict=True))
    small, large = (choose(lengths, strata, groups, frames=n, seed=seed) for n in sorted((one, other)))
    assert set(small) <= set(large)
    assert list(small) == sorted(set(small))
    held = sum(lengths[i] for i in small)
    assert held >= min(one, other, sum(lengths))
    assert held < min(one, other) + max(lengths)
    assert small == choose(lengths, strata, groups, frames=min(one, other), seed=seed)


def test_a_few_long_samples_are_not_enough() -> None:
    assert len(choose([100] * 30, ["all"] * 30, [None] * 30, frames=100, samples=20, seed=0)) == 20


@given(st.lists(st.sampled_from("aabc"), min_size=1, max_size=80), st.integers(1, 80))
def test_every_stratum_has_its_share_to_within_one_sample(strata: list[str], frames: int) -> None:
    chosen = choose([1] * len(strata), strata, [None] * len(strata), frames=frames, seed=0)
    have = Counter(strata[i] for i in chosen)
    for name, count in Counter(strata).items():
        assert abs(have[name] - len(chosen) * count / len(strata)) <= 1.0


@given(st.lists(st.sampled_from("ghijk"), min_size=5, max_size=60), st.integers(1, 60))
def test_groups_take_turns(groups: list[str], frames: int) -> None:
    chosen = choose([1] * len(groups), ["all"] * len(groups), list(groups), frames=frames, seed=0)
    assert len({groups[i] for i in chosen}) == min(len(chosen), len(set(groups)))


def make(folder: Path, count: int, *, stateful: bool = False) -> Dataset:
    folder.mkdir()
    generator = np.random.default_rng(0)
    each = [
        Sample(
            inputs={"a/b": generator.standard_normal((3, 2) if stateful else (2,)).astype(np.float32)},
            target=np.arange(3) + i if stateful else i % 3,
            group=f"g{i % 4}",
            slice="even" if i % 2 == 0 else "odd",
        )
        for i in range(count)
    ]
    spec = TensorSpec(name="a/b", shape=("batch", 2), dtype="float32")
    return write_dataset(
        each, folder, specs=(spec,), stateful=stateful, source="a test", task=NoProgress(), check=never_stop
    )


def run(data: Dataset, out: Path, frames: int) -> Dataset:
    out.mkdir()
    context = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=out)
    SampleData(frames=frames).run({"data": data.folder}, out, context)
    return Dataset.open(out)


def test_the_sample_is_a_data_set_of_whole_samples(tmp_path: Path) -> None:
    data = make(tmp_path / "data", 20, stateful=True)
    part = run(data, tmp_path / "part", 10)
    assert part.frames == 12
    assert part.samples == 4
    whole = {tuple(data.array("a/b")[3 * i].tolist()): i for i in range(20)}
    rows = [whole[tuple(part.array("a/b")[3 * k].tolist())] for k in range(4)]
    assert rows == sorted(rows)
    assert part.target is not None
    assert part.target[::3].tolist() == rows
    assert part.groups() == tuple(f"g{i % 4}" for i in rows)
    assert json.loads((part.folder / "data.json").read_text())["samples"] == 4


def test_classes_and_slices_make_the_strata(tmp_path: Path) -> None:
    data = make(tmp_path / "data", 6)
    assert strata_of(data)[:3] == (("even", 0), ("odd", 1), ("even", 2))
    assert set(strata_of(make(tmp_path / "states", 6, stateful=True))) == {"even", "odd"}


def test_a_sample_of_everything_is_everything(tmp_path: Path) -> None:
    data = make(tmp_path / "data", 7)
    part = run(data, tmp_path / "part", 100)
    assert np.array_equal(part.array("a/b"), data.array("a/b"))
