"""Events that microWakeWord's own models see in a recording, by the environment that `make .venv-peers/ready` makes:

    .venv-peers/bin/python -m edge_demo.bench.peers recording.f32     # float32 samples, 16 kHz, −1…1 → one line of JSON
"""

import json
import sys

import numpy as np
from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

from edge_demo.bench.systems import HOP, as_pcm

REFRACTORY = 12  # hops, as for ours: one word is one event


def events(model: Model, audio: np.ndarray) -> int:
    """How often one of the models is set off, at its own threshold."""
    word, features = MicroWakeWord.from_builtin(model), MicroWakeWordFeatures()
    count, quiet = 0, REFRACTORY
    for hop in audio[: len(audio) // HOP * HOP].reshape(-1, HOP):
        detected = any([word.process_streaming(frame) for frame in features.process_streaming(as_pcm(hop))])
        count += detected and quiet >= REFRACTORY
        quiet = 0 if detected else quiet + 1
    return count


if __name__ == "__main__":
    recording = np.memmap(sys.argv[1], np.float32, "r")  # hours of it
    print(json.dumps({model.value: events(model, recording) for model in Model}))
