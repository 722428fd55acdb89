"""Opens what the user names: a built-in model, a checkpoint, a module, an ONNX file."""
