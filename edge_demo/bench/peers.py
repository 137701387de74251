"""Events of microWakeWord's own models in a recording, in the environment by `make .venv-peers/ready`:

    .venv-peers/bin/python -m edge_demo.bench.peers recording.f32

The recording is float32 samples, 16 kHz, −1…1. Writes one line of JSON.
"""

import json
import sys

import numpy as np
from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

from edge_demo.bench.systems import HOP, as_pcm

REFRACTORY = 12  # hops, as for ours: one word is one event


def events(model: Model, audio: np.ndarray) -> int:
    """Number of events of one model, at its own threshold."""
    word, features = MicroWakeWord.from_builtin(model), MicroWakeWordFeatures()
    count, since = 0, REFRACTORY
    for hop in audio[: len(audio) // HOP * HOP].reshape(-1, HOP):
        detected = any([word.process_streaming(frame) for frame in features.process_streaming(as_pcm(hop))])
        count += detected and since >= REFRACTORY
        since = 0 if detected else since + 1
    return count


if __name__ == "__main__":
    recording = np.memmap(sys.argv[1], np.float32, "r")  # hours of it
    print(json.dumps({model.value: events(model, recording) for model in Model}))
