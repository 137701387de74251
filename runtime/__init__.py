"""Bundle → detections, on the device, by numpy and onnxruntime; imports no other room."""

import os
from typing import TYPE_CHECKING, Any

# From 1.31 on onnxruntime sends usage data to its makers unless it is told not to before it is loaded. A microphone's
# process talks to nobody whom its owner has not named.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from runtime.api import AudioError, BundleError, Detector, Event, Listener, OptionsError

__all__ = ["AudioError", "BundleError", "Detector", "Event", "Listener", "OptionsError"]


def __getattr__(name: str) -> Any:
    """The names of `api`, loaded when they are asked for: --help needs no numpy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from runtime import api

    return getattr(api, name)
