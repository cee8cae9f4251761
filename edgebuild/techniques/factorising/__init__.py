"""Techniques that replace layers by cheaper ones."""
