"""Algebra on ONNX graphs: what only scales, shifts or passes on is folded into the layers around it."""
