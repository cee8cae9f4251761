"""TensorRT: an engine built on the device from a strongly typed ONNX file."""
