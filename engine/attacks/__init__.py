"""Ways to make a poison: one file, one algorithm."""
