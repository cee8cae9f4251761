"""A board over SSH: one connection, its channels and files."""
