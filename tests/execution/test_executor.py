from __future__ import annotations

import errno
from typing import TYPE_CHECKING, ClassVar

import pytest

from edgebuild.core.steps import CacheScope, ProjectCode, Step
from edgebuild.errors import DataError, EdgebuildError, Interrupted, StoreError
from edgebuild.execution.executor import ExternalInput, external_input
from edgebuild.execution.store import Store

from .example import Repeat, contents, executor, folder_with, whole_store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.core.steps import StepContext


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def runs(note: Path) -> int:
    return len(note.read_text().splitlines()) if note.exists() else 0


def test_the_example_is_a_step() -> None:
    assert isinstance(Repeat(), Step)


def test_a_step_runs_once_and_is_reused_by_the_next_build(store: Store, tmp_path: Path) -> None:
    note = tmp_path / "ran"
    first = executor(store).run(Repeat(text="x", times=3, ran=note), {}, label="triple")
    build = executor(Store.open(store.root))
    again = build.run(Repeat(text="x", times=3, ran=note), {}, label="triple")
    assert runs(note) == 1
    assert (first.reused, first.why) == (False, "first build")
    assert (again.reused, again.why) == (True, "unchanged")
    assert contents(again.path) == {"data": b"xxx"}
    assert [(r.label, r.kind, r.key, r.reused) for r in build.records] == [("triple", "repeat", first.entry.key, True)]


class Unrepeatable(Repeat):
    """A step of which nobody says what it depends on."""

    kind: ClassVar[str] = "unrepeatable"

    @property
    def cache(self) -> CacheScope:
        return CacheScope.NEVER


def test_what_is_never_found_again_runs_once_in_every_build_and_says_why(store: Store, tmp_path: Path) -> None:
    note = tmp_path / "ran"
    for count in (1, 2):
        build = executor(store)
        made = [build.run(Unrepeatable(text="x", ran=note), {}, label="train") for _ in range(2)]
        assert [each.reused for each in made] == [False, True]
        assert runs(note) == count
    assert made[0].why == "the training data, which have no version, changed"


def test_a_step_finds_device_and_code_in_its_context(store: Store) -> None:
    device, code = object(), ProjectCode(load={"m:f": len}.__getitem__, digest="d")

    def look(inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        del inputs, out_dir
        assert ctx.device is device
        assert ctx.load("m:f") is len

    executor(store, reached=device, code=code).run(Repeat(text="x", act=look), {}, label="look")


def test_steps_chain_by_content(store: Store, tmp_path: Path) -> None:
    build, note = executor(store), tmp_path / "ran"
    source = build.run(Repeat(text="ab"), {}, label="source")
    build.run(Repeat(times=2, ran=note), {"of": source.entry}, label="double")
    empty = external_input(folder_with(tmp_path / "empty", data=b""))
    other_way = build.run(Repeat(text="ab", times=1), {"none": empty}, label="source by other means")
    result = build.run(Repeat(times=2, ran=note), {"of": other_way.entry}, label="double")
    assert contents(result.path) == {"data": b"abab"}
    assert runs(note) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"times": 5}, "parameter times 2 → 5"),
        ({"text": "y"}, "parameter text default → y"),
        ({"seed": 7}, "seed 0 → 7"),
        ({"data": b"2"}, "input of changed"),
        ({"data": b"2", "times": 1}, "parameter times 2 → default, input of changed"),
    ],
)
def test_a_rebuild_says_what_changed(store: Store, tmp_path: Path, change: dict[str, object], why: str) -> None:
    def build(*, times: int = 2, text: str = "", seed: int = 0, data: bytes = b"1") -> str:
        source = external_input(folder_with(tmp_path / "in", data=data))
        return executor(store, seed=seed).run(Repeat(times=times, text=text), {"of": source}, label="it").why

    assert build() == "first build"
    assert build() == "unchanged"
    assert build(**change) == why  # type: ignore[arg-type]


def test_histories_of_projects_that_share_a_store_stay_apart(store: Store) -> None:
    executor(store, project="a").run(Repeat(text="1"), {}, label="it")
    assert executor(store, project="b").run(Repeat(text="2"), {}, label="it").why == "first build"
    assert executor(store, project="a").run(Repeat(text="3"), {}, label="it").why == "parameter text 1 → 3"


def test_a_damaged_or_collected_result_is_made_again_and_says_so(store: Store) -> None:
    first = executor(store).run(Repeat(text="x"), {}, label="it")
    manifest = store.root / "entries" / first.entry.key
    manifest.write_bytes(b"{}")
    assert executor(store).run(Repeat(text="x"), {}, label="it").why == "its stored result was damaged"
    manifest.unlink()
    assert executor(Store.open(store.root)).run(Repeat(text="x"), {}, label="it").why == (
        "its result is no longer in the store"
    )


def test_a_damaged_history_costs_only_words(store: Store) -> None:
    executor(store).run(Repeat(text="x"), {}, label="it")
    (record,) = (store.root / "labels").iterdir()
    record.write_bytes(b"\xff[")
    assert executor(store).run(Repeat(text="y"), {}, label="it").why == "first build"


def test_failures_are_not_cached_and_unfinished_work_is_kept(store: Store, tmp_path: Path) -> None:
    before = whole_store(store.root)

    def fail(inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        (out_dir / "half").write_bytes(b"half")
        (ctx.scratch / "epoch").write_text("3")
        raise ValueError("a bug in the step")

    with pytest.raises(ValueError, match="a bug in the step"):
        executor(store).run(Repeat(text="x", act=fail), {}, label="train")
    (scratch,) = (name for name in whole_store(store.root) if name not in before)
    assert scratch.startswith("scratch/")
    assert not any(name.endswith("half") for name in contents(store.root))

    def resume(inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        assert (ctx.scratch / "epoch").read_text() == "3"

    result = executor(store).run(Repeat(text="x", act=resume), {}, label="train")
    assert result.why == "first build; resumes from unfinished work"
    assert not any((store.root / "scratch").iterdir())


def test_what_a_kill_left_behind_a_finished_step_is_tidied_up(store: Store) -> None:
    """Between storing its result and removing its scratch folder a build may be killed."""
    made = executor(store).run(Repeat(text="x"), {}, label="it")
    left = store.layout.scratch(made.entry.key)
    left.mkdir()
    (left / "checkpoint").write_text("3")
    again = executor(store).run(Repeat(text="x"), {}, label="it")
    assert (again.reused, again.entry.key) == (True, made.entry.key)
    assert not any((store.root / "scratch").iterdir())


def test_errors_of_ours_pass_through_unchanged(store: Store) -> None:
    raised = DataError("no labels", hint="add some")

    def fail(inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        raise raised

    with pytest.raises(DataError) as caught:
        executor(store).run(Repeat(act=fail), {}, label="it")
    assert caught.value is raised


def test_a_step_that_writes_nothing_is_refused(store: Store) -> None:
    class Lazy(Repeat):
        def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
            del inputs, ctx
            (out_dir / "folder").mkdir()

    with pytest.raises(EdgebuildError, match="it ended without writing anything"):
        executor(store).run(Lazy(), {}, label="it")
    assert store.usage().entries == 0


def test_a_step_that_changes_a_stored_input_is_caught_and_the_input_dropped(store: Store) -> None:
    build = executor(store)
    source = build.run(Repeat(text="original"), {}, label="source")

    def spoil(inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        (inputs["of"] / "data").chmod(0o644)
        (inputs["of"] / "data").write_bytes(b"0riginal")

    with pytest.raises(EdgebuildError, match="the stored input 'of' was changed while spoiler ran"):
        build.run(Repeat(act=spoil), {"of": source.entry}, label="spoiler")
    again = executor(store).run(Repeat(text="original"), {}, label="source")
    assert again.why == "its stored result was damaged"
    assert contents(again.path) == {"data": b"original"}


def test_a_users_file_that_changes_meanwhile_is_noticed(store: Store, tmp_path: Path) -> None:
    source = folder_with(tmp_path / "in", data=b"1")

    def edit(inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        (source / "data").write_bytes(b"2")

    with pytest.raises(DataError, match="changed while it ran"):
        executor(store).run(Repeat(act=edit), {"of": external_input(source)}, label="it")
    assert store.usage().entries == 0


def test_an_input_may_be_a_file_or_stand_for_something_else(store: Store, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    assert external_input(tmp_path / "model.onnx").digest != external_input(tmp_path).digest
    code = ExternalInput(path=folder_with(tmp_path / "project", data=b""), digest="0" * 64)
    assert executor(store).run(Repeat(text="x"), {"code": code}, label="it").why == "first build"


def test_an_unreadable_input_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.onnx can't be read: No such file"):
        external_input(tmp_path / "absent.onnx")


def test_ctrl_c_keeps_what_was_finished(store: Store, tmp_path: Path) -> None:
    note = tmp_path / "ran"
    build = executor(store)
    build.run(Repeat(text="done", ran=note), {}, label="first")

    def interrupt(inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="interrupted during second; what was finished is kept"):
        build.run(Repeat(text="not", act=interrupt), {}, label="second")
    assert executor(Store.open(store.root)).run(Repeat(text="done", ran=note), {}, label="first").reused
    assert runs(note) == 1


def test_a_stop_is_obeyed_before_a_step_starts(store: Store, tmp_path: Path) -> None:
    build = executor(store)

    def stop() -> None:
        raise Interrupted("the time is up")

    build._check = stop
    with pytest.raises(Interrupted, match="the time is up"):
        build.run(Repeat(ran=tmp_path / "ran"), {}, label="it")
    assert runs(tmp_path / "ran") == 0


def test_a_disk_that_fills_up_inside_a_step_is_said_plainly(store: Store) -> None:
    def fill(inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        with open("/dev/full", "wb", buffering=0) as file:  # noqa: PTH123  (a device: really out of space)
            file.write(b"x")

    with pytest.raises(StoreError, match="is full: it failed") as caught:
        executor(store).run(Repeat(act=fill), {}, label="it")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert store.usage().entries == 0
