"""Lines of text, rendered with the fonts of a few packages; the label is the text itself.

Run it (``python data.py``) for the number of lines per split, and the character error rate of the unchanged model.
"""

from __future__ import annotations

import unicodedata
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
MODEL = "models/ch_PP-OCRv4_rec_infer.onnx"
HEIGHT, WIDTH = 48, 320

# How many lines a split has, and the seed that draws them.
LINES = {"train": 2000, "calibration": 200, "validation": 400, "test": 1000}
SEEDS = {"train": 1, "calibration": 2, "validation": 3, "test": 4}

# Family: its package, and the styles that are used. The family is a line's slice.
FONTS = {
    "Roboto": ("font_roboto", ("Roboto-Regular.ttf", "Roboto-Bold.ttf", "Roboto-LightItalic.ttf")),
    "Lato": ("font_lato", ("Lato-Regular.ttf", "Lato-BoldItalic.ttf")),
    "Caladea": ("font_caladea", ("Caladea-Regular.ttf", "Caladea-BoldItalic.ttf")),
    "Source Serif": ("font_source_serif_pro", ("SourceSerifPro-Regular.ttf", "SourceSerifPro-Semibold.ttf")),
    "Source Sans": ("font_source_sans_pro", ("SourceSansPro-Regular.ttf", "SourceSansPro-It.ttf")),
    "Hanken Grotesk": ("font_hanken_grotesk", ("HankenGrotesk-Regular.otf", "HankenGrotesk-SemiBoldItalic.otf")),
}
FONT_SIZE = 36
LONGEST = 26  # characters; longer lines don't fit into the width

# Code points whose names words are taken from. The names of assigned characters never change (Unicode's stability
# policy), and nothing has been assigned below this one since Unicode 14: the same words with every Python from 3.11 on.
NAMED = range(0x20, 0x870)


def preprocess(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The model's input for a picture of one line, uint8 (height, width, 3) in RGB: float32 (3, 48, 320).

    Scaled to 48 pixels of height, cut off or padded with zeros at the right, BGR, from -1 to 1. Source:
    ``rapidocr_onnxruntime.ch_ppocr_rec``.
    """
    from PIL import Image

    width = min(WIDTH, max(1, round(image.shape[1] * HEIGHT / image.shape[0])))
    scaled = Image.fromarray(image).resize((width, HEIGHT), Image.Resampling.BILINEAR)
    padded = np.zeros((3, HEIGHT, WIDTH), np.float32)
    padded[:, :, :width] = np.asarray(scaled, np.float32)[:, :, ::-1].transpose(2, 0, 1) / 127.5 - 1
    return padded


def postprocess(outputs: Mapping[str, NDArray[Any]]) -> list[str]:
    """The text of each line of a batch, from the model's only output, scores of (batch, steps, 6625).

    Greedy CTC: the highest of every step, those that repeat the one before and blanks (0) left out.
    """
    (scores,) = outputs.values()
    texts = []
    for best in scores.argmax(axis=2):
        new = np.concatenate([[True], best[1:] != best[:-1]])
        texts.append("".join(symbols()[index] for index in best[new & (best > 0)]))
    return texts


@cache
def symbols() -> tuple[str, ...]:
    """What the model's 6,625 scores stand for: the blank, the characters that are listed in its file, and a space."""
    import onnx

    file = onnx.load(package_folder("rapidocr_onnxruntime") / MODEL)
    (listed,) = (entry.value for entry in file.metadata_props if entry.key == "character")
    return ("", *listed.splitlines(), " ")


def package_folder(package: str) -> Path:
    """Where a package is installed. It is not imported: only files of it are used.

    Raises:
        edgebuild.errors.EnvironmentGap: it isn't installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        from edgebuild.errors import EnvironmentGap

        name = package.replace("_", "-")
        raise EnvironmentGap(f"The package {name}, whose files this example is made of, isn't installed.", hint=INSTALL)
    return Path(spec.submodule_search_locations[0])


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
    """One line after another: ``x`` float32 (3, 48, 320), the text as target, the font's family as slice.

    Raises:
        edgebuild.errors.EnvironmentGap: a package isn't installed.
    """
    from edgebuild import Sample

    families = sorted(FONTS)
    for number in range(LINES[split]):
        draw = np.random.default_rng([SEEDS[split], number])
        family = families[draw.integers(len(families))]
        text = line_of_text(draw)
        yield Sample(inputs={"x": preprocess(picture(text, family, draw))}, target=text, slice=family)


@cache
def words() -> tuple[str, ...]:
    """Words of 3 to 9 capital letters, from the names of characters: LATIN, CEDILLA, ABOVE, …"""
    found = {word for code in NAMED for word in unicodedata.name(chr(code), "").replace("-", " ").split()}
    return tuple(sorted(word for word in found if word.isalpha() and 3 <= len(word) <= 9))


def line_of_text(draw: np.random.Generator) -> str:
    """A date, a word with a price, or one to three words."""
    kind = draw.integers(4)
    if kind == 0:
        return f"{draw.integers(1, 29):02d}.{draw.integers(1, 13):02d}.{draw.integers(1950, 2030)}"
    chosen = [words()[index] for index in draw.integers(len(words()), size=draw.integers(1, 4))]
    if kind == 1:
        return f"{chosen[0].title()} {draw.integers(1, 10_000) / 100:.2f}"
    text = " ".join(chosen)[:LONGEST].strip()
    return (text, text.lower(), text.title())[draw.integers(3)]


def picture(text: str, family: str, draw: np.random.Generator) -> NDArray[np.uint8]:
    """A text as it may be cut out of a photo: uint8 (height, width, 3), slightly turned, blurred and noisy."""
    try:
        from PIL import Image, ImageDraw, ImageFilter
    except ImportError as error:
        from edgebuild.errors import EnvironmentGap

        raise EnvironmentGap("Pillow, which renders the lines, isn't installed.", hint=INSTALL) from error
    package, styles = FONTS[family]
    face = _font(package, styles[draw.integers(len(styles))])
    left, top, right, bottom = face.getbbox(text)
    margin = [int(size) for size in draw.integers(2, 9, size=4)]
    paper, ink = int(draw.integers(150, 256)), int(draw.integers(0, 90))
    if draw.random() < 0.2:
        paper, ink = ink, paper
    colour = tuple(int(np.clip(ink + shift, 0, 255)) for shift in draw.integers(-40, 41, size=3))
    size = (int(right - left) + margin[0] + margin[1], int(bottom - top) + margin[2] + margin[3])
    image = Image.new("RGB", size, (paper,) * 3)
    ImageDraw.Draw(image).text((margin[0] - left, margin[2] - top), text, font=face, fill=colour)
    turned = image.rotate(
        float(draw.uniform(-1.5, 1.5)), Image.Resampling.BILINEAR, expand=True, fillcolor=(paper,) * 3
    )
    blurred = turned.filter(ImageFilter.GaussianBlur(float(draw.uniform(0, 1.2))))
    noise = draw.normal(0, draw.uniform(0, 12), (blurred.height, blurred.width, 1))
    return np.clip(np.asarray(blurred, np.float32) + noise, 0, 255).astype(np.uint8)


@cache
def _font(package: str, file: str) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(str(package_folder(package) / "files" / file), FONT_SIZE)


def main() -> None:
    """Print lines per split and family, and the character error rate of the unchanged model."""
    import onnxruntime

    from edgebuild.plugins import named_metric

    session = onnxruntime.InferenceSession(
        str(package_folder("rapidocr_onnxruntime") / MODEL), providers=["CPUExecutionProvider"]
    )
    for split in ("validation", "test"):
        lines = list(samples(split))
        read = [postprocess({"y": session.run(None, {"x": line.inputs["x"][None]})[0]})[0] for line in lines]
        wanted = [str(line.target) for line in lines]
        rate = named_metric("cer").value({"y": np.array(read, object)}, np.array(wanted, object))
        print(f"{split}: {len(lines)} lines, {sum(map(len, wanted))} characters, {rate:.2%} of them wrong")


if __name__ == "__main__":
    main()
