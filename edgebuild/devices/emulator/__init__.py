"""A 64-bit Arm board that isn't there: aarch64 Python and ONNX Runtime under QEMU's user mode. It has no clock."""
