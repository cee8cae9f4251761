"""The project examples/silero-vad: its labels, its metric, its data and where the data comes from."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.catalogue.callables import load_callable
from edgebuild.catalogue.project import load_project
from edgebuild.errors import DataError, EnvironmentGap
from tests import needs

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "silero-vad"
MODULES = ("data", "sounds", "metrics")


@pytest.fixture(scope="module")
def project() -> dict[str, ModuleType]:
    """The project's modules, imported as edgebuild imports them: apart from other projects' of the same names."""
    load_callable("data:samples", FOLDER)
    return {name: importlib.import_module(name) for name in MODULES}


@pytest.fixture(scope="module")
def sound_folder(project: dict[str, ModuleType]) -> Path:
    try:
        folder: Path = project["sounds"].folder()
    except EnvironmentGap as gap:
        needs.skip_without(needs.Need("silero-vad's sounds", "apt", " ".join(project["sounds"].PACKAGES)))
        raise gap
    return folder


def test_edgebuild_reads_the_project() -> None:
    project = load_project(FOLDER)
    assert project.onnx_path is not None
    assert project.onnx_path.is_file()
    assert [(spec.name, spec.shape) for spec in project.sample_specs] == [("input", ("batch", 576))]
    assert [(link.input, link.output) for link in project.state_links] == [("state", "stateN")]
    assert [(constant.name, constant.value) for constant in project.constants] == [("sr", 16000)]
    for reference in (
        project.data.calibration,
        project.data.validation,
        project.data.test,
        project.contract.preprocess,
    ):
        assert callable(load_callable(str(reference), FOLDER))


def test_inputs_are_the_models(project: dict[str, ModuleType]) -> None:
    import onnxruntime

    session = project["data"]._reference_session(onnxruntime)
    declared = tomllib.loads((FOLDER / "edgebuild.toml").read_text())
    assert {given["name"] for given in declared["inputs"]} == {given.name for given in session.get_inputs()}
    outputs = {given.name for given in session.get_outputs()}
    assert set(declared["model"]["state"].values()) | {"output"} == outputs


@settings(deadline=None)  # the first example imports scikit-learn
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.9]), st.booleans()), min_size=2, max_size=60))
def test_auc_is_scikit_learns(steps: list[tuple[float, bool]]) -> None:
    from sklearn.metrics import roc_auc_score

    auc = _metric()
    scores = np.array([[score] for score, _ in steps], np.float32)
    targets = np.array([speech for _, speech in steps], np.int64)
    if len(set(targets.tolist())) == 1:
        with pytest.raises(DataError, match="with and without speech"):
            auc({"output": scores}, targets)
    else:
        assert auc({"output": scores}, targets) == pytest.approx(roc_auc_score(targets, scores[:, 0]), abs=1e-12)


def _metric() -> Any:
    """The metric without a fixture, which hypothesis would not renew."""
    spec = importlib.util.spec_from_file_location("silero_vad_metrics", FOLDER / "metrics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.auc


def test_steps_carry_the_context_that_silero_gives_them(project: dict[str, ModuleType]) -> None:
    audio = np.arange(3 * 512 + 100, dtype=np.float32)
    steps = project["data"].preprocess(audio)
    assert steps.shape == (3, 576)
    assert steps.dtype == np.float32
    assert steps[0].tolist() == [0.0] * 64 + audio[:512].tolist()
    assert steps[2].tolist() == audio[2 * 512 - 64 : 3 * 512].tolist()


def test_silero_itself_agrees(project: dict[str, ModuleType]) -> None:
    """The same scores as the package's own loop over the same file."""
    import onnxruntime
    import torch

    data = project["data"]
    audio = np.random.default_rng(0).standard_normal(512 * 20).astype(np.float32) * 0.1
    session = data._reference_session(onnxruntime)
    context, state = torch.zeros(1, 64), torch.zeros(2, 1, 128)
    theirs = []
    for chunk in torch.split(torch.from_numpy(audio), 512):
        x = torch.cat([context, chunk[None]], dim=1)
        output, new_state = session.run(None, {"input": x.numpy(), "state": state.numpy(), "sr": np.array(16000)})
        state, context = torch.from_numpy(new_state), x[:, -64:]
        theirs.append(output)
    assert np.array_equal(data._scores(session, data.preprocess(audio)), np.concatenate(theirs))


@pytest.mark.parametrize(
    ("levels_db", "speech"),
    [
        ([None, 0, 0, None], [0, 1, 1, 0]),
        ([0, -29, -31, None], [1, 1, 0, 0]),  # quieter than 30 dB below the loudest
        ([0, None, None, None, 0], [1, 1, 1, 1, 1]),  # a gap of 96 ms is speech
        ([0, None, None, None, None, 0], [1, 0, 0, 0, 0, 1]),  # a longer one is a pause
        ([None, None], [0, 0]),
    ],
)
def test_label_rule(project: dict[str, ModuleType], levels_db: list[float | None], speech: list[int]) -> None:
    steps = [np.full(512, 0.0 if level is None else 0.5 * 10 ** (level / 20), np.float32) for level in levels_db]
    assert project["data"].speech_steps(np.concatenate(steps)).tolist() == speech


@pytest.mark.parametrize("kind", ["white", "pink", "brown"])
def test_noise_has_its_colour(project: dict[str, ModuleType], kind: str) -> None:
    noise = project["data"].background(kind, 65536, np.random.default_rng(0), np.zeros(1, np.float32))
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(1.0)
    power = np.abs(np.fft.rfft(noise)) ** 2
    hz = np.fft.rfftfreq(65536, 1 / 16000)
    per_octave_db = [
        10 * np.log10(np.mean(power[(hz >= low) & (hz < 2 * low)])) for low in (125, 250, 500, 1000, 2000, 4000)
    ]
    expected = {"white": 0.0, "pink": -3.01, "brown": -6.02}[kind]
    assert np.mean(np.diff(per_octave_db)) == pytest.approx(expected, abs=0.5)


def test_no_sound_is_in_two_splits(project: dict[str, ModuleType]) -> None:
    pinned = project["sounds"].sounds()
    assert len({sound.digest for sound in pinned}) == len(pinned)
    assert len({sound.path for sound in pinned}) == len(pinned)
    speech = Counter(sound.split for sound in pinned if sound.kind == "speech")
    recordings = project["data"].RECORDINGS
    assert speech == {split: count * 3 // 4 for split, count in recordings.items()}
    assert {sound.split for sound in pinned if sound.kind == "music"} == set(recordings)


def test_samples(project: dict[str, ModuleType], sound_folder: Path) -> None:
    data = project["data"]
    samples = list(itertools.islice(data.samples("validation"), 20))
    assert len({sample.group for sample in samples}) == 20
    assert Counter(sample.slice for sample in samples) == dict.fromkeys(data.BACKGROUNDS, 4)
    for number, sample in enumerate(samples):
        steps = sample.inputs["input"]
        assert steps.dtype == np.float32
        assert steps.shape == (len(sample.target), 576)
        assert 94 <= len(steps) < 188
        assert np.abs(steps).max() <= 1.0
        assert np.array_equal(steps[1:, :64], steps[:-1, -64:])
        assert sample.target.any() == (number % 4 != 3)
        assert (sample.group in {sound.path for sound in project["sounds"].sounds()}) == (number % 4 != 3)
    again = list(itertools.islice(data.samples("validation"), 20))
    assert all(
        np.array_equal(one.inputs["input"], two.inputs["input"]) and np.array_equal(one.target, two.target)
        for one, two in zip(samples, again, strict=True)
    )


def test_model_tells_speech_from_the_rest(project: dict[str, ModuleType], sound_folder: Path) -> None:
    import onnxruntime

    data = project["data"]
    session = data._reference_session(onnxruntime)
    samples = list(itertools.islice(data.calibration(), 24))
    scores = np.concatenate([data._scores(session, sample.inputs["input"]) for sample in samples])
    targets = np.concatenate([sample.target for sample in samples])
    assert project["metrics"].auc({"output": scores}, targets) > 0.95
    assert data.postprocess({"output": scores}).dtype == np.bool_


def test_a_changed_sound_is_refused(project: dict[str, ModuleType], tmp_path: Path) -> None:
    changed = tmp_path / "hello.g722"
    changed.write_bytes(b"\x00" * 4000)
    with pytest.raises(DataError, match="not the pinned sound"):
        project["sounds"].decode(changed, "0" * 32)


def test_without_apt_the_error_says_both_ways(
    project: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sounds = project["sounds"]
    monkeypatch.setattr(sounds, "CACHE", tmp_path / "data" / "asterisk")
    monkeypatch.setattr(sounds, "INSTALLED", tmp_path / "usr" / "share" / "asterisk")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentGap, match="apt-get isn't here") as raised:
        sounds.folder()
    assert "EDGEBUILD_ASTERISK_SOUNDS" in raised.value.hint
    assert "apt-get install" in raised.value.hint
    assert not (tmp_path / "data" / "asterisk").exists()


def test_a_given_folder_comes_first(
    project: dict[str, ModuleType], sound_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").symlink_to(sound_folder)
    monkeypatch.setenv("EDGEBUILD_ASTERISK_SOUNDS", str(tmp_path / "mine"))
    assert project["sounds"].folder() == tmp_path / "mine"
