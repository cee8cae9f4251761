"""The values everything is made of: no torch, no runtime, no I/O beyond reading a file to digest it."""
