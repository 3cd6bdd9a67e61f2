"""What a victim does against poison: one file, one defense."""
