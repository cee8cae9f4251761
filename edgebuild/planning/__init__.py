"""Pure: which candidates to try, what is refused and why, what it will cost."""
