"""How fast and how lean the engine is, side by side with what others use. ``python -m benchmarks --help``.

A benchmark is one function with the decorator ``registry.benchmark`` in a file of ``benchmarks/themes``; nothing
else is edited to add one. Both sides of a comparison are timed in the same process, in turn.
"""
