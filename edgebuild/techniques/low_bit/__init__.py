"""Techniques that train or share weights of few bits."""
