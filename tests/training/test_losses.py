from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgebuild.errors import ModelError, UsageError
from edgebuild.training import losses
from edgebuild.training.batches import Batch
from edgebuild.training.loop import train
from edgebuild.training.pairs import Blockwise, Hint, Pair, freeze
from edgebuild.training.plan import TrainingPlan
from edgebuild.training.teachers import LiveTeacher

from . import nets

if TYPE_CHECKING:
    from pathlib import Path

GENERATOR = torch.Generator().manual_seed(0)
ONE, TWO = torch.randn(2, 6, 5, generator=GENERATOR)
TARGET = torch.tensor([0, 1, 2, 3, 4, 0])


def batch(**settings: Any) -> Batch:
    return Batch(**{"inputs": (torch.zeros(6, 2),), "target": TARGET, **settings})


def fixed(*outputs: torch.Tensor) -> losses.Teacher:
    return lambda _: outputs


def images() -> torch.Tensor:
    return torch.from_numpy(nets.digits(64)[0]).reshape(-1, 1, 8, 8)


def test_soft_targets_are_torchs_own_divergence_times_t_squared() -> None:
    expected = functional.kl_div(
        functional.log_softmax(ONE / 3, 1), functional.log_softmax(TWO / 3, 1), log_target=True, reduction="batchmean"
    )
    assert torch.isclose(losses.soft_targets(ONE, TWO, 3.0), 9 * expected)
    assert losses.soft_targets(ONE, ONE) == 0


@pytest.mark.parametrize("shape", [(6, 5), (2, 5, 3, 4)])
def test_probabilities_are_compared_as_the_logits_that_they_come_from(shape: tuple[int, ...]) -> None:
    student, teacher = (torch.randn(shape, generator=GENERATOR, requires_grad=True) for _ in range(2))
    target = torch.zeros(shape[0], *shape[2:])
    for loss in (
        lambda own, other: losses.soft_targets(own, other, 3.0),
        lambda own, other: losses.cross_entropy(own, target) + 0.0 * other.sum(),
    ):
        plain = loss(student, teacher)
        ended = loss(student.softmax(1), teacher.softmax(1))
        torch.testing.assert_close(ended, plain, rtol=1e-4, atol=1e-5)
        gradients = [torch.autograd.grad(each, student, retain_graph=True)[0] for each in (plain, ended)]
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_certain_probabilities_and_logits_stay_finite_and_as_they_are() -> None:
    certain = functional.one_hot(TARGET, 5).float()
    assert losses.soft_targets(ONE.softmax(1), certain).isfinite()
    for logits in (ONE, ONE.abs(), ONE[:, 0]):
        assert losses.as_logits(logits) is logits


def test_at_a_high_temperature_soft_targets_are_l2_on_centred_logits() -> None:
    """Hinton 2015, equation 4: the gradient tends to (z - v) / N, which is that of the squared difference / 2N."""
    student = (ONE - ONE.mean(1, keepdim=True)).requires_grad_()
    teacher = TWO - TWO.mean(1, keepdim=True)
    (gradient,) = torch.autograd.grad(losses.soft_targets(student, teacher, 1000.0), student)
    assert torch.allclose(gradient, (student - teacher).detach() / 5 / 6, atol=1e-4)


def test_dense_maps_are_compared_per_pixel() -> None:
    student, teacher = torch.randn(2, 2, 5, 3, 4, generator=GENERATOR)
    flat = [x.permute(0, 2, 3, 1).reshape(-1, 5) for x in (student, teacher)]
    assert torch.isclose(losses.soft_targets(student, teacher), losses.soft_targets(*flat))


def test_binary_divergence_is_zero_only_where_equal() -> None:
    assert abs(float(losses.binary_kl(ONE, ONE))) < 1e-6
    assert losses.binary_kl(ONE, TWO) > 0.01


def test_standardised_logits_weigh_every_class_alike() -> None:
    deviation = torch.tensor([1.0, 10.0, 0.1, 1.0, 0.0])
    loss = losses.StandardisedL2(deviation)
    scale = torch.tensor([1.0, 10.0, 0.1, 1.0, 1.0])
    assert torch.isclose(loss(ONE * scale, TWO * scale), losses.l2(ONE, TWO))


@pytest.mark.parametrize("match", [*losses.MATCHES.values(), losses.StandardisedL2(torch.ones(4))])
def test_outputs_that_do_not_fit_are_told(match: losses.Match) -> None:
    with pytest.raises(ModelError, match=r"teacher's output has shape \[6, 4\], the student's \[6, 5\]"):
        match(ONE, TWO[:, :4])


def test_unknown_labels_have_no_share() -> None:
    partly = torch.tensor([0, -1, 2, -1, 4, -1])
    assert torch.isclose(losses.cross_entropy(ONE, partly), functional.cross_entropy(ONE[::2], TARGET[::2]))
    assert losses.cross_entropy(ONE, torch.full((6,), -1)) == 0
    numbers = torch.where(torch.arange(5) % 2 == 0, TWO, torch.nan)
    assert torch.isclose(losses.known_l2(ONE, numbers), losses.l2(ONE[:, ::2], TWO[:, ::2]))


def test_distillation_adds_a_share_of_the_labels_and_anneals_it() -> None:
    loss = losses.Distil(fixed(TWO), losses.l2, hard_weight=losses.linear(1.0, 0.0))
    soft, hard = losses.l2(ONE, TWO), functional.cross_entropy(ONE, TARGET)
    assert torch.isclose(loss(ONE, batch(done=0.25)), soft + 0.75 * hard)
    unlabelled = losses.Distil(fixed(TWO), losses.l2)
    assert torch.isclose(unlabelled(ONE, batch(target=None)), soft)
    with pytest.raises(UsageError, match="needs targets"):
        loss(ONE, batch(target=None))


def test_each_output_has_its_own_loss() -> None:
    outputs = {"classes": ONE, "boxes": TWO}
    teacher = fixed(TWO, ONE)
    loss = losses.Distil(teacher, [losses.soft_targets, losses.l1])
    assert torch.isclose(loss(outputs, batch()), losses.soft_targets(ONE, TWO) + losses.l1(TWO, ONE))
    assert torch.isclose(losses.Distil(teacher, [None, losses.l1])(outputs, batch()), losses.l1(TWO, ONE))
    for wrong, message in (([losses.l1], "1 losses are chosen for 2"), ([None, None], "compares no output")):
        with pytest.raises(UsageError, match=message):
            losses.Distil(teacher, wrong)(outputs, batch())
    with pytest.raises(ModelError, match=r"teacher has 1 output\(s\), the student 2"):
        losses.Distil(fixed(ONE), losses.l2)(outputs, batch())


def test_apprentice_is_its_equation_and_teaches_the_teacher_by_labels_only() -> None:
    teacher, apprentice = TWO.clone().requires_grad_(), ONE.clone().requires_grad_()
    loss = losses.Apprentice()((teacher, apprentice), batch())
    soft = -(functional.softmax(TWO, 1) * functional.log_softmax(ONE, 1)).sum(1).mean()
    hard_t, hard_a = functional.cross_entropy(TWO, TARGET), functional.cross_entropy(ONE, TARGET)
    assert torch.isclose(loss, hard_t + 0.5 * hard_a + 0.5 * soft)
    torch.autograd.backward(loss)
    plain = TWO.clone().requires_grad_()
    torch.autograd.backward(functional.cross_entropy(plain, TARGET))
    assert teacher.grad is not None
    assert torch.equal(teacher.grad, plain.grad)
    assert torch.isclose(losses.Apprentice()((TWO, ONE), batch()), 0.5 * hard_a + 0.5 * soft), "schemes B and C"


@pytest.mark.parametrize("scheme", ["A", "BC"])
def test_apprentice_trains_the_right_nets(tmp_path: Path, scheme: str) -> None:
    teacher, apprentice = nets.seeded(nets.Mlp), nets.seeded(nets.Mlp, 1)
    if scheme == "BC":
        freeze(teacher)
    before = nets.state(teacher), nets.state(apprentice)
    train(Pair(teacher, apprentice), TrainingPlan(steps=3), nets.loader(), losses.Apprentice(), scratch=tmp_path)
    assert nets.same(nets.state(teacher), before[0]) == (scheme == "BC")
    assert not nets.same(nets.state(apprentice), before[1])


@pytest.mark.parametrize("layers", [("stem", "body"), ("body", "stem"), ("head", "head")])
def test_hints_teach_a_middle_layer_through_a_regressor(tmp_path: Path, layers: tuple[str, str]) -> None:
    student, teacher = nets.seeded(nets.Conv), nets.seeded(lambda: nets.Conv(6), 1)
    hint = Hint(student, layers[0], teacher, layers[1], Batch(inputs=(images()[:2],)))
    batches = [(images()[:32], None), (images()[32:], None)]
    before = nets.state(teacher), nets.state(hint.regressor)
    plan = TrainingPlan(epochs=10, optimiser="adamw", learning_rate=0.01)
    report = train(student, plan, batches, losses.Sum([(1.0, hint)]), scratch=tmp_path)
    assert report.losses[-1] < 0.8 * report.losses[0]
    assert nets.same(nets.state(teacher), before[0])
    assert not nets.same(nets.state(hint.regressor), before[1])
    hint.close()
    assert not student.get_submodule(layers[0])._forward_hooks


def test_hints_on_layers_that_can_not_be_matched_are_refused() -> None:
    student, teacher, example = nets.Conv(), nets.Conv(), Batch(inputs=(images()[:2],))
    with pytest.raises(ModelError, match="no layer 'nowhere'"):
        Hint(student, "nowhere", teacher, "stem", example)
    with pytest.raises(ModelError, match="can't be matched"):
        Hint(student, "stem", teacher, "head", example)


def test_blockwise_training_teaches_replaced_blocks_only(tmp_path: Path) -> None:
    teacher = nets.seeded(nets.Conv)
    student = nets.seeded(nets.Conv)
    student.body = nets.seeded(
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1, groups=4), nn.Conv2d(4, 4, 1), nn.ReLU()), 1
    )
    before = nets.state(student)
    pairs = Blockwise(student, teacher, [("body", "body")])
    batches = [(images()[:32], None), (images()[32:], None)]
    plan = TrainingPlan(epochs=30, optimiser="adamw", learning_rate=0.02)
    report = train(pairs, plan, batches, losses.matched_pairs, scratch=tmp_path)
    pairs.close()
    changed = {
        name.partition(".")[0] for name, value in nets.state(student).items() if not torch.equal(value, before[name])
    }
    assert changed == {"body"}
    assert report.losses[-1] < 0.5 * report.losses[0]


def test_a_mimic_learns_what_its_teacher_does_from_unlabelled_data(tmp_path: Path) -> None:
    teacher = nets.seeded(lambda: nets.Mlp(32))
    train(teacher, TrainingPlan(epochs=8), nets.loader(), losses.Supervised(), scratch=tmp_path / "teacher")
    student = nets.seeded(lambda: nets.Mlp(24, drop=0.0), 1)
    unlabelled = nets.loader()
    unlabelled = type(unlabelled)(inputs=unlabelled.inputs, batch_size=32)
    loss = losses.Distil(LiveTeacher(teacher), losses.l2)
    train(student, TrainingPlan(epochs=12), unlabelled, loss, scratch=tmp_path / "student")
    x = torch.from_numpy(nets.digits()[0])
    with torch.no_grad():
        assert float((teacher(x).argmax(1) == student(x).argmax(1)).float().mean()) > 0.9


def test_labels_of_a_fully_convolutional_classifier() -> None:
    logits, target = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, -1, 0])
    assert losses.cross_entropy(logits[:, :, None, None], target) == losses.cross_entropy(logits, target)


@pytest.mark.parametrize(
    ("shape", "target", "whole", "expected"),
    [
        ((8, 10), (8,), True, True),
        ((8, 10), (8, 1), True, True),
        ((8, 10, 1, 1), (8,), True, True),
        ((8, 4, 5, 6), (8, 5, 6), True, True),  # a map of classes
        ((8, 40, 6625), (8,), True, False),  # a line of text, by CTC
        ((8, 40, 6625), (8, 12), True, False),
        ((8, 1, 64, 64), (8, 3, 5), False, False),  # three boxes
        ((8, 1), (8,), True, False),  # yes or no, of one score
        ((8, 1), (8,), False, True),
        ((8, 3, 4), (8, 3, 4), False, True),
    ],
)
def test_which_targets_a_loss_is_known_for(
    shape: tuple[int, ...], target: tuple[int, ...], whole: bool, expected: bool
) -> None:
    assert losses.fits(shape, target, whole=whole) is expected
    if expected:
        output, numbers = torch.randn(shape), torch.zeros(target, dtype=torch.int64 if whole else torch.float32)
        assert torch.isfinite((losses.cross_entropy if whole else losses.known_l2)(output, numbers))


def test_steps_of_probabilities_are_compared_step_by_step() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randn(3, 5, 7, generator=generator).softmax(-1) for _ in range(2))
    assert torch.isclose(losses.soft_steps(one, two), losses.soft_targets(one.flatten(0, 1), two.flatten(0, 1)))
    assert losses.are_steps(one)
    assert not losses.are_steps(one.log())
    assert not losses.are_steps(one.movedim(-1, 1))  # classes on axis 1
    assert not losses.are_steps(one[0])
