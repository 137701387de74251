"""Recordings → features → log-odds of each hop, many streams side by side."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.model.crnn import CRNN, State, log_odds

PART = 750  # hops that are streamed at once: 60 s
PREROLL = 125  # hops before them, to fill the state: 10 s


def padded(recordings: list[np.ndarray], hop: int) -> Tensor:
    """Recordings of different lengths → (n, samples), whole hops, zeros after each. hop: in samples."""
    longest = max(map(len, recordings))
    audio = np.zeros((len(recordings), -(-longest // hop) * hop), np.float32)
    for row, recording in zip(audio, recordings, strict=True):
        row[: len(recording)] = recording
    return torch.from_numpy(audio)


def frames_of(model: CRNN, audio: Tensor) -> Tensor:
    """(n, samples) → log-mel frames (n, frames, 40), each row from an empty tail."""
    return torch.cat([model.features(part, model.zero_state(len(part)).tail)[0] for part in audio.split(64)])


def in_parts(frames: Tensor, hop: int) -> Tensor:
    """One stream (frames, 40) → (parts, frames, 40): PART hops each, after the PREROLL hops before them.

    The first preroll is silence. A state holds nothing that matters of the time before a preroll. hop: in frames.
    """
    rest = -len(frames) % (PART * hop)
    return F.pad(frames, (0, 0, PREROLL * hop, rest)).unfold(0, (PREROLL + PART) * hop, PART * hop).transpose(1, 2)


@torch.no_grad()
def stream(model: CRNN, frames: Tensor, before: Tensor | None = None) -> Tensor:
    """(n, frames, 40) → log-odds (n, hops, keywords).

    before: (m, frames, 40); row i continues from the state after before[i mod m]. Without it, from the zero state.
    """
    initial = model.zero_state(1 if before is None else len(before))
    if before is not None:
        context, hidden, ring = model.classify(before, initial)[1]
        initial = initial._replace(context=context, hidden=hidden, ring=ring)
    parts = []
    for part in frames.split(256):
        part = part.float()
        rows = torch.arange(len(part)) % len(initial.tail)
        state = State(initial.tail[rows], initial.context[rows], initial.hidden[:, rows], initial.ring[rows])
        parts.append(log_odds(model.classify(part, state)[0].logits))
    return torch.cat(parts)


def running_mean(odds: Tensor, hops: int) -> Tensor:
    """Mean of each hop's log-odds and those of the `hops` - 1 before it, as far as there are any: what a model with
    that smoothing gives. (n, all hops, keywords), in and out."""
    sums = F.pad(odds.double(), (0, 0, hops, 0)).cumsum(1)
    counts = torch.arange(1, odds.shape[1] + 1).clamp(max=hops).unsqueeze(1)
    return ((sums[:, hops:] - sums[:, :-hops]) / counts).float()
