"""A layout is a file that exports ``read``."""
