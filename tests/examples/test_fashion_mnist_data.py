"""The Fashion-MNIST example as a user gets it: its data, its splits and its shipped weights."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file

from tests import needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fashion-mnist"


Splits = dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]


def _module(name: str) -> ModuleType:
    # By path: `data` and `model` are names that other examples use too.
    spec = importlib.util.spec_from_file_location(f"fashion_mnist_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


SIZES = {"train": 55_000, "validation": 5_000, "test": 10_000}

data = _module("data")
model = _module("model")


@pytest.fixture(scope="module")
def folder() -> Path:
    """The four files; a folder that the user names has to hold them."""
    try:
        found: Path = data.find_folder()
    except data.DataError:
        if not os.environ.get(data.FOLDER_VARIABLE):
            needs.skip_without(needs.Need("the files of Fashion-MNIST", "apt", data.PACKAGE))
        raise
    return found


@pytest.fixture(scope="module")
def splits(folder: Path) -> Splits:
    return {split: data.arrays(split) for split in SIZES}


@pytest.fixture(scope="module")
def network() -> Iterator[torch.nn.Module]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network: torch.nn.Module = model.resnet8()
    network.load_state_dict(load_file(EXAMPLE / "weights.safetensors"), strict=True)
    yield network.eval()
    torch.set_num_threads(threads)


@pytest.fixture
def copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's own that holds the four files."""
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in data.SHA256:
        shutil.copyfile(folder / name, mine / name)
    monkeypatch.setenv("EDGEBUILD_FASHION_MNIST", str(mine))
    return mine


def test_each_split_passes_its_digests_and_has_its_size(splits: Splits) -> None:
    assert {split: len(images) for split, (images, _) in splits.items()} == SIZES
    for images, labels in splits.values():
        assert images.shape == (len(labels), 28, 28)
        assert images.dtype == labels.dtype == np.uint8


def test_every_class_is_a_tenth_of_each_split(splits: Splits) -> None:
    whole = np.concatenate([splits["train"][1], splits["validation"][1]])
    assert list(np.bincount(whole)) == [6_000] * 10
    assert list(np.bincount(splits["test"][1])) == [1_000] * 10
    validation = np.bincount(splits["validation"][1], minlength=10)
    assert 400 < validation.min() <= validation.max() < 600


def test_no_image_is_in_two_splits(splits: Splits) -> None:
    seen = [{image.tobytes() for image in images} for images, _ in splits.values()]
    assert sum(len(images) for images in seen) == len(set().union(*seen))


@pytest.mark.usefixtures("folder")
def test_calibration_is_a_thousand_train_images_and_never_changes() -> None:
    chosen = data.calibration_indices()
    assert len(set(chosen.tolist())) == 1_000
    assert 0 <= chosen.min() <= chosen.max() < 55_000
    assert np.array_equal(chosen, data.calibration_indices())


@pytest.mark.parametrize(("split", "size"), [("calibration", 1_000), ("validation", 5_000)])
@pytest.mark.usefixtures("folder")
def test_samples_are_what_the_model_takes(split: str, size: int) -> None:
    samples = list(getattr(data, split)())
    assert len(samples) == size
    assert {sample.inputs["image"].shape for sample in samples} == {(1, 28, 28)}
    assert {sample.inputs["image"].dtype for sample in samples} == {np.dtype(np.float32)}
    assert all(sample.slice == data.CLASSES[sample.target] for sample in samples)
    pixels = np.stack([sample.inputs["image"] for sample in samples])
    assert abs(float(pixels.mean())) < 0.05
    assert abs(float(pixels.std()) - 1.0) < 0.05


def test_a_folder_of_the_users_own_comes_first(copy: Path) -> None:
    assert data.find_folder() == copy


def test_official_files_differ_in_the_gzip_header_only_and_pass_too(copy: Path) -> None:
    path = copy / "t10k-labels-idx1-ubyte.gz"
    content = gzip.decompress(path.read_bytes())
    with path.open("wb") as raw, gzip.GzipFile(filename="t10k-labels-idx1-ubyte", fileobj=raw, mode="wb") as file:
        file.write(content)
    _, labels = data.arrays("test")
    assert labels.tobytes() == content[8:]


def _flip_content(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(content)))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2_000])


def _not_gzip(path: Path) -> None:
    path.write_bytes(b"<html>moved</html>")


@pytest.mark.parametrize(
    ("damage", "said"),
    [(_flip_content, "expected 0402a96d"), (_truncate, "cannot be read"), (_not_gzip, "cannot be read")],
)
def test_a_damaged_file_is_named_with_the_ways_to_mend_it(
    copy: Path, damage: Callable[[Path], None], said: str
) -> None:
    path = copy / "t10k-labels-idx1-ubyte.gz"
    damage(path)
    with pytest.raises(data.DataError) as caught:
        data.arrays("test")
    message = str(caught.value)
    assert str(path) in message
    assert said in message
    assert "apt-get install dataset-fashion-mnist" in message
    assert "https://github.com/zalandoresearch/fashion-mnist" in message


def test_a_folder_that_lacks_a_file_says_which(copy: Path) -> None:
    (copy / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(data.DataError, match=r"lacks train-labels-idx1-ubyte\.gz; either install"):
        data.find_folder()


def test_without_data_and_without_apt_the_error_says_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEBUILD_FASHION_MNIST", raising=False)
    monkeypatch.setattr(data, "PROJECT_CACHE", tmp_path / "data")
    monkeypatch.setattr(data, "SYSTEM_FOLDER", tmp_path / "nowhere")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(data.DataError, match="apt-get is not here") as caught:
        data.find_folder()
    assert f"into {tmp_path / 'data'}" in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_a_failing_apt_leaves_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("apt-get", "dpkg-deb"):
        (commands / name).write_text("#!/bin/sh\necho 'E: no such package' >&2\nexit 100\n")
        (commands / name).chmod(0o755)
    monkeypatch.delenv("EDGEBUILD_FASHION_MNIST", raising=False)
    monkeypatch.setattr(data, "PROJECT_CACHE", tmp_path / "project" / "data")
    monkeypatch.setattr(data, "SYSTEM_FOLDER", tmp_path / "nowhere")
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(data.DataError, match="E: no such package"):
        data.find_folder()
    assert list((tmp_path / "project").iterdir()) == []


def test_resnet8_takes_about_ten_million_multiply_accumulates() -> None:
    network = model.resnet8().eval()
    macs = 0

    def count(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal macs
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            macs += output.numel() * module.weight[0].numel()

    for module in network.modules():
        module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 1, 28, 28))
    assert 8_000_000 < macs < 11_000_000


def test_shipped_weights_are_right_on_validation(network: torch.nn.Module, splits: Splits) -> None:
    images, labels = splits["validation"]
    batch = torch.from_numpy(np.stack([data.preprocess(image) for image in images[:1_000]]))
    with torch.inference_mode():
        logits = network(batch).numpy()
    assert (logits.argmax(1) == labels[:1_000]).mean() >= 0.90
    assert data.postprocess(logits[0]) == data.CLASSES[int(logits[0].argmax())]


def test_the_training_report_claims_what_the_example_promises() -> None:
    report = json.loads((EXAMPLE / "training.json").read_text())
    assert report["test_accuracy"] >= 0.925
    assert len(report["validation_by_epoch"]) == report["recipe"]["epochs"]


def _stop_at_second_call(epoch: Callable[..., float]) -> Callable[..., float]:
    calls = iter((epoch,))

    def call(*arguments: object) -> float:
        once = next(calls, None)
        if once is None:
            raise KeyboardInterrupt
        return once(*arguments)

    return call


def test_stopped_training_goes_on_to_the_same_weights(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "data", data)
    monkeypatch.setitem(sys.modules, "model", model)
    train = _module("train")
    few = {split: (images[:256], labels[:256]) for split, (images, labels) in splits.items()}
    monkeypatch.setattr(data, "arrays", few.__getitem__)
    recipe = train.Recipe(epochs=2, seed=3)

    def run(name: str) -> Path:
        weights = tmp_path / f"{name}.safetensors"
        train.train(model.resnet8, recipe, weights=weights, report=tmp_path / f"{name}.json", threads=1)
        return weights

    with monkeypatch.context() as stopping:
        stopping.setattr(train, "_epoch", _stop_at_second_call(train._epoch))
        with pytest.raises(KeyboardInterrupt):
            run("stopped")
    assert not (tmp_path / "stopped.safetensors").exists()
    whole, resumed = load_file(run("whole")), load_file(run("stopped"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert json.loads((tmp_path / "stopped.json").read_text())["recipe"]["epochs"] == 2
    assert not list(tmp_path.glob("stopped.checkpoint*"))
