"""OpenVINO: Intel's runtime, on any x86-64 CPU."""
