"""What a model is to the exporter (`source`), and the ways to read one: checkpoint, module, ONNX file, hub id."""
