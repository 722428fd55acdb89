"""One file per method: its parameters, domain, static-shape law, PyTorch reference and ONNX body."""

from .base import OUTPUTS, Case, Compressed, Compressor, Method, compressor, make, methods, names, parameters, table

__all__ = [
    "OUTPUTS",
    "Case",
    "Compressed",
    "Compressor",
    "Method",
    "compressor",
    "make",
    "methods",
    "names",
    "parameters",
    "table",
]
