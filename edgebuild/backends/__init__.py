"""What compiles for, and runs on, one runtime: a folder each, `host.py` and `device.py`."""
