"""Weight sharing: few values per layer, zeros stay zeros, values are trained, and the file is as small as it says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgebuild.devices.runner import weights_file
from edgebuild.errors import ModelError
from edgebuild.models import compressed_model
from edgebuild.models.weights_file import encode, plain_tensors
from edgebuild.techniques.low_bit.clusters import shared_values
from edgebuild.techniques.low_bit.share_weights import ShareWeights
from edgebuild.techniques.pruning.masking import prunable
from edgebuild.techniques.pruning.unstructured import PruneUnstructured
from edgebuild.techniques.report import read_report

from . import zoo

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.techniques.technique import Technique


def run(technique: type[Technique], inputs: dict[str, Path], out: Path, **parameters: Any) -> Path:
    step = zoo.step_of(technique, zoo.ZOO["residual"], **{"epochs": 1, "batch_size": 8, **parameters})
    out.mkdir()
    step.run(inputs, out, zoo.context(out.parent / f"{out.name}-scratch"))
    return out


def rebuilt(out: Path) -> torch.nn.Module:
    return compressed_model.load_model(out, zoo.code_of(zoo.ZOO["residual"]))[0]


def test_few_values_zeros_stay_and_the_file_holds_the_weights_bit_by_bit(tmp_path: Path) -> None:
    inputs = zoo.write_inputs(zoo.ZOO["residual"], tmp_path / "inputs")
    pruned = run(PruneUnstructured, inputs, tmp_path / "pruned", sparsity=0.8)
    out = run(ShareWeights, {**inputs, "model": pruned}, tmp_path / "shared", bits=3, conv_bits=4)
    before, after = rebuilt(pruned), rebuilt(out)
    for weight in prunable(after)[0]:
        was, now = weight.values(before), weight.values(after)
        assert torch.equal(now == 0, was == 0)
        assert len(torch.unique(now)) <= 1 + (8 if weight.layer == "head" else 16)
    tensors = plain_tensors(after)
    assert set(tensors) == set(zoo.ZOO["residual"].factory().state_dict())
    data = encode(tensors)
    back = weights_file.decode(data)
    assert all(back[name].tobytes() == value.tobytes() for name, value in tensors.items())
    said = re.search(r"weights file of ([\d,]+)", read_report(out).summary)
    assert said
    assert int(said[1].replace(",", "")) == len(data)


def test_values_are_trained_unless_nobody_wants_that(tmp_path: Path) -> None:
    inputs = zoo.write_inputs(zoo.ZOO["residual"], tmp_path / "inputs")
    still = rebuilt(run(ShareWeights, inputs, tmp_path / "still", tune=False))
    tuned = rebuilt(run(ShareWeights, inputs, tmp_path / "tuned"))
    name = "one.0.parametrizations.weight.0."
    assert torch.equal(still.state_dict()[name + "index"], tuned.state_dict()[name + "index"])
    assert not torch.equal(still.state_dict()[name + "codebook"], tuned.state_dict()[name + "codebook"])
    step = zoo.step_of(ShareWeights, zoo.ZOO["residual"], tune=False)
    assert not ShareWeights.needs(step.parameters).train


def test_a_codebook_larger_than_the_layer_is_told_and_alone_refused(tmp_path: Path) -> None:
    inputs = zoo.write_inputs(zoo.ZOO["residual"], tmp_path / "inputs")
    out = run(ShareWeights, inputs, tmp_path / "some", bits=8, tune=False)
    reasons = {layer.layer: layer.reason for layer in read_report(out).layers if layer.reason}
    assert reasons == {"head": "a codebook of 256 entries is larger than its 160 weights"}
    others = ("stem*", "one*", "two*", "down*", "short")
    with pytest.raises(ModelError, match=r"no layer to share \(head: a codebook of 256 entries is larger") as caught:
        run(ShareWeights, inputs, tmp_path / "none", bits=8, skip=others)
    assert caught.value.hint


@given(
    hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-10, 10, width=32)),
    st.integers(2, 40),
)
@settings(deadline=None, max_examples=60)
def test_every_weight_gets_its_nearest_value(values: Any, entries: int) -> None:
    centres, index = shared_values(values, entries)
    assert len(centres) <= entries
    assert set(index.tolist()) == set(range(len(centres)))
    distance = np.abs(values[:, None].astype(np.float64) - centres)
    chosen = np.take_along_axis(distance, index[:, None], 1)[:, 0]
    np.testing.assert_allclose(chosen, distance.min(1), atol=1e-9)


def test_few_different_weights_lose_nothing() -> None:
    values = np.array([3.0, -1.0, 3.0, 0.5, -1.0])
    centres, index = shared_values(values, 8)
    np.testing.assert_allclose(centres[index], values)
