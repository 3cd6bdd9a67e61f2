"""Feature extractors: one file, one architecture."""
