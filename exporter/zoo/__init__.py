"""Built-in models, small enough to ship with the package: each has a data generator and trained weights.

Importing this package imports no model: torch is an optional dependency and takes seconds to load.
"""
