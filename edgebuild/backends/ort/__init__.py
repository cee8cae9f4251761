"""ONNX Runtime: CPU kernels for every machine with Python."""
