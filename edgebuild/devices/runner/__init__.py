"""What runs on the device: one process per operation, one JSON line in, JSON lines out.

Python 3.8 and the standard library only; numpy where the runtime brings it, imported inside functions. Zipped with the
backends' ``device.py`` into one file by ``edgebuild.devices.bundle``.
"""
