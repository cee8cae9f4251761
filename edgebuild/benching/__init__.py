"""Measures any model, without a project."""
