"""Where a stage runs: one file, one executor."""
