"""The data that a callable yields now decide what is reused: files behind it change without a change of its code."""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from edgebuild.building.context import BuildContext, Options, store_of
from edgebuild.building.data import STEADY_SAMPLES, describe_first, materialise, model_digest, sample_specs
from edgebuild.building.early import PEEK_SAMPLES, _described, _samples, described
from edgebuild.catalogue.callables import project_code
from edgebuild.catalogue.project import load_project
from edgebuild.core.budget import Budget
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.errors import DataError, StoreError
from edgebuild.execution.executor import Executor
from edgebuild.execution.layout import open_layout
from edgebuild.models.dataset import Dataset
from edgebuild.models.described import DescribeFirst, describe, labelled, read_described
from edgebuild.models.digests import SamplesDigest, sample_digest
from edgebuild.models.growing import GrowingFile
from tests.cli.example import write_project
from tests.mutants import COUNTS, flipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edgebuild.execution.layout import Layout
    from edgebuild.models.described import Described

SPLITS = 'calibration = "data:calibration"\nvalidation = "data:validation"\ntest = "data:test"'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path / "project")


@contextmanager
def opened(folder: Path, *, reread: bool = False, time_s: float | None = None) -> Iterator[BuildContext]:
    """A context without a device: reading data asks for none."""
    project, code = load_project(folder), project_code(folder)
    with store_of(project) as store:
        yield BuildContext(
            project=project,
            options=Options(reread=reread, time_s=time_s),
            home=folder / ".edgebuild",
            executor=Executor(
                store=store,
                progress=NoProgress(),
                check=never_stop,
                seed=0,
                isa="",
                device_configuration={},
                code=code,
            ),
            client=cast("Any", None),
            backends={},
            probe={},
            code=code,
            budget=Budget(points=1.0),
        )


def read(project: Path, *, reread: bool = False, time_s: float | None = None) -> tuple[bool, str, str, list[str]]:
    """Read the test data; return whether they were reused, their digest, the set's in any order, and what was said."""
    with opened(project, reread=reread, time_s=time_s) as context:
        found = materialise(context, "test")
        assert materialise(context, "test").entry == found.entry
        return (
            found.reused,
            found.entry.digest,
            described(context, "test").identity,
            [note.text for note in context.said],
        )


def change(project: Path, alter: Callable[[dict[str, Any]], Any]) -> None:
    path = project / "test_arrays"
    with np.load(path) as file:
        arrays = dict(file)
    alter(arrays)
    with path.open("wb") as stream:
        np.savez(stream, **arrays)


def one_label(arrays: dict[str, Any]) -> None:
    arrays["label"][7] = (arrays["label"][7] + 1) % 4


def one_pixel(arrays: dict[str, Any]) -> None:
    arrays["image"][7, 0, 0, 0] += 1e-3


def one_less(arrays: dict[str, Any]) -> None:
    for name in arrays:
        arrays[name] = arrays[name][:-1]


def one_more(arrays: dict[str, Any]) -> None:
    for name in arrays:
        arrays[name] = np.concatenate([arrays[name], arrays[name][:1]])


def few(arrays: dict[str, Any]) -> None:
    for name in arrays:
        arrays[name] = arrays[name][:12]


def another_order(arrays: dict[str, Any]) -> None:
    for name in arrays:
        arrays[name] = arrays[name][::-1].copy()


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of results needn't survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def test_what_did_not_change_is_reused_whatever_becomes_of_code_and_files(project: Path) -> None:
    first = read(project)
    assert not first[0]
    change(project, dict.copy)
    with (project / "data.py").open("a") as file:
        file.write("\nUNUSED = 1\n")
    assert read(project) == (True, *first[1:])


@pytest.mark.parametrize("alter", [one_label, one_pixel, one_less, one_more])
def test_data_that_changed_are_read_anew_and_are_another_test_set(
    project: Path, alter: Callable[[dict[str, Any]], None]
) -> None:
    _, digest, whole, _ = read(project)
    change(project, alter)
    again = read(project)
    assert not again[0]
    assert again[1] != digest
    assert again[2] != whole


def test_another_order_is_read_anew_and_is_the_same_test_set(project: Path) -> None:
    _, digest, whole, _ = read(project)
    change(project, another_order)
    again = read(project)
    assert not again[0]
    assert again[1] != digest
    assert again[2] == whole


def versioned(project: Path, version: str) -> None:
    write_project(project, {"data": f'{SPLITS}\ndata_version = "{version}"'})


def test_a_declared_version_skips_reading_and_says_so_and_reread_reads(project: Path) -> None:
    versioned(project, "1")
    first = read(project)
    assert (first[0], first[3]) == (False, [])
    change(project, one_label)
    kept = read(project)
    assert kept[:3] == (True, *first[1:3])
    (said,) = kept[3]
    assert said.startswith("test data not read: [data].data_version is '1', as when they were read on 2")
    again = read(project, reread=True)
    assert not again[0]
    assert again[2] != first[2]
    assert again[3] == [
        "the test data changed although [data].data_version is still '1'; give them a new version, so that every build "
        "notices"
    ]
    # What was read last is what the version stands for from now on.
    assert read(project)[:3] == (True, *again[1:3])
    assert read(project, reread=True) == (True, *again[1:3], [])


def test_the_first_samples_of_a_split_are_looked_at_once_under_a_declared_version(project: Path) -> None:
    def look(count: int = 3, *, reread: bool = False) -> tuple[Described, int, list[str]]:
        looks: list[Described] = []

        def peek() -> Described:
            looks.append(_described(_samples(context.project, "test")))
            return looks[-1]

        with opened(project, reread=reread) as context:
            found = describe_first(context, "test", count, peek)
            return found, len(looks), [note.text for note in context.said]

    assert look()[1:] == look()[1:] == (1, [])
    versioned(project, "1")
    first = look(PEEK_SAMPLES)
    assert first[1:] == (1, [])
    change(project, one_label)
    kept = look(PEEK_SAMPLES)
    assert kept[:2] == (first[0], 0)
    assert kept[2][0].startswith("test data not read: [data].data_version is '1'")
    again = look(PEEK_SAMPLES, reread=True)
    assert again[0].identity != first[0].identity
    assert again[2][0].startswith("the test data changed although [data].data_version is still '1'")
    assert look(PEEK_SAMPLES)[:2] == (again[0], 0)


def test_what_there_was_no_time_to_look_at_is_looked_at_later(project: Path) -> None:
    versioned(project, "1")

    def look(count: int, *, late: bool) -> tuple[int, bool]:
        with opened(project) as context:
            first = replace(describe(labelled(_samples(context.project, "test")), limit=count), whole=not late)
            found = describe_first(context, "test", PEEK_SAMPLES, lambda: first)
            return found.samples, found.whole

    assert (look(3, late=True), look(2, late=True)) == ((3, False), (2, False))
    assert look(200, late=False) == look(3, late=True)


def test_first_samples_that_are_described_again_have_to_be_the_same(project: Path) -> None:
    versioned(project, "1")
    with opened(project) as context:
        specs, content = sample_specs(context.project), _described(_samples(context.project, "test")).identity
        step = DescribeFirst(source="data:test", specs=specs, stateful=False, samples=PEEK_SAMPLES, content=content)
        assert read_described(context.run(step, {}, label="describe").path).identity == content
    change(project, one_label)
    for path in (project / ".edgebuild" / "store" / "entries").iterdir():
        path.unlink()
    with opened(project) as context, pytest.raises(DataError, match="yields other samples"):
        context.run(step, {}, label="describe")


def test_another_version_other_code_or_a_lost_result_is_read(project: Path) -> None:
    versioned(project, "1")
    first = read(project)
    change(project, one_label)
    text = (project / "edgebuild.toml").read_text()
    (project / "edgebuild.toml").write_text(text.replace('data_version = "1"', 'data_version = "2"'))
    second = read(project)
    assert second[1] != first[1]
    change(project, one_pixel)
    with (project / "data.py").open("a") as file:
        file.write("\nUNUSED = 1\n")
    third = read(project)
    assert third[1] not in {first[1], second[1]}
    change(project, one_less)
    for path in (project / ".edgebuild" / "store" / "entries").iterdir():
        path.unlink()
    assert read(project)[1] not in {first[1], second[1], third[1]}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"test": 3}', '{"test": {"declared": 1}}', "[" * 100_000])
def test_what_was_kept_of_a_version_is_read_again_where_it_is_damaged(project: Path, content: str) -> None:
    versioned(project, "1")
    first = read(project)
    change(project, one_label)
    (project / ".edgebuild" / "data.json").write_text(content)
    assert read(project)[1] != first[1]
    assert json.loads((project / ".edgebuild" / "data.json").read_bytes())["test"]["content"]


def test_a_callable_that_yields_other_samples_at_each_call_is_refused(project: Path) -> None:
    with (project / "data.py").open("a") as file:
        file.write(
            "\nimport itertools\nCALLS = itertools.count()\n"
            "def test():\n    n = next(CALLS)\n"
            "    yield Sample(inputs={'image': np.full((1, 8, 8), n, np.float32)}, target=0)\n"
        )
    with pytest.raises(DataError, match="yields other samples at each call") as caught:
        read(project)
    assert "[training].loader" in caught.value.hint


@pytest.mark.parametrize(("time_s", "again"), [(None, STEADY_SAMPLES + 20), (60.0, STEADY_SAMPLES)])
def test_a_first_build_asks_for_all_samples_again_and_in_a_time_box_for_the_first_ones(
    project: Path, monkeypatch: pytest.MonkeyPatch, time_s: float | None, again: int
) -> None:
    monkeypatch.chdir(project)
    count = STEADY_SAMPLES + 20
    with (project / "data.py").open("a") as file:
        file.write(
            f"\ndef test():\n    for n in range({count}):\n"
            "        with open('read', 'a') as file:\n            file.write('x')\n"
            "        yield Sample(inputs={'image': np.full((1, 8, 8), n, np.float32)}, target=0)\n"
        )
    first = read(project, time_s=time_s)
    assert len((project / "read").read_text()) == count + again
    assert read(project) == (True, *first[1:])
    assert len((project / "read").read_text()) == 2 * count + again


def test_samples_that_change_late_are_refused_and_in_a_time_box_stored_as_they_were_digested(project: Path) -> None:
    with (project / "data.py").open("a") as file:
        file.write(
            "\nimport itertools\nCALLS = itertools.count()\n"
            f"def test():\n    call = next(CALLS)\n    for n in range({STEADY_SAMPLES} + 8):\n"
            f"        value = n if n < {STEADY_SAMPLES} else 100 * call + n\n"
            "        yield Sample(inputs={'image': np.full((1, 8, 8), value, np.float32)}, target=0)\n"
        )
    with pytest.raises(DataError, match="yields other samples at each call"):
        read(project)
    with opened(project, time_s=60.0) as context:
        found, held = materialise(context, "test"), SamplesDigest()
        for arrays, group, slice_ in Dataset.open(found.path):
            held.add(arrays, group, slice_)
        parts = found.entry.meta["parts"]
        assert parts["parameters"]["content"] == held.value
        context.data.clear()
        with pytest.raises(DataError, match="yields other samples at each call"):
            materialise(context, "test")


def test_a_callable_that_no_longer_returns_samples_is_no_bug(project: Path) -> None:
    with (project / "data.py").open("a") as file:
        file.write(
            "\nimport itertools\nCALLS, FIRST = itertools.count(), test\n"
            "def test():\n    return FIRST() if next(CALLS) < 2 else 3\n"
        )
    read(project)
    with pytest.raises(DataError, match="returned a int, which holds no samples"):
        read(project)


def test_a_read_only_store_gives_a_first_build_what_it_has(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(project)
    shutil.rmtree(project / ".edgebuild" / "store" / "labels")
    (project / ".edgebuild" / "store" / "labels").mkdir()
    really = open_layout

    def read_only(root: Path) -> Layout:
        return replace(really(root), writable=False)

    monkeypatch.setattr("edgebuild.execution.store.open_layout", read_only)
    assert read(project) == (True, *first[1:])
    change(project, one_label)
    with pytest.raises(StoreError, match="is read-only: running read the test data isn't possible"):
        read(project)


def test_a_disk_that_is_full_at_a_first_reading_is_said(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(GrowingFile, "append", full)
    with pytest.raises(StoreError, match="is full: read the test data failed"):
        read(project)


def test_a_digest_tells_apart_what_differs_and_nothing_else() -> None:
    one = {"x": np.arange(6, dtype=np.float32).reshape(1, 6), "target": np.array([3])}
    digest = sample_digest(one, "g", "s")
    assert digest == sample_digest({**one, "target": np.array([3], np.uint8)}, "g", "s"), "the same label"
    others = [
        ({**one, "target": np.array([4])}, "g", "s"),
        ({**one, "target": np.array([3.0])}, "g", "s"),
        ({**one, "x": one["x"].reshape(1, 2, 3)}, "g", "s"),
        ({**one, "x": one["x"].view(np.int32)}, "g", "s"),
        ({"y": one["x"], "target": one["target"]}, "g", "s"),
        ({"x": one["x"]}, "g", "s"),
        (one, None, "s"),
        (one, "g", None),
        (one, "gs", ""),
    ]
    assert len({digest, *(sample_digest(*other) for other in others)}) == 1 + len(others)
    short, long = np.array(["ab"]), np.array(["ab", "longer"])[:1]
    assert short.dtype != long.dtype
    assert sample_digest({"target": short}) == sample_digest({"target": long})


FACTORY = """
import torch

def make():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    net.load_state_dict(torch.load(__file__.replace("model.py", "weights.pt"), weights_only=True))
    return net
"""


def test_weights_that_a_factory_reads_by_itself_are_known_by_what_they_are(project: Path) -> None:
    import torch

    tables = {"model": 'factory = "model:make"\noutputs = ["scores"]'}
    write_project(project, tables)
    (project / "model.py").write_text(FACTORY)

    def digest(scale: float) -> str:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
        torch.save({name: value * scale for name, value in net.state_dict().items()}, project / "weights.pt")
        with opened(project) as context:
            return model_digest(context)

    assert digest(1.0) == digest(1.0) != digest(2.0)


def test_a_declared_version_of_the_model_calls_no_factory_and_reread_does(project: Path) -> None:
    import torch

    code = FACTORY.replace(
        "    net =", "    with open(__file__ + '.calls', 'a') as file:\n        file.write('x')\n    net =", 1
    )
    (project / "model.py").write_text(code)

    def digest(version: str, scale: float, *, reread: bool = False) -> tuple[str, int, list[str]]:
        table = f'factory = "model:make"\noutputs = ["scores"]\nmodel_version = "{version}"'
        write_project(project, {"model": table})
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
        torch.save({name: value * scale for name, value in net.state_dict().items()}, project / "weights.pt")
        with opened(project, reread=reread) as context:
            found = model_digest(context)
            calls = len((project / "model.py.calls").read_text())
            return found, calls, [note.text for note in context.said]

    first, calls, said = digest("1", 1.0)
    assert (calls, said) == (1, [])
    again, calls, (told,) = digest("1", 2.0)
    assert (again, calls) == (first, 1)
    assert told.startswith("model:make not called: [model].model_version is '1', as when it was called on 2")
    other, calls, (told,) = digest("1", 2.0, reread=True)
    assert (other != first, calls) == (True, 2)
    assert told.startswith("the tensors of model:make changed although [model].model_version is still '1'")
    assert digest("2", 3.0)[1] == 3, "another version is called"
    (project / "model.py").write_text(code + "\n# other code\n")
    assert digest("2", 3.0)[1] == 4, "other code may return another model"


def test_a_model_from_a_file_needs_no_digest_of_its_own(project: Path) -> None:
    with opened(project) as context:
        assert model_digest(context) == ""


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("count", COUNTS)
def test_a_flipped_bit_in_stored_data_never_reaches_a_later_stage(project: Path, count: int) -> None:
    """What is stored is verified when it is looked up; what is damaged is dropped and made again."""
    change(project, few)
    with opened(project) as context:
        found = materialise(context, "test")
        digest = found.entry.digest
        paths = sorted(path for path in found.path.iterdir() if path.stat().st_size)
        whole = {path: path.read_bytes() for path in paths}
        remade = 0
        for seed in range(count):
            path = paths[seed % len(paths)]
            path.chmod(0o600)
            path.write_bytes(flipped(whole[path], seed))
            context.data.clear()
            again = materialise(context, "test")
            remade += not again.reused
            assert again.entry.digest == digest, seed
            assert {each: (again.path / each.name).read_bytes() for each in paths} == whole, seed
        assert remade == count
