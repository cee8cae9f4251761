"""A small transformer encoder as an exporter writes one, in the forms that exporters give its products and masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from tests.techniques.nets import Builder

VOCABULARY, WIDTH, HEADS, TOKENS = 2048, 32, 4, 12
FORMS = ("matmul, add", "add, matmul", "wide bias", "gemm")


class Encoder(Builder):
    """Adds the parts of a transformer. ``form`` says how a dense layer is written."""

    form: str = FORMS[0]

    def dense(self, x: str, name: str, inputs: int, outputs: int) -> str:
        weight = self.weight(f"{name}_w", inputs, outputs)
        values = self.rng.normal(size=(1, 1, outputs) if self.form == "wide bias" else outputs, scale=0.2)
        bias = self.constant(f"{name}_b", values.astype(np.float32))
        if self.form == "gemm":
            flat = self.add("Reshape", [x, self.integers(f"{name}_flat", -1, inputs)], f"{name}_rows")
            product = self.add("Gemm", [flat, weight, bias], f"{name}_gemm")
            return self.add("Reshape", [product, self.integers(f"{name}_back", 1, -1, outputs)], name)
        product = self.add("MatMul", [x, weight], f"{name}_product")
        return self.add("Add", [bias, product] if self.form == "add, matmul" else [product, bias], name)

    def integers(self, name: str, *values: int) -> str:
        return self.constant(name, np.array(values, np.int64))

    def norm(self, x: str, name: str) -> str:
        scale = np.exp(self.rng.normal(size=WIDTH, scale=0.5)).astype(np.float32)
        shift = self.rng.normal(size=WIDTH, scale=0.1).astype(np.float32)
        parts = [x, self.constant(f"{name}_scale", scale), self.constant(f"{name}_shift", shift)]
        return self.add("LayerNormalization", parts, name, axis=-1)

    def heads(self, x: str, name: str, *order: int) -> str:
        parted = self.add("Reshape", [x, self.integers(f"{name}_heads", 1, TOKENS, HEADS, WIDTH // HEADS)], f"{name}_p")
        return self.add("Transpose", [parted], f"{name}_t", perm=list(order))

    def attention(self, x: str, mask: str, name: str) -> str:
        query, key, value = (self.dense(x, f"{name}_{part}", WIDTH, WIDTH) for part in ("q", "k", "v"))
        turned = self.heads(query, f"{name}_q", 0, 2, 1, 3), self.heads(key, f"{name}_k", 0, 2, 3, 1)
        scores = self.add("MatMul", list(turned), f"{name}_scores")
        seen = self.add("Softmax", [self.add("Add", [scores, mask], f"{name}_masked")], f"{name}_softmax", axis=-1)
        mixed = self.add("MatMul", [seen, self.heads(value, f"{name}_v", 0, 2, 1, 3)], f"{name}_mixed")
        joined = self.add("Transpose", [mixed], f"{name}_joined", perm=[0, 2, 1, 3])
        flat = self.add("Reshape", [joined, self.integers(f"{name}_flat", 1, TOKENS, WIDTH)], f"{name}_seen")
        return self.dense(flat, f"{name}_out", WIDTH, WIDTH)

    def gelu(self, x: str, name: str) -> str:
        ratio = self.constant(f"{name}_root", np.array(2**0.5, np.float32))
        one, half = (self.constant(f"{name}_{n}", np.array(n, np.float32)) for n in (1, 0.5))
        erf = self.add("Erf", [self.add("Div", [x, ratio], f"{name}_div")], f"{name}_erf")
        gate = self.add("Mul", [x, self.add("Add", [erf, one], f"{name}_plus")], f"{name}_gate")
        return self.add("Mul", [gate, half], name)


def encoder_net(form: str = FORMS[0], *, masked: float = -1e4, layers: int = 2) -> Any:
    """Embedding, ``layers`` post-normalised encoder layers, and a classifier; ``masked`` hides the last tokens."""
    b = Encoder()
    b.form = form
    mask = np.zeros((1, 1, 1, TOKENS), np.float32)
    mask[..., -3:] = masked
    hidden = b.constant("mask", mask)
    x = b.add("Gather", [b.weight("table", VOCABULARY, WIDTH), "ids"], "embedded")
    x = b.norm(b.add("Add", [x, b.weight("places", 1, TOKENS, WIDTH)], "placed"), "norm")
    for layer in range(layers):
        seen = b.attention(x, hidden, f"l{layer}_att")
        x = b.norm(b.add("Add", [seen, x], f"l{layer}_sum1"), f"l{layer}_norm1")
        inner = b.gelu(b.dense(x, f"l{layer}_up", WIDTH, 4 * WIDTH), f"l{layer}_gelu")
        down = b.dense(inner, f"l{layer}_down", 4 * WIDTH, WIDTH)
        x = b.norm(b.add("Add", [down, x], f"l{layer}_sum2"), f"l{layer}_norm2")
    b.add("ReduceMean", [x], "mean", axes=[1], keepdims=0)
    b.add("Gemm", ["mean", b.weight("head_w", WIDTH, 5)], "scores")
    return b.model({"ids": (TensorProto.INT64, [1, TOKENS])}, {"scores": [1, 5]})


def residual_rows() -> Any:
    """A matrix product without bias and a sum with its own input: onnxruntime makes one Gemm of the two."""
    b = Builder()
    x = b.add("Relu", [b.add("MatMul", ["x", b.weight("up", 16, 16)], "first")], "relu")
    x = b.add("Add", [b.add("MatMul", [x, b.weight("down", 16, 16)], "second"), x], "sum")
    b.add("Softmax", [x], "y", axis=-1)
    return b.model({"x": (TensorProto.FLOAT, [4, 16])}, {"y": [4, 16]})
