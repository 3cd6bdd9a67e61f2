"""Learners that train on the released images: one file, one algorithm."""
