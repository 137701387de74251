"""The step as ONNX and as TorchScript; imports export.step and export.detector."""
