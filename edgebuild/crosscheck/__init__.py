"""Compares an int8 artifact on its target with the unoptimised Q/DQ graph, layer by layer."""
