"""Where releases lie: what a registry is asked for, and the two kinds of them."""
