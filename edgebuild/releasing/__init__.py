"""Releases: a bundle of what was built for one or several targets, with its proof. See docs/adr/0023."""
