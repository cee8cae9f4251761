from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from edgebuild.errors import EdgebuildError, Interrupted, ModelError, UsageError
from edgebuild.models import compressed_model
from edgebuild.techniques.distilling.distil import Distil, DistilParameters
from edgebuild.techniques.report import read_report
from edgebuild.training.teachers import LiveTeacher

from . import zoo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgebuild.training.batches import Batch
    from edgebuild.training.randomness import Draws

HERE = "tests.techniques.test_distil"


def small(original: nn.Module) -> nn.Module:
    assert isinstance(original, nn.Module)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def wrong(original: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))


def twin(original: nn.Module) -> nn.Module:
    return zoo.grown(zoo.ZOO["residual"], seed=3)


def expert(original: nn.Module) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), (1, 4)


def lost(original: nn.Module) -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), (1, 5)


def failing(*anything: Any) -> Any:
    raise KeyError("nothing there")


def number(original: nn.Module) -> int:
    return 3


def noisy(inputs: Any, draws: Draws) -> Any:
    (image,) = inputs
    return (image + 0.1 * draws.uniform(*image.shape[1:]),)


def careful(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(parameters, lr=0.01)


def not_an_optimiser(parameters: list[nn.Parameter]) -> tuple[()]:
    del parameters
    return ()


def distilled(
    tmp_path: Path,
    animal: str = "residual",
    *,
    name: str = "out",
    target: Callable[[int], Any] | None = None,
    **parameters: Any,
) -> Path:
    inputs = tmp_path / "inputs" / (animal if target is None else f"{animal}-of-{name}")
    found = {n: inputs / n for n in ("model", "calibration")} | {"teacher": inputs / "model"}
    if not inputs.exists():
        found = zoo.write_inputs(zoo.ZOO[animal], inputs, target=target)
    step = zoo.step_of(Distil, zoo.ZOO[animal], **{"epochs": 2, "batch_size": 8, **parameters})
    out = tmp_path / name
    out.mkdir()
    step.run(found, out, zoo.context(tmp_path / f"{name}-scratch"))
    return out


def rebuilt(out: Path, animal: str = "residual", *references: str) -> nn.Module:
    module, _ = compressed_model.load_model(out, zoo.code_of(zoo.ZOO[animal], *references))
    return module


def test_the_same_seed_gives_the_same_model_and_the_report_says_how_it_went(tmp_path: Path) -> None:
    one, two = distilled(tmp_path), distilled(tmp_path, name="again")
    assert (one / compressed_model.WEIGHTS_FILE).read_bytes() == (two / compressed_model.WEIGHTS_FILE).read_bytes()
    assert read_report(one).summary.startswith("6 steps of distillation; the loss went from ")


@pytest.mark.parametrize("target", [lambda i: f"line {i}", lambda i: np.arange(i % 3), lambda i: np.arange(5) + i])
def test_labels_that_no_loss_reads_teach_nothing(tmp_path: Path, target: Callable[[int], Any]) -> None:
    """Texts, and rows of symbols: what a metric reads, and once pulled all outputs towards zero."""
    out = distilled(tmp_path, name="a", target=target)
    plain = distilled(tmp_path, name="b", target=target, hard_weight=0.0)
    assert (out / compressed_model.WEIGHTS_FILE).read_bytes() == (plain / compressed_model.WEIGHTS_FILE).read_bytes()
    assert read_report(out).notes == ("No loss is known for the labels: what is learnt is what the original answers.",)
    with pytest.raises(EdgebuildError, match=r"The loss needs targets|The loss failed"):
        distilled(tmp_path, name="c", target=target, hard_weight=0.5)


def test_an_optimiser_of_ones_own_is_the_one_that_trains(tmp_path: Path) -> None:
    usual, own = distilled(tmp_path), distilled(tmp_path, name="own", optimiser=f"{HERE}:careful")
    assert (usual / compressed_model.WEIGHTS_FILE).read_bytes() != (own / compressed_model.WEIGHTS_FILE).read_bytes()
    with pytest.raises(ModelError, match="The optimiser callable returned a tuple"):
        distilled(tmp_path, name="none", optimiser=f"{HERE}:not_an_optimiser")
    with pytest.raises(ValueError, match='takes "sgd", "adamw" or "module:function", not "adam"'):
        DistilParameters(optimiser="adam")


@pytest.mark.parametrize("animal", zoo.ZOO)
def test_every_model_can_be_distilled_into_itself(tmp_path: Path, animal: str) -> None:
    rebuilt(distilled(tmp_path, animal, epochs=1), animal)


@pytest.mark.parametrize(
    "parameters",
    [
        {"match": ["standardised-l2"], "hard_weight": 0},
        {"match": ["standardised-l2"], "cache": False},
        {"augment": f"{HERE}:noisy", "views": 2},
        {"optimiser": f"{HERE}:careful"},
        {"hint": ["one", "two"]},
        {"blocks": ["one", "two"], "block_epochs": 1},
        {"teachers": [f"{HERE}:twin"]},
        {"specialists": [f"{HERE}:expert"]},
        {"ema": 0.9, "optimiser": "adamw", "steps": 4, "epochs": None},
    ],
    ids=["mimic", "mimic-live", "augment", "optimiser", "hint", "blocks", "ensemble", "specialist", "steps"],
)
def test_each_way_of_teaching_trains(tmp_path: Path, parameters: dict[str, Any]) -> None:
    before = rebuilt(_model(tmp_path)).state_dict()
    after = rebuilt(distilled(tmp_path, **parameters)).state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in before)


def _model(tmp_path: Path) -> Path:
    return zoo.write_inputs(zoo.ZOO["residual"], tmp_path / "inputs" / "residual")["model"]


def test_a_shallow_student_and_one_of_the_users_take_the_models_place(tmp_path: Path) -> None:
    shallow = distilled(tmp_path, student="shallow", hidden=8, bottleneck=4)
    assert [tuple(p.shape) for p in rebuilt(shallow).parameters()] == [(4, 192), (8, 4), (8,), (5, 8), (5,)]
    own = distilled(tmp_path, name="own", student=f"{HERE}:small")
    assert isinstance(rebuilt(own, "residual", f"{HERE}:small")[0], nn.Conv2d)  # type: ignore[index]
    report = read_report(own)
    assert report.parameters_after < report.parameters_before
    assert [layer.layer for layer in report.layers] == ["the whole model"]


def test_a_student_learns_its_teacher(tmp_path: Path) -> None:
    out = distilled(tmp_path, student="shallow", hidden=64, epochs=60, optimiser="adamw", hard_weight=0)
    module = rebuilt(out)
    (x,) = zoo.feeds(zoo.ZOO["residual"], 24, seed=1)
    with torch.no_grad():
        got, expected = module(x).log_softmax(1), zoo.grown(zoo.ZOO["residual"])(x).log_softmax(1)
    # How much of what tells the teacher's samples apart is missed: 200 times it after one epoch. The likeliest classes
    # are no such measure: two of them are so close that kernels decide.
    missed = (got - expected).pow(2).mean() / (expected - expected.mean(0)).pow(2).mean()
    assert float(missed) < 0.2


@pytest.mark.parametrize(
    ("animal", "parameters", "message"),
    [
        ("unet", {"student": "shallow"}, "A shallow student takes one input of numbers and gives one row"),
        ("two-inputs", {"student": "shallow"}, "takes 2 input"),
        ("residual", {"student": f"{HERE}:wrong"}, r"changed the model's outputs from float32 \[\d, 5\] to .*4\]"),
        ("residual", {"hint": ["nowhere", "two"]}, "no layer 'nowhere'"),
        ("residual", {"blocks": ["head", "nowhere"]}, "no layer 'nowhere'"),
        ("residual", {"student": f"{HERE}:failing"}, "failing failed: KeyError: 'nothing there'"),
        ("residual", {"teachers": [f"{HERE}:failing"]}, "failing failed: KeyError"),
        ("residual", {"teachers": [f"{HERE}:number"]}, "number returned a int, not a torch.nn.Module"),
        ("residual", {"specialists": [f"{HERE}:failing"]}, "failing failed: KeyError"),
        ("residual", {"specialists": [f"{HERE}:number"]}, "number returned no specialist, but a int"),
        ("residual", {"specialists": [f"{HERE}:lost"]}, r"knows the classes \[1, 5\], and the model has 5"),
        ("residual", {"augment": f"{HERE}:failing"}, "failing failed: KeyError"),
        ("unet", {"match": ["kl", "l2", "l1"]}, "names 3 losses for the model's 2 outputs"),
        ("residual", {"match": ["none"], "hard_weight": 0}, "nothing to learn from"),
        ("unet", {"match": ["none", "none"]}, "nothing to learn from"),
        ("residual", {"learning_rate": 1e30, "optimiser": "sgd", "clip": None}, r"^The loss became (nan|inf)"),
    ],
)
def test_what_can_not_be_taught_is_told(tmp_path: Path, animal: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgebuildError, match=message) as caught:
        distilled(tmp_path, animal, **parameters)
    assert isinstance(caught.value, ModelError | UsageError)


def test_a_student_of_its_own_after_other_steps_is_refused(tmp_path: Path) -> None:
    first = distilled(tmp_path, student="shallow")
    (tmp_path / "inputs" / "residual" / "model").rename(tmp_path / "inputs" / "residual" / "original")
    first.rename(tmp_path / "inputs" / "residual" / "model")
    with pytest.raises(ModelError, match="would throw away what earlier steps made"):
        distilled(tmp_path, name="second", student="shallow")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"hint": ["one"]}, "names two layers"),
        ({"views": 2}, "goes with `augment`"),
        ({"specialists": ["a:b"], "match": ["l2"]}, "which only `kl` compares"),
        ({"epochs": 1, "steps": 1}, "not both"),
        ({"match": ["cosine"]}, "Input should be"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_while_planning(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DistilParameters(**parameters)


def test_what_a_step_needs_follows_from_its_parameters() -> None:
    plain = Distil.needs(DistilParameters())
    assert (plain.train, plain.labels, plain.references) == (True, False, ())
    asked = Distil.needs(DistilParameters(hard_weight=0.5, student="a:b", teachers=("c:d",), augment="e:f"))
    assert (asked.labels, asked.references) == (True, ("e:f", "a:b", "c:d"))


def test_a_stopped_step_goes_on_and_does_not_ask_the_teacher_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = distilled(tmp_path)
    inputs = tmp_path / "inputs" / "residual"
    found = {"model": inputs / "model", "calibration": inputs / "calibration", "teacher": inputs / "model"}
    step = zoo.step_of(Distil, zoo.ZOO["residual"], epochs=2, batch_size=8)
    asked: list[int] = []
    live = LiveTeacher.__call__

    def counted(self: LiveTeacher, batch: Batch) -> tuple[torch.Tensor, ...]:
        asked.append(len(batch))
        return live(self, batch)

    monkeypatch.setattr(LiveTeacher, "__call__", counted)
    checks: list[int] = []

    def check() -> None:
        checks.append(1)
        if len(checks) == 8:
            raise Interrupted("stopped")

    out = tmp_path / "stopped"
    out.mkdir()
    context = zoo.context(tmp_path / "stopped-scratch")
    with pytest.raises(Interrupted):
        step.run(found, out, replace(context, check=check))
    assert asked == [8, 8, 8]
    step.run(found, out, context)
    assert asked == [8, 8, 8]
    assert (out / compressed_model.WEIGHTS_FILE).read_bytes() == (whole / compressed_model.WEIGHTS_FILE).read_bytes()


def test_a_class_that_was_never_seen_gets_its_share_by_one_bias(tmp_path: Path) -> None:
    out = distilled(tmp_path, priors=[[2, 0.5]], epochs=1)
    (x,) = zoo.feeds(zoo.ZOO["residual"], 24, seed=1)
    with torch.no_grad():
        answers = rebuilt(out)(x).argmax(1)
    assert int((answers == 2).sum()) == 12
    assert "for class 2" in read_report(out).layers[0].after


def test_of_a_model_that_ends_in_a_softmax_the_logits_before_it_are_set(tmp_path: Path) -> None:
    out = distilled(tmp_path, student=f"{HERE}:probabilities", priors=[[2, 0.5]], epochs=1)
    (x,) = zoo.feeds(zoo.ZOO["residual"], 24, seed=1)
    with torch.no_grad():
        answers = rebuilt(out, "residual", f"{HERE}:probabilities")(x)
    assert torch.allclose(answers.sum(1), torch.ones(24))
    assert int((answers.argmax(1) == 2).sum()) == 12


def headless(original: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def misleading(original: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Softmin(1))


def probabilities(original: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Softmax(1))


@pytest.mark.parametrize(
    ("student", "message"), [("headless", "no dense layer with 5 biases"), ("misleading", "isn't where its output")]
)
def test_a_bias_that_can_not_be_set_is_told(tmp_path: Path, student: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        distilled(tmp_path, student=f"{HERE}:{student}", priors=[[2, 0.5]], epochs=1)
