"""F1 over boxes by hand, and COCO's mean average precision against pycocotools in one piece."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from edgebuild.errors import DataError, EnvironmentGap
from edgebuild.judging import detection
from edgebuild.judging.metrics import named_metric
from tests.needs import module, skip_without


def value(name: str, output: Any, targets: Any) -> float:
    return named_metric(name).value({"y": output}, targets)


def listed(*items: Any) -> Any:
    kept = np.empty(len(items), dtype=object)
    kept[:] = [np.asarray(item, dtype=np.float64) for item in items]
    return kept


SQUARE = [0, 0, 10, 10]


@pytest.mark.parametrize(
    ("found", "wanted", "f1"),
    [
        ([SQUARE], [SQUARE], 1),
        ([[0, 0, 10, 5]], [SQUARE], 1),  # covers exactly half
        ([[0, 0, 10, 4.9]], [SQUARE], 0),
        ([SQUARE, SQUARE], [SQUARE], 2 / 3),  # one of its own each
        ([[*SQUARE, 0.4]], [SQUARE], 0),
        ([[*SQUARE, 0.9, 1]], [[*SQUARE, 1]], 1),
        ([[*SQUARE, 0.9, 1]], [[*SQUARE, 2]], 0),
        ([], [SQUARE], 0),
    ],
)
def test_f1_of_one_image(found: Any, wanted: Any, f1: float) -> None:
    assert value("box_f1", listed(found), listed(wanted)) == pytest.approx(f1)


def test_the_surest_box_chooses_first_and_images_add_up() -> None:
    """The surer box takes the only one that the other could have had, too: one match, 2 found, 2 wanted."""
    wanted = listed([SQUARE, [20, 0, 30, 10]], [])
    found = listed([[0, 0, 10, 8, 0.6], [0, 0, 10, 10, 0.9]], [])
    assert value("box_f1", found, wanted) == pytest.approx(2 * 1 / 4)
    score = named_metric("box_f1").prepare({"y": found}, wanted)
    assert score(np.array([3, 9])) == pytest.approx(2 * 1 / 4)
    assert np.isnan(score(np.array([0, 2])))


def test_a_tensor_that_a_model_fills_up_with_zeros_is_taken_as_it_is() -> None:
    tensor = np.zeros((2, 5, 6), dtype=np.float32)
    tensor[0, 0] = [*SQUARE, 0.8, 3]
    assert value("box_f1", tensor, listed([[*SQUARE, 3]], [])) == 1


def mappings(*items: Any) -> Any:
    kept = np.empty(len(items), dtype=object)
    kept[:] = items
    return kept


def test_boxes_may_be_columns_of_a_mapping() -> None:
    wanted = mappings({"boxes": [SQUARE, [20, 0, 30, 10]], "labels": [1, 2]}, {"boxes": [], "labels": []})
    found = mappings({"boxes": [SQUARE, [20, 0, 30, 10]], "labels": [1, 1], "scores": [0.9, 0.8]}, {"boxes": []})
    assert value("box_f1", found, wanted) == pytest.approx(2 * 1 / 4)
    for bad in ({"labels": [1]}, {"boxes": [SQUARE], "labels": [1, 2]}, {"boxes": [[1, 2, 3]]}):
        with pytest.raises(DataError, match="the target of sample 0 is a mapping, and not one of boxes"):
            value("box_f1", found, mappings(bad, {"boxes": []}))


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        ([[1, 2, 3]], [SQUARE], r"the output of sample 0 is float64 of shape \(1, 3\), not \(boxes, 4 to 6\) finite"),
        ([SQUARE], [[*SQUARE, 1, 0]], r"the target of sample 0 is float64 of shape \(1, 6\), not \(boxes, 4 to 5\)"),
        ([[0, 0, 1, np.inf]], [SQUARE], "finite numbers"),
        ([SQUARE], [[10, 10, 5, 5]], "a box that ends before it starts"),
    ],
)
def test_boxes_that_do_not_fit(found: Any, wanted: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        value("box_f1", listed(found), listed(wanted))


def detections(random: np.random.Generator, digits: int, images: int = 25) -> tuple[Any, Any]:
    """Boxes near the wanted ones, some missing, some too many, some of another class, scores of so many digits."""
    found, wanted = [], []
    for _ in range(images):
        corner = random.uniform(0, 80, (random.integers(0, 6), 2))
        truth = np.column_stack(
            [corner, corner + random.uniform(5, 40, corner.shape), random.integers(0, 3, len(corner))]
        )
        seen = truth[random.random(len(truth)) < 0.8]
        near = np.concatenate([seen, seen[:1], truth[:1]])
        near[:, :4] += random.normal(0, 2, (len(near), 4))
        near[:, 2:4] = np.maximum(near[:, 2:4], near[:, :2])
        scores = np.round(random.random(len(near)), digits)
        found.append(np.column_stack([near[:, :4], scores, near[:, 4]]))
        wanted.append(truth)
    return listed(*found), listed(*wanted)


def by_pycocotools(found: Any, wanted: Any) -> tuple[float, float]:
    """Its own way from annotations to the summary: mAP and mAP at 0.5."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def annotations(samples: Any, scored: bool) -> list[dict[str, Any]]:
        rows = [(image, row) for image, boxes in enumerate(samples) for row in boxes if not scored or row[4] > 0]
        made = []
        for number, (image, row) in enumerate(rows, start=1):
            x, y, w, h = row[0], row[1], row[2] - row[0], row[3] - row[1]
            made.append({"id": number, "image_id": image, "category_id": int(row[-1]), "bbox": [x, y, w, h]})
            made[-1].update(area=w * h, iscrowd=0, **({"score": row[4]} if scored else {}))
        return made

    sides = []
    for samples, scored in ((wanted, False), (found, True)):
        side = COCO()
        side.dataset = {
            "images": [{"id": image} for image in range(len(wanted))],
            "categories": [{"id": label} for label in range(3)],
            "annotations": annotations(samples, scored),
        }
        side.createIndex()
        sides.append(side)
    evaluation = COCOeval(*sides, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("digits", [1, 9])
def test_mean_average_precision_is_pycocotools(seed: int, digits: int) -> None:
    skip_without(module("pycocotools", "pycocotools"))
    random = np.random.default_rng(seed)
    found, wanted = detections(random, digits)
    counts = random.integers(0, 4, len(wanted))
    rows = np.repeat(np.arange(len(wanted)), counts)
    with contextlib.redirect_stdout(io.StringIO()):
        whole, resampled = by_pycocotools(found, wanted), by_pycocotools(found[rows], wanted[rows])
    for position, name in enumerate(("coco_map", "coco_map50")):
        score = named_metric(name).prepare({"y": found}, wanted)
        assert score(None) == pytest.approx(whole[position], abs=1e-9)
        # Boxes of equal scores in copies of an image have no order of their own.
        assert score(counts) == pytest.approx(resampled[position], abs=1e-9 if digits > 1 else 0.02)
    assert 0.1 < whole[0] < whole[1] < 0.95


def test_without_the_evaluator_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "find_spec", lambda _: None)
    with pytest.raises(EnvironmentGap, match="the metric coco_map needs pycocotools") as caught:
        named_metric("coco_map")
    assert "edgebuild[detection]" in (caught.value.hint or "")
