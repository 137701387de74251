"""Bundle → detections, on the device: numpy and onnxruntime, nothing else (see listen.py)."""
