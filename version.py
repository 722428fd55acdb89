"""The version, in a module that everything may import: the root package stands above all others."""

__version__ = "0.2.0"
