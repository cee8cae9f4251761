"""Transport to a device, and the runner that is sent there."""
