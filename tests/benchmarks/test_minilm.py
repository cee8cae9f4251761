"""The benchmark's sentence encoder: its tokeniser, and that padding tells it nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "nets" / "minilm.py"
spec = importlib.util.spec_from_file_location("nets_minilm", PATH)
assert spec is not None
assert spec.loader is not None
minilm = importlib.util.module_from_spec(spec)
spec.loader.exec_module(minilm)


def test_the_longest_known_piece_comes_first_and_what_is_unknown_is_one_token() -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "em", "embed", "##ding", "##d", "cafe", ","]
    ids, mask = minilm.Tokeniser(words)(["Embedding, Café", "xyz"], 8)
    assert ids.tolist() == [[2, 5, 6, 9, 8, 3, 0, 0], [2, 1, 3, 0, 0, 0, 0, 0]]
    assert mask.sum(axis=1).tolist() == [6, 3]


def test_long_sentences_are_cut_and_still_end() -> None:
    ids, mask = minilm.Tokeniser(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"])(["a " * 50], 6)
    assert ids.tolist() == [[2, 4, 4, 4, 4, 3]]
    assert mask.all()


def test_padding_changes_no_vector_and_vectors_have_length_one() -> None:
    torch.manual_seed(0)
    model = minilm.MiniLM(vocabulary=50, width=24, layers=1, heads=2).eval()
    ids, mask = torch.tensor([[2, 7, 9, 3, 0, 0]]), torch.tensor([[1, 1, 1, 1, 0, 0]])
    other = torch.where(mask == 1, ids, 41)
    with torch.no_grad():
        vectors = [model(ids, mask), model(other, mask), model(ids[:, :4], mask[:, :4])]
    assert torch.allclose(vectors[0].norm(dim=-1), torch.ones(1))
    assert all(torch.allclose(vectors[0], each, atol=1e-5) for each in vectors[1:])
