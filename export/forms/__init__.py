"""The step as ONNX, as TorchScript and as model.bin for the C engine; imports export.step and export.detector."""
