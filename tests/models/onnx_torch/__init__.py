"""What reads ONNX files as torch modules."""
