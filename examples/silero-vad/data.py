"""Seeded mixtures of pinned voice prompts with noise, music and silence, labelled step by step.

Run it (``python data.py``) for the number of recordings and steps per split, and the AUC of the unchanged model.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import sounds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from edgebuild import Sample

RATE_HZ = 16_000
STEP = 512  # samples that the model takes at a time
CONTEXT = 64  # samples of the step before, which it is given again

# How many recordings a split has; every fourth has no speech.
RECORDINGS = {"calibration": 64, "validation": 240, "test": 400}
SEEDS = {"calibration": 1, "validation": 2, "test": 3}
BACKGROUNDS = ("silence", "white", "pink", "brown", "music")
SNRS_DB = (20.0, 10.0, 5.0, 0.0)
STEPS = (94, 188)  # of a recording: 3 to 6 seconds
SPEECH_RMS = 0.05  # -26 dB of full scale, over the steps with speech
MAX_PROMPT = 80 * STEP  # samples; longer prompts are cut there

# The rule that labels a step, fixed before any score was looked at.
QUIETEST_DB = -30.0  # a step is speech if the prompt in it is no quieter than this below the prompt's loudest step ...
LONGEST_GAP = 3  # ... or if it lies in a gap of at most so many steps (96 ms) between two such steps


def preprocess(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """The model's steps for 16 kHz audio in [-1, 1]: float32 (steps, 576), each with the 64 samples before it.

    Before the first step there are zeros; a last, incomplete step is dropped.
    """
    steps = len(audio) // STEP
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), audio[: steps * STEP]])
    windows = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + STEP)
    return np.ascontiguousarray(windows[::STEP])


def postprocess(outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Whether each step is speech, from the model's ``output`` of shape (steps, 1)."""
    return np.asarray(outputs["output"][:, 0] >= 0.5)


def calibration() -> Iterator[Sample]:
    """Samples to calibrate on."""
    return samples("calibration")


def validation() -> Iterator[Sample]:
    """Samples to choose on."""
    return samples("validation")


def test() -> Iterator[Sample]:
    """Samples for the sealed final verdict."""
    return samples("test")


def samples(split: str) -> Iterator[Sample]:
    """One recording after another: ``input`` float32 (steps, 576), target int64 (steps,) with 1 for speech.

    The group is the recording: the prompt's path, or a name of its own where there is none. The slice is the
    background. Same samples on every run and machine.

    Raises:
        edgebuild.errors.DataError: a sound isn't the pinned one.
        edgebuild.errors.EnvironmentGap: the sounds, or PyAV, can't be had here.
    """
    from edgebuild import Sample

    folder = sounds.folder()
    prompts = [sound for sound in sounds.sounds() if (sound.split, sound.kind) == (split, "speech")]
    tracks = [
        sounds.decode(folder / sound.path, sound.digest)
        for sound in sounds.sounds()
        if (sound.split, sound.kind) == (split, "music")
    ]
    waiting = iter(prompts)
    for number in range(RECORDINGS[split]):
        draw = np.random.default_rng([SEEDS[split], number])
        kind = BACKGROUNDS[number % len(BACKGROUNDS)]
        length = int(draw.integers(*STEPS)) * STEP
        track = tracks[int(draw.integers(len(tracks)))]
        noise = background(kind, length, draw, track) * SPEECH_RMS / 10 ** (draw.choice(SNRS_DB) / 20)
        speech, group = np.zeros(length, np.float32), f"{split}-{number}-{kind}"
        if number % 4 != 3:
            prompt = next(waiting)
            speech, group = placed(sounds.decode(folder / prompt.path, prompt.digest), length, draw), prompt.path
        yield Sample(
            inputs={"input": preprocess(as_recorded(speech + noise))},
            target=speech_steps(speech),
            group=group,
            slice=kind,
        )


def background(kind: str, length: int, draw: np.random.Generator, track: NDArray[np.float32]) -> NDArray[np.float64]:
    """``length`` samples of a background with an RMS of 1 (0 for silence); music is a random part of the track."""
    if kind == "silence":
        return np.zeros(length)
    if kind == "music":
        start = int(draw.integers(len(track) - length))
        sound = track[start : start + length].astype(np.float64)
    else:
        slope = {"white": 0.0, "pink": 0.5, "brown": 1.0}[kind]  # amplitude falls with frequency to this power
        spectrum = np.fft.rfft(draw.standard_normal(length))
        frequency_hz = np.fft.rfftfreq(length, 1 / RATE_HZ)
        sound = np.fft.irfft(spectrum * np.maximum(frequency_hz, 20.0) ** -slope, length)
    return np.asarray(sound / max(np.sqrt(np.mean(sound**2)), 1e-6))


def placed(prompt: NDArray[np.float32], length: int, draw: np.random.Generator) -> NDArray[np.float32]:
    """The prompt without its silent ends, at a random place in ``length`` samples of zeros, at the level of speech."""
    first, last = np.flatnonzero(speech_steps(prompt))[[0, -1]]
    trimmed = prompt[first * STEP : (last + 1) * STEP][:MAX_PROMPT]
    start = int(draw.integers(length - len(trimmed)))
    speech = np.zeros(length, np.float32)
    speech[start : start + len(trimmed)] = trimmed
    level = np.sqrt(np.mean(speech[: length // STEP * STEP].reshape(-1, STEP)[speech_steps(speech) == 1] ** 2))
    return np.asarray(speech * (SPEECH_RMS / level), dtype=np.float32)


def speech_steps(prompt: NDArray[np.float32]) -> NDArray[np.int64]:
    """1 for each whole step of 512 samples that is speech by the rule above, else 0; ``prompt`` has no background."""
    steps = prompt[: len(prompt) // STEP * STEP].reshape(-1, STEP).astype(np.float64)
    power = np.mean(steps**2, axis=1)
    speech = (power > 0) & (power >= power.max(initial=0.0) * 10 ** (QUIETEST_DB / 10))
    places = np.flatnonzero(speech)
    for before, after in itertools.pairwise(places):
        if after - before - 1 <= LONGEST_GAP:
            speech[before:after] = True
    return np.asarray(speech, dtype=np.int64)


def as_recorded(audio: NDArray[np.float64]) -> NDArray[np.float32]:
    """The audio as 16-bit samples hold it; so the last bit of a machine's FFT does not change the data."""
    return np.asarray(np.clip(np.round(audio * 32768), -32768, 32767) / 32768, dtype=np.float32)


def main() -> None:
    """Print counts per split and background, and the AUC of the unchanged model on each split."""
    import onnxruntime
    from metrics import auc

    session = _reference_session(onnxruntime)
    for split in RECORDINGS:
        scores, targets, slices, groups = [], [], [], set()
        for sample in samples(split):
            scores.append(_scores(session, sample.inputs["input"]))
            targets.append(sample.target)
            slices += [sample.slice] * len(sample.target)
            groups.add(sample.group)
        output, target, where = np.concatenate(scores), np.concatenate(targets), np.array(slices)
        print(f"{split}: {len(targets)} recordings in {len(groups)} groups, AUC {auc({'output': output}, target):.4f}")
        for kind in BACKGROUNDS:
            mask = where == kind
            value = auc({"output": output[mask]}, target[mask])
            print(f"  {kind:8} {mask.sum():6} steps, {target[mask].mean():.0%} speech, AUC {value:.4f}")


def _reference_session(onnxruntime: Any) -> Any:
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        from edgebuild.errors import EnvironmentGap

        raise EnvironmentGap(
            "The package silero-vad, which brings the model, isn't installed.",
            hint="pip install --no-deps silero-vad==6.2.3",
        )
    model = Path(spec.submodule_search_locations[0]) / "data" / "silero_vad_16k_op15.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _scores(session: Any, steps: NDArray[np.float32]) -> NDArray[np.float32]:
    """The model's output (steps, 1) for one recording, its state carried from step to step."""
    state, rate = np.zeros((2, 1, 128), np.float32), np.array(RATE_HZ, np.int64)
    outputs = []
    for step in steps:
        output, state = session.run(["output", "stateN"], {"input": step[None], "state": state, "sr": rate})
        outputs.append(output)
    return np.concatenate(outputs)


if __name__ == "__main__":
    main()
