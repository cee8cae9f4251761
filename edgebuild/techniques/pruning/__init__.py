"""Techniques that remove weights, channels, heads and blocks."""
