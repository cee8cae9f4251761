"""Techniques that change the input's resolution."""
