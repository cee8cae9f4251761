"""The model of the user: load, export, normalise, freeze, check parity."""
