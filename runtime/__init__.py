"""Bundle → detections, on the device, by numpy and onnxruntime; imports no other room."""

import os

# From 1.31 on onnxruntime sends usage data to its makers unless it is told not to before it is loaded. A microphone's
# process talks to nobody whom its owner has not named.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
