"""The user's data on disk: what goes in comes out, and what is wrong with it is said."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgebuild.core.artifact import TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, StepContext, never_stop
from edgebuild.devices.runner.feeding import Data
from edgebuild.errors import DataError, EdgebuildError, Interrupted, ModelError
from edgebuild.models.dataset import Dataset, save_target, write_dataset
from edgebuild.models.described import describe
from edgebuild.models.subset import SampleData

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

X = TensorSpec(name="x", shape=("batch", 3), dtype="float32")
ROW = np.ones(3, dtype=np.float32)


def write(
    samples: Iterable[Any],
    folder: Path,
    *specs: TensorSpec,
    stateful: bool = False,
    check: Callable[[], None] = never_stop,
) -> Dataset:
    return write_dataset(
        samples, folder, specs=specs or (X,), stateful=stateful, source="data:test", task=NoProgress(), check=check
    )


def refused(samples: Iterable[Any], folder: Path, *specs: TensorSpec, stateful: bool = False) -> str:
    with pytest.raises(DataError) as caught:
        write(samples, folder, *specs, stateful=stateful)
    assert not (folder / "data.json").exists(), "a refused data set must not look complete"
    return caught.value.message


dtypes = st.sampled_from(["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"])
names = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
        lambda name: name not in {"target", "lengths"}
    ),
    min_size=1,
    max_size=3,
    unique=True,
)
shapes = hnp.array_shapes(min_dims=0, max_dims=2, max_side=3)
labels = st.none() | st.text(st.characters(codec="utf-8"), max_size=5)


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[tuple[TensorSpec, ...], bool, list[Sample]]:
    stateful = draw(st.booleans())
    specs = tuple(
        TensorSpec.model_validate({"name": name, "shape": ("batch", *draw(shapes)), "dtype": dtype})
        for name, dtype in zip(draw(names), draw(st.lists(dtypes, min_size=3, max_size=3)), strict=False)
    )
    target_dtype = draw(st.none() | dtypes)
    samples = []
    for _ in range(draw(st.integers(1, 5))):
        lead = (draw(st.integers(1, 4)),) if stateful else ()
        inputs = {}
        for spec in specs:
            dtype = np.dtype(spec.dtype)
            finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
            elements = hnp.from_dtype(dtype, **finite)  # type: ignore[arg-type]
            tail = (size for size in spec.shape[1:] if isinstance(size, int))
            inputs[spec.name] = draw(hnp.arrays(dtype, (*lead, *tail), elements=elements))
        target = None if target_dtype is None else draw(hnp.arrays(np.dtype(target_dtype), (*lead, 2)))
        samples.append(Sample(inputs=inputs, target=target, group=draw(labels), slice=draw(labels)))
    return specs, stateful, samples


@given(data_sets())
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_read_back_exactly(drawn: tuple[tuple[TensorSpec, ...], bool, list[Sample]]) -> None:
    specs, stateful, samples = drawn
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(iter(samples), folder, *specs, stateful=stateful)
        found = Dataset.open(folder)
        rows: dict[str, list[Any]] = {spec.name: [] for spec in specs}
        for sample in samples:
            for key, array in sample.inputs.items():
                rows[key].extend(array if stateful else [array])
        lengths = [len(sample.inputs[specs[0].name]) if stateful else 1 for sample in samples]
        for spec in specs:
            array = found.array(spec.name)
            assert array.dtype == spec.dtype
            assert array.tobytes() == np.array(rows[spec.name], dtype=spec.dtype).tobytes()
            assert array.shape == (sum(lengths), *spec.shape[1:])
            assert not array.flags.writeable
        assert found.lengths.tolist() == lengths
        assert (found.samples, found.frames) == (len(samples), sum(lengths))
        assert found.inputs == tuple(spec.name for spec in specs)
        assert found.groups() == tuple(sample.group for sample in samples)
        assert found.slices() == tuple(sample.slice for sample in samples)
        if samples[0].target is None:
            assert found.target is None
        else:
            wanted = np.concatenate([s.target if stateful else s.target[np.newaxis] for s in samples])
            assert found.target is not None
            assert found.target.dtype == wanted.dtype
            assert found.target.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("name", ["a/b", "a%2Fb", "..", "../x", "/etc/x", "image:0", "group", "slice", "data"])
def test_any_input_name_stays_inside_the_folder_and_is_found_by_the_runner(name: str, tmp_path: Path) -> None:
    spec = X.model_copy(update={"name": name})
    folder = tmp_path / "in" / "side"
    folder.mkdir(parents=True)
    write([Sample(inputs={name: ROW}, target=1)], folder, spec)
    assert sorted(p.relative_to(tmp_path).parts[:2] for p in tmp_path.rglob("*") if p.is_file()) == [("in", "side")] * 6
    assert Dataset.open(folder).array(name).tolist() == [[1, 1, 1]]
    contract = {
        "inputs": [{"name": name, "shape": [1, 3], "dtype": "float32"}],
        "constants": [],
        "state": [],
        "state_specs": [],
    }
    assert Data(str(folder), contract).frames == 1


@pytest.mark.parametrize("name", ["target", "lengths", "x" * 252, "ä" * 126, "a\0b"])
def test_an_input_name_that_can_be_no_file_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can't be called so") as caught:
        write([Sample(inputs={name: ROW})], tmp_path, X.model_copy(update={"name": name}))
    assert "Rename it" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def sample(array: Any = ROW, **more: Any) -> Sample:
    return Sample(inputs={"x": array}, **more)


def given_as(inputs: Any) -> Sample:
    return Sample(inputs=inputs)


LATER = [sample(), sample()]
WRONG = [
    ([*LATER, sample(np.ones(4, np.float32))], "data:test: sample 2: input 'x' has shape [4], the model takes [3]"),
    ([*LATER, sample(np.ones((1, 3), np.float32))], "sample 2: input 'x' has shape [1, 3], the model takes [3]"),
    ([sample(np.ones(3))], "data:test: sample 0: input 'x' is float64, the model takes float32."),
    ([*LATER, sample(np.array([1, np.nan, 1], np.float32))], "sample 2: input 'x' holds NaN or infinity."),
    ([sample(np.array([1, np.inf, 1], np.float32))], "sample 0: input 'x' holds NaN or infinity."),
    ([*LATER, Sample(inputs={})], "data:test: sample 2 has no input 'x'."),
    ([Sample(inputs={"x": ROW, "y": ROW})], "sample 0 has an input 'y' that the model doesn't take."),
    ([given_as({"x": ROW, 1: ROW, "y": ROW})], "that the model doesn't take."),
    ([given_as(ROW)], "sample 0: its inputs are a ndarray, not a mapping"),
    ([given_as(None)], "sample 0: its inputs are a NoneType, not a mapping"),
    ([sample([[1.0], [1.0, 2.0]])], "sample 0: input 'x' is no array"),
    ([sample({1})], "sample 0: input 'x' is a set, not a number"),
    ([], "data:test yields no samples."),
    ([sample(target=1), sample()], "data:test: sample 1: only some samples have a target."),
    ([sample(), sample(target=1)], "data:test: sample 1: only some samples have a target."),
    ([sample(target=object())], "sample 0: its target is a object, not a number"),
    ([sample(target=[[1], [1, 2]])], "sample 0: its target is no array"),
    ([sample(target={"boxes": object()})], "sample 0: its target can't be kept: it holds a object."),
    ([sample(target={"score": float("nan")})], "sample 0: its target can't be kept: Out of range float values"),
    ([sample(target={"a": 1}), sample(target="text")], "sample 1: only some samples have a structure as their target."),
    ([sample(target=1), sample(target=0.5)], "sample 1: target is float64, which earlier samples' int64 can't hold."),
    ([sample(group=3)], "sample 0: its group is a int, not a text."),
    ([sample(slice=np.int64(3))], "sample 0: its slice is a int64, not a text."),
    ([*LATER, ROW], "data:test yielded a ndarray as sample 2."),
    ([None], "data:test yielded a NoneType as sample 0."),
    (None, "data:test returned a NoneType, which holds no samples."),
]


@pytest.mark.parametrize(("samples", "message"), WRONG, ids=[message[-40:] for _, message in WRONG])
def test_what_is_wrong_with_a_sample_is_said(samples: Any, message: str, tmp_path: Path) -> None:
    assert message in refused(samples, tmp_path)


def test_targets_that_fit_the_first_are_kept_at_their_value(tmp_path: Path) -> None:
    found = write([sample(target=0.5), sample(target=2), sample(target=np.float32(0.25))], tmp_path)
    assert found.target is not None
    assert found.target.tolist() == [0.5, 2.0, 0.25]


STEPS = np.ones((4, 3), np.float32)
WRONG_STEPS = [
    ([sample(STEPS[0])], "sample 0: input 'x' has shape [], the model takes [3]"),
    ([sample(np.float32(1))], "sample 0: input 'x' has shape [], the model takes [3]"),
    ([sample(STEPS[:0])], "sample 0: input 'x' has 0 steps."),
    ([sample(STEPS, target=1)], "sample 0: its target has no entry for each of its 4 steps."),
    ([sample(STEPS, target=np.ones(3))], "sample 0: its target has no entry for each of its 4 steps."),
]


@pytest.mark.parametrize(("samples", "message"), WRONG_STEPS, ids=range(len(WRONG_STEPS)))
def test_what_is_wrong_with_a_sequence_is_said(samples: list[Sample], message: str, tmp_path: Path) -> None:
    assert message in refused(samples, tmp_path, stateful=True)


def test_inputs_of_a_sequence_have_the_same_number_of_steps(tmp_path: Path) -> None:
    uneven = Sample(inputs={"x": STEPS, "y": STEPS[:2]})
    message = refused([uneven], tmp_path, X, X.model_copy(update={"name": "y"}), stateful=True)
    assert "sample 0: input 'y' has 2 steps where 'x' has 4." in message


def test_a_scalar_sequence_without_steps_is_refused(tmp_path: Path) -> None:
    scalar = TensorSpec(name="x", shape=("batch",), dtype="float32")
    assert "has shape []" in refused([sample(np.float32(1))], tmp_path, scalar, stateful=True)


def test_samples_of_a_dynamic_axis_must_still_agree(tmp_path: Path) -> None:
    dynamic = TensorSpec(name="x", shape=("batch", "time"), dtype="float32")
    message = refused([sample(ROW), sample(np.ones(4, np.float32))], tmp_path, dynamic)
    assert "data:test: sample 1: x has shape [4], earlier samples have [3]." in message


def failing(error: Exception) -> Iterator[Sample]:
    yield sample()
    yield sample()
    raise error


def test_a_generator_that_raises_midway_is_told_with_its_own_words(tmp_path: Path) -> None:
    error = KeyError("no such recording")
    with pytest.raises(DataError, match="data:test failed after 2 samples: KeyError: 'no such recording'") as caught:
        write(failing(error), tmp_path)
    assert caught.value.__cause__ is error
    assert not (tmp_path / "data.json").exists()


def test_an_error_of_ours_from_inside_a_generator_passes_as_it_is(tmp_path: Path) -> None:
    error = DataError("samples.npz can't be read", hint="it must be written by numpy.savez")
    with pytest.raises(EdgebuildError) as caught:
        write(failing(error), tmp_path)
    assert caught.value is error


def test_writing_stops_when_the_user_says_so(tmp_path: Path) -> None:
    left = iter(range(3))

    def check() -> None:
        if next(left, None) is None:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        write((sample() for _ in range(100)), tmp_path, check=check)
    assert (tmp_path / "x.npy").stat().st_size == 128 + 3 * ROW.nbytes


def test_samples_are_streamed(tmp_path: Path) -> None:
    wide = TensorSpec(name="x", shape=("batch", 50_000), dtype="float32")
    total = 200 * 50_000 * 4
    tracemalloc.start()
    try:
        found = write((sample(np.full(50_000, i, np.float32)) for i in range(200)), tmp_path, wide)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < total / 10
    assert found.array("x")[:, 0].tolist() == list(range(200))


def test_the_counts_on_disk_are_what_the_device_reads(tmp_path: Path) -> None:
    write([sample(STEPS), sample(STEPS[:1])], tmp_path, stateful=True)
    facts = json.loads((tmp_path / "data.json").read_text())
    assert facts == {"samples": 2, "frames": 5, "inputs": ["x"], "labelled": False}
    assert np.load(tmp_path / "lengths.npy").tolist() == [4, 1]


def rows(*targets: Any) -> list[Sample]:
    return [Sample(inputs={"x": ROW}, target=target) for target in targets]


def test_texts_may_grow(tmp_path: Path) -> None:
    texts = ["house", "ab", "bungalows", "", "é" * 300, "x"]
    found = write(rows(*texts), tmp_path).target
    assert found is not None
    assert found.tolist() == texts
    assert sorted(path.name for path in tmp_path.glob("target*")) == ["target.npy"]


@pytest.mark.parametrize("texts", [["a", 3], [3, "a"], [b"a", "a"]])
def test_texts_and_numbers_do_not_mix(texts: list[Any], tmp_path: Path) -> None:
    assert "can't hold" in refused(rows(*texts), tmp_path)


def test_targets_of_any_shape_are_read_back_one_by_one(tmp_path: Path) -> None:
    targets = [
        np.array([1, 2, 3]),
        np.array([4]),
        np.zeros(0, dtype=np.int64),
        np.arange(8).reshape(2, 4),
        np.array(7),
        np.array([5, 6], dtype=np.int8),
    ]
    data = write(rows(*targets), tmp_path)
    found = data.target
    assert found is not None
    assert (found.dtype, found.shape) == (np.dtype(object), (6,))
    assert [each.tolist() for each in found] == [each.tolist() for each in targets]
    assert [each.shape for each in found[[3, 0]]] == [(2, 4), (3,)], "as a metric takes them, in a resample"
    assert data.numbers is None
    assert [parts["target"].shape for parts, _, _ in data] == [(1, *each.shape) for each in targets]
    assert describe(data).identity == describe(reversed(list(data))).identity


def test_targets_of_any_shape_in_sequences(tmp_path: Path) -> None:
    steps = [np.ones((n, 3), np.float32) for n in (2, 3)]
    samples = [
        Sample(inputs={"x": steps[0]}, target=np.arange(4).reshape(2, 2)),
        Sample(inputs={"x": steps[1]}, target=np.arange(9).reshape(3, 3)),
    ]
    found = write(samples, tmp_path, stateful=True).target
    assert found is not None
    assert [each.tolist() for each in found] == [[0, 1], [2, 3], [0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_texts_of_any_number_and_length(tmp_path: Path) -> None:
    targets = [["a", "bc"], ["defg"], ["h"] * 3, ["longest of all"]]
    found = write(rows(*targets), tmp_path).target
    assert found is not None
    assert [each.tolist() for each in found] == targets


def test_inputs_of_any_shape_are_still_refused(tmp_path: Path) -> None:
    free = TensorSpec(name="x", shape=("batch", "n"), dtype="float32")
    samples = [Sample(inputs={"x": np.ones(n, np.float32)}) for n in (2, 3)]
    assert "earlier samples have [2]" in refused(samples, tmp_path, free)


def test_a_part_of_targets_of_any_shape_is_kept_as_they_are(tmp_path: Path) -> None:
    write(rows([1, 2], [3], [4, 5, 6]), tmp_path)
    found = Dataset.open(tmp_path).target
    assert found is not None
    (tmp_path / "part").mkdir()
    save_target(found[[0, 2]], tmp_path / "part")
    for name in ("lengths.npy", "groups.json", "slices.json", "data.json"):
        (tmp_path / "part" / name).write_bytes((tmp_path / name).read_bytes())
    part = Dataset.open(tmp_path / "part").target
    assert part is not None
    assert [each.tolist() for each in part] == [[1, 2], [4, 5, 6]]


def test_structures_come_back_with_lists_for_arrays(tmp_path: Path) -> None:
    targets: list[Any] = [
        {"boxes": np.array([[0, 0, 2.5, 1]]), "labels": np.array([3])},
        [{"text": "é", "at": (1, 2)}, {"text": "longer than the one before"}],
    ]
    data = write(rows(*targets), tmp_path)
    assert data.target is not None
    assert data.target.tolist() == [
        {"boxes": [[0, 0, 2.5, 1]], "labels": [3]},
        [{"text": "é", "at": [1, 2]}, {"text": "longer than the one before"}],
    ]
    assert data.numbers is None
    assert [parts["target"].shape for parts, _, _ in data] == [(1,), (1,)]
    part = tmp_path / "part"
    part.mkdir()
    context = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=tmp_path)
    SampleData(frames=1).run({"data": tmp_path}, part, context)
    assert Dataset.open(part).target.tolist() in ([each] for each in data.target.tolist())  # type: ignore[union-attr]


def test_a_structure_for_each_step(tmp_path: Path) -> None:
    steps = np.zeros((2, 3), dtype=np.float32)
    data = write([Sample(inputs={"x": steps}, target=[{"a": 1}, {"a": 2}])], tmp_path, stateful=True)
    assert data.target is not None
    assert data.target.tolist() == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("own", "given_shape", "hint"),
    [
        (("batch", 3), (1, 3), "Leave its first axis out"),
        ((8,), (8,), "Axis 0 of every input is its batch, 8 here"),
        (("batch", 3), (4,), "the shape under [[inputs]]"),
    ],
)
def test_a_wrong_shape_is_told_with_what_is_wrong_with_it(
    own: tuple[int | str, ...], given_shape: tuple[int, ...], hint: str, tmp_path: Path
) -> None:
    spec = TensorSpec(name="x", shape=own, dtype="float32")
    with pytest.raises(DataError) as caught:
        write([Sample(inputs={"x": np.ones(given_shape, np.float32)})], tmp_path, spec)
    assert hint in caught.value.hint
