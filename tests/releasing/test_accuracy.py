"""How a release's accuracy is held against the last one's: sample by sample, and only on the same samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgebuild.core.scores import Scores
from edgebuild.core.verdict import Drop
from edgebuild.errors import ReleaseError
from edgebuild.releasing.accuracy import PATH, Accuracy, accuracy_of, accuracy_row
from edgebuild.releasing.bundle import read_bundle
from edgebuild.releasing.values import TargetRelease
from tests.releasing.bundles import FILES, files_of, make_bundle

if TYPE_CHECKING:
    from pathlib import Path

N = 2000


def accuracy(hits: Any, *, reference: float = 0.95, **fields: Any) -> Accuracy:
    """What a release says whose samples came to this."""
    scores = tuple(np.asarray(hits, dtype=float).tolist())
    mean = sum(scores) / len(scores)
    drop = Drop(
        metric="accuracy", split="test", samples=len(scores), reference=reference, artifact=mean,
        drop=reference - mean, low=reference - mean - 0.01, high=reference - mean + 0.01, level=0.95, method="a test",
        budget=0.01,
    )  # fmt: skip
    given: dict[str, Any] = {"metric": "accuracy", "direction": "maximise", "span": 1.0, "test": "ab" * 32}
    return Accuracy(drop=drop, scores=Scores(**{**given, "scores": scores, **fields}))


def right(share: float) -> Any:
    return np.arange(N) < share * N


@pytest.mark.parametrize(
    ("new", "outcome"), [(0.95, "equivalent"), (0.93, "worse"), (0.97, "better"), (0.949, "equivalent")]
)
def test_pairs_decide_whatever_the_originals_were(new: float, outcome: str) -> None:
    row = accuracy_row(accuracy(right(new), reference=0.99), accuracy(right(0.95), reference=0.951))
    assert row.outcome == outcome, row
    assert "in pairs" in row.why
    assert (row.new, row.old) == (f"{new:.4f}", "0.9500")


def test_pairs_see_what_the_two_intervals_cannot() -> None:
    """A release that loses half a point on the very same samples: both intervals alone are a point wide."""
    new, old = right(0.945), right(0.95)
    assert accuracy_row(accuracy(new), accuracy(old)).outcome == "worse"
    apart = accuracy_row(accuracy(new, test="cd" * 32), accuracy(old))
    assert (apart.outcome, "by both intervals" in apart.why) == ("inconclusive", True)


def test_what_is_to_be_small_is_worse_where_it_grows() -> None:
    errors: dict[str, Any] = {"direction": "minimise", "span": None, "metric": "mae"}
    new, old = (accuracy(np.linspace(0.0, 1.0, N) + shift, **errors) for shift in (0.1, 0.0))
    assert accuracy_row(new, old).outcome == "worse"
    assert accuracy_row(old, new).outcome == "better"


def test_a_few_groups_decide_nothing() -> None:
    groups = tuple(index % 5 for index in range(N))
    row = accuracy_row(accuracy(right(0.5), groups=groups), accuracy(right(0.95), groups=groups))
    assert row.outcome == "inconclusive"


@pytest.mark.parametrize("fields", [{"test": ""}, {"test": "cd" * 32}, {"groups": tuple(range(N))}])
def test_other_samples_are_no_pairs(fields: dict[str, Any]) -> None:
    row = accuracy_row(accuracy(right(0.95), reference=0.99, **fields), accuracy(right(0.95)))
    assert row.outcome == "inconclusive"
    assert "other test data" in row.why


def bundle_with(folder: Path, said: Accuracy, scores: bytes) -> Path:
    """A bundle that claims a drop, and holds these scores."""
    files = files_of("pi5", {**FILES, PATH: scores})
    release = TargetRelease.model_validate_json(files["release.json"]).model_copy(update={"accuracy": said.drop})
    return make_bundle(folder, ("pi5",), {**FILES, PATH: scores}, releases={"pi5": release})


def test_scores_are_read_back_and_have_to_add_up(tmp_path: Path) -> None:
    said = accuracy(right(0.95))
    assert said.scores is not None
    good = read_bundle(bundle_with(tmp_path / "good", said, said.scores.to_json().encode()))
    assert accuracy_of(good, good.targets[0]) == said
    changes: tuple[dict[str, Any], ...] = (
        {"scores": tuple(right(0.96).astype(float).tolist())},
        {"scores": said.scores.scores[:-1]},
        {"metric": "mae"},
        {"scores": (1e308,) * N},
        {"scores": ()},
        {"groups": (1, 2)},
    )
    for number, change in enumerate(changes):
        bad = said.scores.model_copy(update=change).to_json().encode()
        bundle = read_bundle(bundle_with(tmp_path / f"bad-{number}", said, bad))
        with pytest.raises(ReleaseError, match="doesn't add up"):
            accuracy_of(bundle, bundle.targets[0])


@pytest.mark.parametrize("bad", [b"", b"{}", b"[" * 10_000, b'{"scores":["NaN"]}', b"\xff", b"[1e999]"])
def test_scores_that_are_none_are_refused(tmp_path: Path, bad: bytes) -> None:
    bundle = read_bundle(bundle_with(tmp_path / "bad", accuracy(right(0.95)), bad))
    with pytest.raises(ReleaseError, match="can't be read"):
        accuracy_of(bundle, bundle.targets[0])


@pytest.mark.parametrize("odd", ["Infinity", "-Infinity", "NaN", '"Infinity"', "1e999"])
def test_scores_that_are_no_numbers_are_refused(tmp_path: Path, odd: str) -> None:
    said = accuracy(right(0.95))
    assert said.scores is not None
    text = said.scores.to_json().replace('"scores":[1.0,1.0', f'"scores":[{odd},-Infinity', 1)
    assert odd in text
    bundle = read_bundle(bundle_with(tmp_path / "bad", said, text.encode()))
    with pytest.raises(ReleaseError, match="can't be read"):
        accuracy_of(bundle, bundle.targets[0])


def test_a_release_without_scores_has_its_drop_alone(tmp_path: Path) -> None:
    bundle = read_bundle(make_bundle(tmp_path / "bundle", ("pi5",)))
    assert accuracy_of(bundle, bundle.targets[0]) == Accuracy(drop=None)
