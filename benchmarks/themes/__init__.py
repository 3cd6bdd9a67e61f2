"""One file a theme: its benchmarks, and the rows it adds to the full run's tables. Every file here is loaded."""
