"""TensorRT plugins for the compressors."""
