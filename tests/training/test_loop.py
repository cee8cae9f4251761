from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from edgebuild.errors import DataError, Interrupted, ModelError
from edgebuild.training.hooks import ClipWeights, KeepMasks, ShareWeights
from edgebuild.training.loop import train
from edgebuild.training.losses import Supervised, known_l2
from edgebuild.training.plan import TrainingPlan
from edgebuild.training.run import CHECKPOINT

from . import nets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgebuild.training.batches import Batch
    from edgebuild.training.hooks import AfterStep

SHORT = TrainingPlan(epochs=2, learning_rate=0.05)


def accuracy(module: nn.Module) -> float:
    images, labels = nets.digits()
    with torch.no_grad():
        return float((module(torch.from_numpy(images)).argmax(1) == torch.from_numpy(labels)).float().mean())


def trained(scratch: Path, plan: TrainingPlan = SHORT, *, seed: int = 0, **settings: Any) -> dict[str, torch.Tensor]:
    module = nets.seeded(nets.Mlp)
    train(module, plan, settings.pop("loader", nets.loader()), Supervised(), scratch=scratch, seed=seed, **settings)
    return nets.state(module)


def test_tests_compute_with_the_threads_that_were_asked_for() -> None:
    """Not where something imports torch before ``tests/__init__.py`` has run, which no other test would notice."""
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])


def test_it_learns_and_says_what_it_did(tmp_path: Path) -> None:
    module = nets.seeded(nets.Mlp)
    report = train(module, TrainingPlan(epochs=8), nets.loader(), Supervised(), scratch=tmp_path)
    assert accuracy(module) > 0.9
    assert not module.training
    assert (report.steps, report.epochs, len(report.losses), report.resumed_at) == (80, 8, 8, None)
    assert report.losses[-1] < report.losses[0]


@pytest.mark.parametrize(
    "plan",
    [
        TrainingPlan(steps=15, optimiser="adamw", learning_rate=0.01, schedule="one-cycle"),
        TrainingPlan(steps=15, schedule="step", warmup=0.2, clip=1.0),
        TrainingPlan(steps=15, schedule="constant", ema=0.9, precision="bf16-mixed"),
    ],
    ids=["adamw", "step", "ema-bf16"],
)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path, plan: TrainingPlan) -> None:
    torch.manual_seed(1)
    one = trained(tmp_path / "a", plan)
    torch.manual_seed(2)
    assert nets.same(one, trained(tmp_path / "b", plan))
    assert not nets.same(one, trained(tmp_path / "c", plan, seed=1))


def test_the_caller_keeps_its_random_state(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    trained(tmp_path)
    assert torch.equal(torch.rand(4), expected)


def test_a_run_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Killed in the second epoch, and again in the third: dropout, a random loader, AdamW, EMA and clipping."""
    command = [sys.executable, "-m", "tests.training.killed", str(tmp_path)]
    done = subprocess.run(command, check=True, timeout=300, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split("\n")[:-1] == ["whole 0 True", "cut -9 False", "cut -9 False", "cut 0 True"]
    assert nets.same(load_file(tmp_path / "whole.safetensors"), load_file(tmp_path / "cut.safetensors"))
    with safe_open(tmp_path / "cut.safetensors", "pt") as cut, safe_open(tmp_path / "whole.safetensors", "pt") as whole:
        assert cut.metadata()["resumed_at"] == "16"
        assert cut.metadata()["losses"] == whole.metadata()["losses"]


def test_a_stopped_run_goes_on_at_the_very_batch(tmp_path: Path) -> None:
    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 14:
            raise Interrupted("stopped")

    module = nets.seeded(nets.Mlp)
    with pytest.raises(Interrupted):
        train(module, SHORT, nets.loader(), Supervised(), scratch=tmp_path / "a", check=check)
    module = nets.seeded(nets.Mlp)
    report = train(module, SHORT, nets.loader(), Supervised(), scratch=tmp_path / "a")
    assert report.resumed_at == 13
    assert nets.same(nets.state(module), trained(tmp_path / "b"))
    again = train(module, SHORT, nets.loader(), Supervised(), scratch=tmp_path / "a")
    assert (again.steps, again.resumed_at, again.losses) == (20, 20, report.losses)


@pytest.mark.parametrize("damage", [b"", b"\x10\0\0\0\0\0\0\0{broken"], ids=["empty", "torn"])
def test_a_damaged_checkpoint_or_one_of_another_run_is_not_used(tmp_path: Path, damage: bytes) -> None:
    expected = trained(tmp_path / "a")
    (tmp_path / "a" / CHECKPOINT).write_bytes(damage)
    assert nets.same(trained(tmp_path / "a"), expected)
    assert not nets.same(trained(tmp_path / "a", seed=1), expected)


def test_two_processes_share_every_batch(tmp_path: Path) -> None:
    plan = TrainingPlan(epochs=4, processes=2)
    module = nets.seeded(lambda: nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)))
    twin = nets.seeded(lambda: nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)))
    notes: list[str] = []
    report = train(module, plan, nets.loader(), Supervised(), scratch=tmp_path / "2", progress=Noted(notes))
    train(twin, TrainingPlan(epochs=4), nets.loader(), Supervised(), scratch=tmp_path / "1")
    assert report.steps == 40
    assert any("epoch 4/4, loss" in note for note in notes)
    for one, other in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_what_fails_in_several_processes_is_told_as_from_one(tmp_path: Path) -> None:
    plan = TrainingPlan(epochs=1, processes=2)
    with pytest.raises(DataError, match="has 1 sample for 2 processes"):
        train(nets.seeded(nets.Mlp), plan, [(torch.zeros(1, 64), torch.zeros(1))], Supervised(), scratch=tmp_path)


class Noted:
    """Progress that keeps its notes."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes
        self.done = 0.0

    def say(self, text: str) -> None:
        raise AssertionError(text)

    def task(self, title: str, total: float | None = None) -> Noted:
        del title, total
        return self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self.done += amount
        self.notes.append(note)

    def __enter__(self) -> Noted:
        return self

    def __exit__(self, *exc: object) -> None: ...


def test_progress_reaches_its_total(tmp_path: Path) -> None:
    progress = Noted([])
    trained(tmp_path, progress=progress)
    assert progress.done == 20
    assert progress.notes[-1].startswith("epoch 2/2, loss ")


# -- frozen parts, hooks, the user's own


def test_frozen_parts_stay_frozen_statistics_included(tmp_path: Path) -> None:
    module = nets.seeded(nets.Mlp)
    for part in (module.first, module.norm):
        for parameter in part.parameters():
            parameter.requires_grad_(False)
    before = nets.state(module)
    train(module, TrainingPlan(steps=5, weight_decay=0.1), nets.loader(), Supervised(), scratch=tmp_path)
    changed = [name for name, value in nets.state(module).items() if not torch.equal(value, before[name])]
    assert changed == ["last.weight", "last.bias"]


def test_hooks_hold_weights_to_their_rules(tmp_path: Path) -> None:
    module = nets.seeded(nets.Mlp)
    mask = torch.rand(16, 64, generator=torch.Generator().manual_seed(0)) < 0.3
    codes = torch.arange(160).reshape(10, 16) % 4
    rules: list[AfterStep] = [
        KeepMasks(masks={"first.weight": mask}),
        ShareWeights(codes={"last.weight": codes}),
        ClipWeights(names=("first.weight",), bound=0.05),
    ]
    train(module, TrainingPlan(steps=6), nets.loader(), Supervised(), scratch=tmp_path, after_step=rules)
    assert torch.equal(module.first.weight != 0, mask)
    assert module.first.weight.abs().max() <= 0.05
    assert len(module.last.weight.unique()) == 4


def test_a_rule_for_a_parameter_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no parameter 'nowhere'"):
        trained(tmp_path, after_step=[ClipWeights(names=("nowhere",))])


def test_the_users_optimiser_schedule_and_loss_are_used(tmp_path: Path) -> None:
    rates: list[float] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    module = nets.seeded(nets.Mlp)
    train(
        module,
        TrainingPlan(steps=4),
        nets.loader(),
        lambda outputs, batch: functional.cross_entropy(outputs, batch.target, label_smoothing=0.1),
        scratch=tmp_path,
        optimiser=lambda parameters: Watched(parameters, lr=0.5),
        schedule=lambda done: 1 - done,
    )
    assert rates == [0.5, 0.375, 0.25, 0.125]


def test_an_optimiser_that_keeps_objects_can_not_be_resumed_and_says_so(tmp_path: Path) -> None:
    class Odd(torch.optim.SGD):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "odd": object()}

    with pytest.raises(ModelError, match="can't hold the object at optimiser/odd"):
        trained(tmp_path, optimiser=lambda parameters: Odd(parameters, lr=0.1))


def test_several_inputs_by_name_and_several_outputs(tmp_path: Path) -> None:
    images, labels = (torch.from_numpy(array) for array in nets.digits(64))
    batches = [
        {
            "left": images[i : i + 32],
            "right": images[i : i + 32].flip(0),
            "target": (labels[i : i + 32], images[:32, :3]),
        }
        for i in (0, 32)
    ]

    def loss(outputs: Any, batch: Batch) -> torch.Tensor:
        classes, boxes = batch.target
        return functional.cross_entropy(outputs["classes"], classes) + known_l2(outputs["boxes"], boxes)

    report = train(nets.seeded(nets.TwoInTwoOut), TrainingPlan(epochs=10), batches, loss, scratch=tmp_path)
    assert report.losses[-1] < report.losses[0]


def test_a_torch_data_loader_that_shuffles_is_the_same_every_time(tmp_path: Path) -> None:
    images, labels = (torch.from_numpy(array) for array in nets.digits(96))
    data = torch.utils.data.TensorDataset(images, labels)

    def batches(**settings: Any) -> Any:
        return torch.utils.data.DataLoader(data, batch_size=32, shuffle=True, **settings)

    one = trained(tmp_path / "a", loader=batches())
    torch.manual_seed(9)
    assert nets.same(one, trained(tmp_path / "b", loader=batches()))
    own = trained(tmp_path / "c", loader=batches(generator=torch.Generator().manual_seed(1)))
    assert nets.same(own, trained(tmp_path / "d", loader=batches(generator=torch.Generator().manual_seed(2))))


# -- what goes wrong


def test_a_loss_that_is_no_number_names_layer_and_batch_and_keeps_the_state_before(tmp_path: Path) -> None:
    images, labels = (torch.from_numpy(array) for array in nets.digits(96))
    broken = images.clone()
    broken[70] = 1e38
    batches = [(broken[i : i + 32], labels[i : i + 32]) for i in (0, 32, 64)]
    module = nets.seeded(nets.Mlp)
    nn.init.ones_(module.first.weight)
    with pytest.raises(ModelError, match="became nan in epoch 1, batch 3: 'first' is the first layer") as caught:
        train(module, SHORT, batches, Supervised(), scratch=tmp_path)
    assert "after step 2 is kept" in caught.value.message
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    saved = load_file(tmp_path / CHECKPOINT)
    assert all(torch.equal(saved[f"/parts/module.{name}"], value) for name, value in module.state_dict().items())


def test_weights_that_blew_up_are_put_back_to_the_last_checkpoint(tmp_path: Path) -> None:
    module = nets.seeded(nets.Mlp)
    before = nets.state(module)
    with pytest.raises(ModelError, match=r"epoch 1, batch 2: the weights '[\w.]+' are not finite"):
        train(
            module,
            SHORT,
            nets.loader(),
            Supervised(),
            scratch=tmp_path,
            optimiser=lambda parameters: torch.optim.SGD(parameters, lr=float("inf")),
            schedule=lambda _: 1.0,
        )
    assert nets.same(nets.state(module), before)


def test_a_loss_that_is_to_blame_itself_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it is the loss itself"):
        train(nets.Mlp(), SHORT, nets.loader(), lambda outputs, _: outputs.sum() * float("nan"), scratch=tmp_path)


def test_a_batch_of_one_with_batch_normalisation(tmp_path: Path) -> None:
    images, labels = (torch.from_numpy(array) for array in nets.digits(33))
    batches = [(images[:32], labels[:32]), (images[32:], labels[32:])]
    with pytest.raises(DataError, match="epoch 1, batch 2 has one sample, and 'norm' normalises over the batch"):
        train(nets.Mlp(), SHORT, batches, Supervised(), scratch=tmp_path)
    report = train(nets.Mlp(), SHORT, nets.loader(33), Supervised(), scratch=tmp_path / "own")
    assert report.steps == 2, "our own loader lets no single sample be left over"


def endless() -> Iterator[Any]:
    while True:
        yield torch.zeros(2, 64), torch.zeros(2)


class Short(list[Any]):
    def __len__(self) -> int:
        return super().__len__() + 1


def once() -> Any:
    left = [[(torch.zeros(2, 64), torch.zeros(2))], []]
    return lambda: left.pop(0)


def failing() -> Iterator[Any]:
    yield torch.zeros(2, 64), torch.zeros(2)
    raise OSError("the disk is gone")


PAIR = (torch.zeros(2, 64), torch.zeros(2))
STEPS = TrainingPlan(steps=3)


@pytest.mark.parametrize(
    ("batches", "plan", "message"),
    [
        ([], SHORT, "The training loader is empty"),
        (endless(), STEPS, "a generator, which can be read only once"),
        (endless, SHORT, "has no length"),
        (Short([PAIR]), SHORT, "ended after 1 of 2 batches in epoch 1"),
        (once(), STEPS, "yields no batch in epoch 2"),
        (failing, STEPS, "failed in epoch 1, batch 2: OSError: the disk is gone"),
        (3, STEPS, "is a int, which holds no batches"),
        ([(1, 2, 3)], STEPS, "yielded a tuple of 3 as batch 1 of epoch 1"),
        ([(torch.zeros(0, 64), torch.zeros(0))], STEPS, "holds no samples"),
    ],
    ids=["empty", "iterator", "endless", "short", "once", "failing", "number", "triple", "no-samples"],
)
def test_a_loader_that_is_no_good_is_told_in_one_sentence(
    tmp_path: Path, batches: Any, plan: TrainingPlan, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        train(nets.Mlp(), plan, batches, Supervised(), scratch=tmp_path)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda _, __: 3.0, "The loss returned float"),
        (lambda outputs, _: outputs, r"returned a tensor of shape \[32, 10\]"),
        (lambda _, __: torch.tensor(1.0), "depends on no trained weight"),
        (lambda outputs, batch: functional.cross_entropy(outputs[:3], batch.target), "The loss failed .*ValueError"),
    ],
    ids=["number", "not-one", "constant", "raises"],
)
def test_a_loss_that_is_no_good_is_told_in_one_sentence(tmp_path: Path, loss: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        train(nets.Mlp(), SHORT, nets.loader(), loss, scratch=tmp_path)


def test_a_model_that_fails_or_has_nothing_to_train_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"epoch 1, batch 1\) in 'first': RuntimeError"):
        train(nets.Mlp(), STEPS, [(torch.zeros(2, 63), torch.zeros(2))], Supervised(), scratch=tmp_path)
    frozen = nets.Mlp().requires_grad_(False)
    with pytest.raises(ModelError, match="no parameter to train"):
        train(frozen, STEPS, nets.loader(), Supervised(), scratch=tmp_path)


def test_tied_weights_and_a_layer_used_twice_train(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.outside = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
            self.outside.weight = self.inside.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.outside(torch.relu(self.inside(torch.relu(self.inside(x)))))
            return result

    module = nets.seeded(Tied)
    train(module, SHORT, nets.loader(), Supervised(), scratch=tmp_path)
    assert module.inside.weight is module.outside.weight
    assert train(module, SHORT, nets.loader(), Supervised(), scratch=tmp_path).resumed_at == 20
