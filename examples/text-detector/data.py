"""Small pictures with lines of text on a background, rendered with the fonts of a few packages; labels are their boxes.

Run it (``python data.py``) for the number of pictures per split, and what the unchanged model finds in them.
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
MODEL = "models/ch_PP-OCRv4_det_infer.onnx"
SIZE = 320

# How many pictures a split has, and the seed that draws them.
PICTURES = {"train": 800, "calibration": 128, "validation": 400, "test": 600}
SEEDS = {"train": 1, "calibration": 2, "validation": 3, "test": 4}

# Family: its package, and the styles that are used.
FONTS = {
    "Roboto": ("font_roboto", ("Roboto-Regular.ttf", "Roboto-Bold.ttf", "Roboto-LightItalic.ttf")),
    "Lato": ("font_lato", ("Lato-Regular.ttf", "Lato-BoldItalic.ttf")),
    "Caladea": ("font_caladea", ("Caladea-Regular.ttf", "Caladea-BoldItalic.ttf")),
    "Source Serif": ("font_source_serif_pro", ("SourceSerifPro-Regular.ttf", "SourceSerifPro-Semibold.ttf")),
    "Source Sans": ("font_source_sans_pro", ("SourceSansPro-Regular.ttf", "SourceSansPro-It.ttf")),
    "Hanken Grotesk": ("font_hanken_grotesk", ("HankenGrotesk-Regular.otf", "HankenGrotesk-SemiBoldItalic.otf")),
}

# Reading the map, as ``rapidocr_onnxruntime`` sets it: a pixel is text from this probability on, a box from this mean,
# and boxes are grown, since the model learnt shrunken ones.
TEXT_FROM, BOX_FROM, GROWN = 0.3, 0.5, 1.6
NARROWEST = 3  # pixels

# Code points whose names words are taken from: the same words with every Python from 3.11 on (nothing has been assigned
# below since Unicode 14, and names never change).
NAMED = range(0x20, 0x870)


def preprocess(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The model's input for a picture, uint8 (320, 320, 3) in RGB: float32 (3, 320, 320), BGR, from -1 to 1."""
    return np.ascontiguousarray(image.astype(np.float32)[:, :, ::-1].transpose(2, 0, 1) / 127.5 - 1)


def postprocess(outputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
    """The boxes in each picture of a batch, rows of x1, y1, x2, y2, score, from the only output, (batch, 1, h, w).

    What hangs together above the threshold is a line of text; its box grows by area · 1.6 / circumference on all sides.
    """
    (maps,) = outputs.values()
    return [boxes_of(np.asarray(each[0], np.float32)) for each in maps]


def boxes_of(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """The boxes in one map of probabilities."""
    from scipy import ndimage

    height, width = probabilities.shape
    parts, _ = ndimage.label(probabilities > TEXT_FROM)
    found = []
    for part in ndimage.find_objects(parts):
        rows, columns = part
        tall, wide = rows.stop - rows.start, columns.stop - columns.start
        score = float(probabilities[part].mean())
        if min(tall, wide) < NARROWEST or score < BOX_FROM:
            continue
        grow = tall * wide * GROWN / (2 * (tall + wide))
        found.append(
            (
                max(0.0, columns.start - grow),
                max(0.0, rows.start - grow),
                min(float(width), columns.stop + grow),
                min(float(height), rows.stop + grow),
                score,
            )
        )
    return np.array(found, np.float32).reshape(-1, 5)


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
    """One picture after another: ``x`` float32 (3, 320, 320); the target is its boxes, the slice dark or light paper.

    Raises:
        edgebuild.errors.EnvironmentGap: a package isn't installed.
    """
    from edgebuild import Sample

    for number in range(PICTURES[split]):
        draw = np.random.default_rng([SEEDS[split], number])
        image, boxes, dark = picture(draw)
        yield Sample(inputs={"x": preprocess(image)}, target=boxes, slice="dark" if dark else "light")


@cache
def words() -> tuple[str, ...]:
    """Words of 3 to 9 capital letters, from the names of characters: LATIN, CEDILLA, ABOVE, …"""
    found = {word for code in NAMED for word in unicodedata.name(chr(code), "").replace("-", " ").split()}
    return tuple(sorted(word for word in found if word.isalpha() and 3 <= len(word) <= 9))


def line_of_text(draw: np.random.Generator) -> str:
    """A date, a price, or one or two words."""
    kind = draw.integers(4)
    if kind == 0:
        return f"{draw.integers(1, 29):02d}.{draw.integers(1, 13):02d}.{draw.integers(1950, 2030)}"
    if kind == 1:
        return f"{draw.integers(100, 100_000) / 100:.2f}"
    chosen = [words()[index] for index in draw.integers(len(words()), size=draw.integers(1, 3))]
    text = " ".join(chosen)
    return (text, text.lower(), text.title())[draw.integers(3)]


def picture(draw: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32], bool]:
    """Two to seven lines on a paper with a gradient, a few strokes, blur and noise: picture, boxes, whether it's dark.

    Boxes are rows of x1, y1, x2, y2, class (0), as people draw them: as wide as the ink, as high as a line of the font.
    """
    try:
        from PIL import Image, ImageDraw, ImageFilter
    except ImportError as error:
        from edgebuild.errors import EnvironmentGap

        raise EnvironmentGap("Pillow, which renders the pictures, isn't installed.", hint=INSTALL) from error
    dark = bool(draw.random() < 0.25)
    image = Image.fromarray(paper(draw, dark=dark))
    canvas = ImageDraw.Draw(image)
    strokes(canvas, draw, dark=dark)
    boxes: list[tuple[float, float, float, float, float]] = []
    for _ in range(draw.integers(2, 8)):
        face, text = font(draw), line_of_text(draw)
        left, _, right, _ = face.getbbox(text)
        wide, tall = int(right - left), sum(face.getmetrics())
        if wide > SIZE - 8:
            continue
        x, y = (int(draw.integers(4, SIZE - side - 3)) for side in (wide, tall))
        box = (float(x), float(y), float(x + wide), float(y + tall), 0.0)
        if any(near(box, other) for other in boxes):
            continue
        ink = int(draw.integers(170, 256)) if dark else int(draw.integers(0, 90))
        colour = tuple(int(np.clip(ink + shift, 0, 255)) for shift in draw.integers(-40, 41, size=3))
        canvas.text((x - left, y), text, font=face, fill=colour)
        boxes.append(box)
    blurred = image.filter(ImageFilter.GaussianBlur(float(draw.uniform(0, 1.0))))
    noise = draw.normal(0, draw.uniform(0, 10), (SIZE, SIZE, 1))
    seen = np.clip(np.asarray(blurred, np.float32) + noise, 0, 255).astype(np.uint8)
    return seen, np.array(boxes, np.float32).reshape(-1, 5), dark


def paper(draw: np.random.Generator, *, dark: bool) -> NDArray[np.uint8]:
    """A background that changes from one corner to the other: uint8 (320, 320, 3)."""
    ends = draw.integers(0, 70, size=2) if dark else draw.integers(150, 256, size=2)
    tint = draw.integers(-20, 21, size=3)
    along = np.add.outer(np.arange(SIZE), np.arange(SIZE)) / (2 * SIZE - 2)
    grey = ends[0] + (ends[1] - ends[0]) * along
    return np.clip(grey[:, :, None] + tint, 0, 255).astype(np.uint8)


def strokes(canvas: Any, draw: np.random.Generator, *, dark: bool) -> None:
    """Up to four rules and frames, which aren't text."""
    for _ in range(draw.integers(0, 5)):
        shade = int(draw.integers(90, 150) if dark else draw.integers(90, 170))
        x1, y1, x2, y2 = (int(value) for value in draw.integers(0, SIZE, size=4))
        if draw.random() < 0.5:
            canvas.line((x1, y1, x2, y1), fill=(shade,) * 3, width=int(draw.integers(1, 3)))
        else:
            canvas.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=(shade,) * 3)


def near(box: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two boxes overlap or nearly touch: such lines would be one to any detector."""
    apart = 6.0
    return not (
        box[2] + apart < other[0] or other[2] + apart < box[0] or box[3] + apart < other[1] or other[3] + apart < box[1]
    )


def font(draw: np.random.Generator) -> Any:
    """A family, a style and a size of 14 to 34 pixels."""
    package, styles = FONTS[sorted(FONTS)[draw.integers(len(FONTS))]]
    return _font(package, styles[draw.integers(len(styles))], int(draw.integers(14, 35)))


@cache
def _font(package: str, file: str, size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(str(package_folder(package) / "files" / file), size)


def main() -> None:
    """Print pictures and boxes per split, and the F1 of the unchanged model's boxes."""
    import onnxruntime

    from edgebuild.plugins import named_metric

    session = onnxruntime.InferenceSession(
        str(package_folder("rapidocr_onnxruntime") / MODEL), providers=["CPUExecutionProvider"]
    )
    for split in ("validation", "test"):
        pictures = list(samples(split))
        wanted, found = np.empty(len(pictures), object), np.empty(len(pictures), object)
        for index, each in enumerate(pictures):
            wanted[index] = each.target
            (found[index],) = postprocess({"map": session.run(None, {"x": each.inputs["x"][None]})[0]})
        value = named_metric("box_f1").value({"map": found}, wanted)
        print(f"{split}: {len(pictures)} pictures, {sum(map(len, wanted))} lines of text, F1 of the boxes {value:.2%}")


if __name__ == "__main__":
    main()
