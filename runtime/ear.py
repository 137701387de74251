"""One bundle that listens: its engine, its detector, and whether it keeps up."""

import argparse
import contextlib
import os
import time
from collections.abc import Iterable

from runtime.audio.hops import Samples
from runtime.bundle.detector import Detector
from runtime.bundle.engine import Engine
from runtime.bundle.peaks import Event, Peaks
from runtime.bundle.shipped import find
from runtime.bundle.trial import try_out
from runtime.errors import OptionsError
from runtime.sample_rate import SAMPLE_RATE

MODELS = {"float": "model.onnx", "int8": "model.int8.onnx"}
MOST_LATE = 10  # hops in a row whose step took longer than they last


class EarError(Exception):
    """A bundle that cannot go on. The message is why."""


class Ear:
    """tried: whether it ran in a process of its own before. Raises BundleError and OptionsError."""

    def __init__(self, folder: str, options: argparse.Namespace) -> None:
        folder = find(folder)
        self.name = os.path.basename(os.path.normpath(folder))
        model = MODELS.get(options.model, options.model)
        sha256 = try_out(folder, model)
        self.tried = sha256 is not None
        self.engine = Engine(folder, model, sha256)
        self.keywords = self.engine.keywords
        thresholds = self.engine.chosen_thresholds(options.threshold, options.false_accepts)
        hops = self.engine.refractory_hops
        if options.refractory is not None:
            hops = max(1, round(options.refractory * SAMPLE_RATE / self.engine.hop_samples))
        self.detector = Detector(thresholds, hops)
        self.peaks = Peaks(self.keywords, hops)
        self.over: list[Event] = []  # by the last hop
        self.scores: list[float] = [0.0] * len(self.keywords)
        self.nan_resets = 0
        self._late = 0

    def step(self, hop: Samples, time_s: float) -> list[Event]:
        """A hop, which ends at that time → the events that begin in it; `over` has those that end. Raises EarError."""
        began = time.thread_time()  # of the processor: others may have kept us waiting
        try:
            scores = self.engine.step(hop)
        except Exception as error:  # onnxruntime's exceptions share no other base
            raise EarError(f"its step failed ({' '.join(str(error).split())[-200:]})") from None
        taken = time.thread_time() - began
        self._late = self._late + 1 if taken * SAMPLE_RATE > len(hop) else 0
        if self._late == MOST_LATE:
            raise EarError(f"its step takes longer than its audio lasts ({taken:.3f} s)")
        self.scores = scores.tolist()
        begun, self.over = self.peaks.step(
            self.scores, self.detector.thresholds, self.detector.step(scores), time_s)
        return begun

    def reset(self, room: Iterable[Samples] = ()) -> None:
        """Start a new stream, after the noise of a room."""
        self.engine.reset()
        self.detector.reset()
        self.peaks.end()
        with contextlib.suppress(Exception):  # of a bundle that cannot go on, as its next step will say
            for hop in room:
                self.engine.step(hop)

    def skip(self, hops: int) -> None:
        """So many hops are missing: what the model remembers is of before. `over` has the events that end by that."""
        self.engine.reset()
        self.detector.skip(hops)
        self.over = self.peaks.end()


def load(options: argparse.Namespace) -> list[Ear]:
    """Every bundle. Raises BundleError, and OptionsError when they do not go together."""
    ears = [Ear(folder, options) for folder in options.bundle]
    if len({ear.engine.hop_samples for ear in ears}) > 1:
        lengths = ", ".join(f"{ear.name} {ear.engine.hop_samples}" for ear in ears)
        raise OptionsError(f"bundles of different hop_samples ({lengths}) cannot share a stream: run one listener each")
    known = {keyword for ear in ears for keyword in ear.keywords}
    for name, given in (("threshold", options.threshold), ("false-accepts", options.false_accepts)):
        for keyword in given:
            if keyword and keyword not in known:
                raise OptionsError(f"{name} of {keyword!r}: no bundle has that keyword: use {', '.join(sorted(known))}")
    return ears
