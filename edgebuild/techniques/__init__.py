"""The compression techniques: one file each, one explicit table."""
