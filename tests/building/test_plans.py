"""Planning without a build: what is known of each target's device, and what its backends say of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest

from edgebuild.backends.ort.host import OnnxRuntime
from edgebuild.building.context import Options
from edgebuild.building.targets import FROM_FACTS
from edgebuild.catalogue.project import load_project
from edgebuild.catalogue.project_tables import RecipeStepTable, RecipeTable
from edgebuild.errors import EnvironmentGap, UsageError
from edgebuild.fleet.inventory import DeviceEntry, save_entry
from edgebuild.pipeline import build, plan
from tests.cli.example import QUICK_PROFILE, QUICK_TARGET, write_project, write_quick

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.catalogue.project import Project
    from edgebuild.core.artifact import Precision

BOARD = "raspberry-pi-5"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The tiny project, and an empty inventory."""
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(tmp_path / "devices.toml"))
    return load_project(write_project(tmp_path / "project", {"build": 'targets = ["quick"]'}))


def board(name: str, **facts: str) -> DeviceEntry:
    return DeviceEntry.model_validate(
        {"name": name, "target": BOARD, "kind": "emulator", "core": "max", "facts": {"arch": "aarch64", **facts}}
    )


def test_a_device_is_what_it_was_when_it_was_enrolled(project: Project) -> None:
    save_entry(board("mine", cores="3"))
    (made,) = plan(project, Options(targets=(BOARD,)))
    assert {dict(settings)["threads"] for c in made.candidates for settings in c.settings} == {1, 3}
    assert FROM_FACTS not in made.notes


def test_a_target_without_a_device_is_planned_from_its_facts(project: Project) -> None:
    (made,) = plan(project, Options(targets=(BOARD,)))
    assert FROM_FACTS in made.notes
    assert {candidate.profile for candidate in made.candidates} == {"arm-onnx"}
    (same,) = plan(project, Options(targets=(BOARD,), no_measure=True))
    assert (same.candidates, same.refused) == (made.candidates, made.refused)


def test_a_file_that_fixes_a_batch_is_timed_in_it(project: Project) -> None:
    text = project.folder.joinpath("edgebuild.toml").read_text()
    project.folder.joinpath("edgebuild.toml").write_text(text.replace("batch = 1", "batch = 4"))
    path = project.folder / "model.onnx"
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, path)
    (made,) = plan(load_project(project.folder), Options(targets=("quick",)))
    assert not any(note.startswith("the model could not be timed") for note in made.notes)


def test_a_batch_beyond_memory_is_not_tried(project: Project) -> None:
    text = project.folder.joinpath("edgebuild.toml").read_text()
    project.folder.joinpath("edgebuild.toml").write_text(text.replace("batch = 1", "batch = 1000000000"))
    (made,) = plan(load_project(project.folder), Options(targets=("quick",)))
    why = "a batch of 1,000,000,000 samples is too large to try"
    assert f"the model could not be timed here ({why}): times are assumed" in made.notes


def test_this_machine_is_no_target_without_a_device(project: Project) -> None:
    (made,) = plan(project, Options(targets=("quick",)))
    assert FROM_FACTS not in made.notes


def test_a_target_that_states_nothing_cannot_go_without_a_device(project: Project) -> None:
    silent = Options(targets=("this-machine",), no_measure=True)
    for ask in (plan, build):
        with pytest.raises(UsageError, match="this-machine has none: it is known by probing it") as caught:
            ask(project, silent)
        assert "Leave --no-measure out" in caught.value.hint


def test_of_two_devices_one_must_be_named(project: Project) -> None:
    save_entry(board("one"))
    save_entry(board("two", **{"runtime.onnxruntime": "unknown"}))
    with pytest.raises(UsageError, match="There are 2 devices of raspberry-pi-5: one, two") as caught:
        plan(project, Options(targets=(BOARD,)))
    assert "--device" in caught.value.hint
    assert plan(project, Options(targets=(BOARD,), device="one"))
    with pytest.raises(EnvironmentGap, match="device provision"):
        plan(project, Options(targets=(BOARD,), device="two"))


def test_a_backend_is_asked_for_each_precision_and_its_words_are_told(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: OnnxRuntime, precision: Precision, facts: Mapping[str, str]) -> str | None:
        return f"no {precision.kind} on this {facts['arch']}" if precision.kind != "fp32" else None

    monkeypatch.setattr(OnnxRuntime, "refuse", refuse)
    save_entry(board("mine"))
    (made,) = plan(project, Options(targets=(BOARD,)))
    assert [candidate.id for candidate in made.candidates] == ["arm-onnx/fp32"]
    told = {refusal.what: refusal.reason for refusal in made.refused}
    assert told["arm-onnx/fp16-storage"] == "no fp16 on this aarch64"
    assert told["arm-onnx/int8-edgebuild-s8s8"] == "no int8 on this aarch64"


def test_a_profile_of_a_backend_that_is_not_there_says_so(project: Project) -> None:
    write_quick(project.folder, target=QUICK_TARGET, profile=QUICK_PROFILE.replace("onnxruntime", "onnxruntme"))
    with pytest.raises(EnvironmentGap, match='unknown backend "onnxruntme"; did you mean "onnxruntime"'):
        plan(project, Options(targets=("quick",)))


def test_a_named_recipe_that_cannot_be_carried_out_ends_a_build_before_data_are_read(project: Project) -> None:
    step = RecipeStepTable.model_validate({"technique": "qat"})
    recipe = RecipeTable(name="r", steps=(step,))
    asked = project.model_copy(update={"recipes": (recipe,)})
    for ask in (plan, build):
        with pytest.raises(UsageError, match=r"Recipe r can't be carried out: qat needs training data"):
            ask(asked, Options(recipes=("r",)))
    assert not list((project.folder / ".edgebuild" / "store").glob("entries/*"))
    (made,) = plan(asked, Options())
    assert {candidate.recipe for candidate in made.candidates} == {""}


FAILING = """\
from torch import nn


class Net(nn.Module):
    def forward(self, image):
        raise KeyError("pixels")


def build():
    return Net()
"""


def test_a_model_that_fails_on_the_first_sample_is_told_by_the_plan(tmp_path: Path) -> None:
    (write_project(tmp_path, {"model": 'factory = "net:build"'}) / "net.py").write_text(FAILING)
    (made,) = plan(load_project(tmp_path), Options(targets=("this-machine",)))
    said = "the model could not be timed here (The model failed in the model itself: KeyError: 'pixels'): times are"
    assert any(note.startswith(said) for note in made.notes), made.notes
