"""The rows of docs/results/techniques.md: one module per technique, each with its ``ROWS``."""
