"""Data sets: one file, one way to come by labelled images."""
