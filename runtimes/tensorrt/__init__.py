"""TensorRT and TensorRT-RTX: a bundle, or any graph."""
