from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgebuild.errors import ModelError, UsageError
from edgebuild.training.batches import Batch
from edgebuild.training.priors import bias_for_priors
from edgebuild.training.teachers import Ensemble, LiveTeacher, Specialists, combine, specialist_target

from . import nets

GENERATOR = torch.Generator().manual_seed(0)
BATCH = Batch(inputs=(torch.rand(6, 64, generator=GENERATOR),))
LOGITS = torch.randn(6, 5, generator=GENERATOR)


def test_an_ensemble_averages_logits() -> None:
    one, two = LOGITS, LOGITS.flip(0)
    (mean,) = Ensemble([lambda _: (one,), lambda _: (two,)])(BATCH)
    assert torch.allclose(mean, (one + two) / 2)
    with pytest.raises(ModelError, match=r"shape \[6, 5\], the student's \[6, 4\]|shape \[6, 4\]"):
        Ensemble([lambda _: (one,), lambda _: (one[:, :4],)])(BATCH)
    with pytest.raises(UsageError, match="at least one"):
        Ensemble([])


def test_a_live_teacher_is_in_eval_mode_and_gives_no_gradients() -> None:
    module = nets.Mlp().train()
    (logits,) = LiveTeacher(module)(BATCH)
    assert not module.training
    assert not logits.requires_grad
    with pytest.raises(ModelError, match="The teacher failed on a training batch: RuntimeError"):
        LiveTeacher(module)(Batch(inputs=(torch.zeros(2, 3),)))


def test_specialists_are_combined_as_gradient_descent_on_the_objective_would() -> None:
    heard = torch.tensor([True, True, True, True, False, True])
    specialists = [
        (torch.randn(6, 3, generator=GENERATOR), (0, 2), heard),
        (torch.randn(6, 4, generator=GENERATOR), (1, 2, 4), torch.ones(6, dtype=torch.bool)),
    ]
    free = LOGITS.clone().requires_grad_()
    optimiser = torch.optim.Adam([free], lr=0.1)
    for _ in range(400):
        optimiser.zero_grad()
        q = functional.softmax(free, 1)
        loss = functional.kl_div(q.log(), functional.softmax(LOGITS, 1), reduction="sum")
        for logits, classes, who in specialists:
            own = q[:, list(classes)]
            seen = torch.cat([own, 1 - own.sum(1, keepdim=True)], 1)
            each = functional.kl_div(seen.log(), functional.softmax(logits, 1), reduction="none").sum(1)
            loss = loss + (each * who).sum()
        torch.autograd.backward(loss)
        optimiser.step()
    assert torch.allclose(combine(LOGITS, specialists).exp(), functional.softmax(free, 1), atol=2e-3)
    assert torch.allclose(combine(LOGITS, []).exp(), functional.softmax(LOGITS, 1), atol=1e-6)


def test_a_specialist_is_heard_on_its_own_classes_only() -> None:
    sure = torch.full((6, 3), -9.0)
    sure[:, 1] = 9.0  # class 2, of its classes 0 and 2
    (together,) = Specialists(lambda _: (LOGITS,), [(lambda _: (sure,), (0, 2))])(BATCH)
    heard = torch.isin(LOGITS.argmax(1), torch.tensor([0, 2]))
    assert 0 < heard.sum() < 6
    assert (together[heard].argmax(1) == 2).all()
    assert torch.allclose(together[~heard], functional.log_softmax(LOGITS[~heard], 1), atol=1e-5)
    with pytest.raises(ModelError, match="A specialist for 3 classes has 3 outputs"):
        Specialists(lambda _: (LOGITS,), [(lambda _: (sure,), (0, 1, 2))])(BATCH)


def test_specialists_learn_their_own_numbering_and_a_dustbin() -> None:
    assert specialist_target(torch.tensor([0, 3, 2, 4, 3]), (3, 4)).tolist() == [2, 0, 2, 1, 0]


@pytest.mark.parametrize("priors", [{3: 0.1}, {3: 0.1, 7: 0.12}, {0: 0.5}])
def test_a_missing_class_is_predicted_as_often_as_it_occurs(priors: dict[int, float]) -> None:
    logits = np.random.default_rng(0).standard_normal((1000, 10))
    for label in priors:
        logits[:, label] -= 6.0
    biases = bias_for_priors(logits, priors)
    for label, bias in biases.items():
        logits[:, label] += bias
    shares = np.bincount(logits.argmax(1), minlength=10) / 1000
    assert {label: shares[label] for label in priors} == pytest.approx(priors, abs=1e-9)


def test_priors_that_make_no_sense_are_refused() -> None:
    for priors, message in (({10: 0.1}, "no class 10"), ({1: 0.0}, "between 0 and 1")):
        with pytest.raises(UsageError, match=message):
            bias_for_priors(np.zeros((3, 10)), priors)
    with pytest.raises(UsageError, match="no logits"):
        bias_for_priors(np.zeros((0, 10)), {1: 0.1})
