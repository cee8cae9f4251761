from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from edgebuild.core.artifact import TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.errors import DataError
from edgebuild.models.dataset import Dataset, write_dataset
from edgebuild.training.batches import ArrayLoader, Batch, as_batch
from edgebuild.training.randomness import Draws

from . import nets

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("samples", "size", "lengths"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (8, 4, [4, 4]), (1, 4, [1]), (3, 1, [1, 1, 1]), (2, 4, [2])],
)
def test_every_sample_comes_once_and_none_comes_alone(samples: int, size: int, lengths: list[int]) -> None:
    loader = ArrayLoader(inputs=(np.arange(samples),), batch_size=size)
    batches = list(loader.batches(0))
    assert [len(batch) for batch in batches] == lengths
    assert loader.length() == len(lengths)
    assert sorted(int(i) for batch in batches for i in batch.inputs[0]) == list(range(samples))


def test_seed_and_epoch_decide_the_order_and_a_late_start_skips() -> None:
    loader = nets.loader(96)
    first, second = list(loader.batches(0)), list(loader.batches(1))
    assert not torch.equal(first[0].inputs[0], second[0].inputs[0])
    assert torch.equal(first[2].inputs[0], next(loader.batches(0, start=2)).inputs[0])
    assert not torch.equal(first[0].inputs[0], next(nets.loader(96, seed=1).batches(0)).inputs[0])


def test_a_sample_of_an_epoch_has_the_same_view_in_any_batch() -> None:
    large, small = nets.loader(96, augment=nets.noisy), nets.loader(96, augment=nets.noisy, batch_size=7)
    together = large.rows(np.arange(96), epoch=3).inputs[0]
    for batch in small.batches(3):
        assert torch.equal(batch.inputs[0], together[batch.index])
    assert not torch.equal(together, large.rows(np.arange(96), epoch=4).inputs[0])
    two_views = nets.loader(96, augment=nets.noisy, views=2)
    assert torch.equal(two_views.rows(np.arange(96), 1).inputs[0], two_views.rows(np.arange(96), 3).inputs[0])


def test_draws_are_even_and_independent_of_their_neighbours() -> None:
    draws = Draws(0, 0, np.arange(20_000))
    numbers, more = draws.uniform(2), draws.integers(-2, 3)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(float(numbers.mean()) - 0.5) < 0.01
    assert abs(float(torch.corrcoef(numbers.T)[0, 1])) < 0.03
    assert abs(float(torch.corrcoef(torch.stack([numbers[1:, 0], numbers[:-1, 0]]))[0, 1])) < 0.03
    assert torch.bincount(more + 2).min() > 3800
    assert torch.equal(Draws(0, 0, np.array([5])).uniform(2)[0], Draws(0, 0, np.arange(9)).uniform(2)[5])


def test_a_materialised_data_set_is_mapped_not_loaded(tmp_path: Path) -> None:
    specs = tuple(TensorSpec(name=name, shape=("batch", 2), dtype="float32") for name in ("a", "b"))
    rows = [{"a": np.full(2, i, np.float32), "b": np.full(2, -i, np.float32)} for i in range(5)]
    samples = [Sample(inputs=row, target=i) for i, row in enumerate(rows)]
    write_dataset(samples, tmp_path, specs=specs, stateful=False, source="d", task=NoProgress(), check=never_stop)
    loader = ArrayLoader.of(Dataset.open(tmp_path), ("b", "a"), batch_size=2)
    assert all(isinstance(array, np.memmap) for array in loader.inputs)
    batch = next(loader.batches(0))
    assert torch.equal(batch.inputs[0][:, 0], -batch.target)
    assert torch.equal(batch.inputs[1][:, 0], batch.target)


def test_sequences_of_calls_are_left_to_the_user(tmp_path: Path) -> None:
    specs = (TensorSpec(name="a", shape=("batch", 2), dtype="float32"),)
    samples = [Sample(inputs={"a": np.zeros((3, 2), np.float32)})]
    write_dataset(samples, tmp_path, specs=specs, stateful=True, source="d", task=NoProgress(), check=never_stop)
    with pytest.raises(DataError, match="carries a state from call to call"):
        ArrayLoader.of(Dataset.open(tmp_path), ("a",))


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(DataError, match=r"different lengths: \[2, 3\]"):
        ArrayLoader(inputs=(np.zeros(3),), target=np.zeros(2))
    with pytest.raises(DataError, match="nothing to train on"):
        ArrayLoader(inputs=(np.zeros(0),))


def test_what_loaders_yield_becomes_a_batch() -> None:
    x, y = np.zeros((2, 3)), np.ones(2)
    assert as_batch(x, 0, 0).target is None
    assert torch.equal(as_batch((x, y), 0, 0).target, torch.ones(2, dtype=torch.float64))
    named = as_batch({"a": x, "b": x, "target": y}, 0, 0)
    assert (sorted(named.inputs), len(named)) == (["a", "b"], 2)
    given = as_batch(Batch(inputs=[x, [x]], index=torch.arange(2)), 4, 7)
    assert (given.epoch, given.number, len(given.inputs[1])) == (4, 7, 1)
    assert given.map(lambda tensor: tensor[:1]).index is not None
