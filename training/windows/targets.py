"""What each hop of a window is to a keyword: the labels of the training."""

import numpy as np
import torch

from training.model.features import SAMPLE_RATE

NEGATIVE, POSITIVE, IGNORED = 0, 1, 2


def label(targets: np.ndarray, start: int, end: int, hop: int, window: int) -> None:
    """Mark the hops around a word in samples start…end, in place.

    The word may be detected from three fifths of it on until 0.3 s after it. Its score may stay high until the
    attention, `window` hops, has forgotten it: no event is expected or forbidden there.
    targets: (hops,), NEGATIVE before; hop: in samples.
    """
    ends = (np.arange(len(targets)) + 1) * hop
    targets[(ends > start + (end - start) * 0.4) & (ends < end + window * hop)] = IGNORED
    targets[(ends >= start + (end - start) * 0.6) & (ends <= end + 0.3 * SAMPLE_RATE)] = POSITIVE


def ignore_echoes(targets: torch.Tensor, echoes: torch.Tensor) -> torch.Tensor:
    """Targets of windows that go on from others: what the model still remembers of a keyword there is no mistake.

    targets: (batch, keywords, hops); echoes: (batch, keywords), hops in which the keyword before is remembered.
    """
    early = torch.arange(targets.shape[-1], device=targets.device) < echoes.unsqueeze(-1)
    return targets.masked_fill(early & (targets == NEGATIVE), IGNORED)
