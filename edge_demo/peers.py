"""Events that microWakeWord's own models see in a recording, by the environment that `make .venv-peers/ready` makes:

    .venv-peers/bin/python edge_demo/peers.py recording.f32     # float32 samples, 16 kHz, −1…1 → one line of JSON
"""

import json
import sys

import numpy as np
from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

HOP, REFRACTORY = 1280, 12  # samples and hops, as for ours: one word is one event


def events(model: Model, audio: np.ndarray) -> int:
    """How often one of the models is set off, at its own threshold."""
    word, features = MicroWakeWord.from_builtin(model), MicroWakeWordFeatures()
    count, quiet = 0, REFRACTORY
    for hop in audio[: len(audio) // HOP * HOP].reshape(-1, HOP):
        pcm = (np.clip(hop, -1, 1) * 32767).astype("<i2").tobytes()
        detected = any([word.process_streaming(frame) for frame in features.process_streaming(pcm)])
        count += detected and quiet >= REFRACTORY
        quiet = 0 if detected else quiet + 1
    return count


if __name__ == "__main__":
    recording = np.fromfile(sys.argv[1], np.float32)
    print(json.dumps({model.value: events(model, recording) for model in Model}))
