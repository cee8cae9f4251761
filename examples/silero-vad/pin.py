"""Choose the sounds by the rule below and write ``sounds.tsv``. Run it again only to change the data set.

The rule: of the English and French prompts, those with at least ``MIN_SPEECH`` steps of speech by ``data.py``'s rule
(one file where several have the same bytes), in the order of their SHA-256 (arbitrary, but the same everywhere), are
dealt to test, validation and calibration until each has what it needs. The five pieces of music are dealt by hand.
"""

from __future__ import annotations

import hashlib

import data
import sounds

MIN_SPEECH = 20  # steps: 0.64 seconds
SPLITS = ("test", "validation", "calibration")
MUSIC = {
    "macroform-the_simplicity": "test",
    "reno_project-system": "test",
    "macroform-cold_day": "validation",
    "manolo_camp-morning_coffee": "validation",
    "macroform-robot_dity": "calibration",
}


def main() -> None:
    """Write ``sounds.tsv`` from the sounds at hand."""
    folder = sounds.folder()
    prompts = {
        hashlib.sha256(path.read_bytes()).hexdigest()[: sounds.DIGEST_CHARS]: path
        for voice in ("en_US_f_Allison", "fr_CA_f_June")
        for path in sorted((folder / "sounds" / voice).rglob("*.g722"), reverse=True)
        if "silence" not in path.parts
    }
    usable = (
        (digest, path)
        for digest, path in sorted(prompts.items())
        if data.speech_steps(sounds.decode(path, digest)).sum() >= MIN_SPEECH
    )
    rows = []
    for split in SPLITS:
        rows += [(split, "music", folder / "moh" / f"{name}.g722") for name, place in MUSIC.items() if place == split]
        needed = sum(number % 4 != 3 for number in range(data.RECORDINGS[split]))
        rows += [(split, "speech", next(usable)[1]) for _ in range(needed)]
    lines = ["split\tkind\tsha256_32\tpath\n"]
    for split, kind, path in rows:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[: sounds.DIGEST_CHARS]
        lines.append(f"{split}\t{kind}\t{digest}\t{path.relative_to(folder).as_posix()}\n")
    (sounds.HERE / "sounds.tsv").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
