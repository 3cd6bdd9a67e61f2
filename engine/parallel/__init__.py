"""Stages of DVC's graph, several at a time: ``python -m engine repro``."""
