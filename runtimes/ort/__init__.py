"""ONNX Runtime: a bundle, or any graph."""
