"""A language model's ONNX file that somebody else exported is given inputs for merged tokens."""
