"""Quantisers and precisions: a frozen ONNX file in, one in another precision out."""
