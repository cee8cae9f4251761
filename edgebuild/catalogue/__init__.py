"""Find and load targets, profiles and projects; every configuration error comes from here."""
