"""What each device and each TensorRT version can do."""
