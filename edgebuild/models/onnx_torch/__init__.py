"""Reads an ONNX file as a torch module that can be trained: see ``reading``."""
