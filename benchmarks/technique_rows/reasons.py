"""Why rows miss what is asked, as far as it is known. Apart from the rows, whose records hang on their source."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

REASONS: Mapping[str, str] = {
    "distil-hints": "the two can't be told apart: 2,000 held-out digits resolve about half a point.",
    "prune-unstructured": "the dense net that is trained as long gets better, too; cut in one go it loses as much.",
    "deep-compression-lenet-300-100": "against the first training it loses half of that; the rest is what a dense net "
    "gains by the same further epochs.",
    "deep-compression-lenet-5": "the file answers better than the first training by a quarter of a point; a dense net "
    "that is trained as long gains twice that.",
    "resize": "no smaller image keeps this net within 2 points on validation data, nor does one with its head tuned: "
    "images of 28x28 have no detail to spare. The net stays as it is.",
    "apprentice": "at 3 and 4 bits the net alone is as good as its float twin already, and leaves a teacher nothing to "
    "win back; at 2 bits it wins less than asked.",
}

#: What a reader must know of how a row came to be what it is.
NOTES: Mapping[str, str] = {
    "factorise": "with 6 epochs, as first run, it lost 1.20 points; 20 followed, which paid on validation data.",
    "substitute": "with 6 epochs, as first run, it lost 2.67 points; 20 followed, which paid on validation data.",
    "apprentice": "run with version 1 of its step; version 2 changed masked layers and schemes A and B only.",
    "resize": "partly run with version 1 of its step; version 2 changed data with unknown labels only.",
    "deep-compression-lenet-5": "at the learning rates of the other LeNet it diverged on one fold.",
}
