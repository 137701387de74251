"""Loads and checks a bundle, and runs it hop by hop.

    engine = Engine("dist/happy-ensemble")
    for hop in hops:                 # float32 (1280,), 16 kHz, -1…1
        scores = engine.step(hop)    # float32 (n_keywords,), 0…1

What a bundle's files hold is looked through first (`manifest`), and what the graph might need is bounded. A bundle of a
stranger's may also be tried in a process of its own before: `trial.try_out`.

A model whose name ends in .bin runs in the C engine (`runtime.c`), without onnxruntime; any other in onnxruntime.
"""

import copy
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle.manifest import C_MODEL, MANIFEST, check_content, read_manifest, read_verified, refuse
from runtime.bundle.operating_points import OperatingPoint, point_at
from runtime.c.library import CEngine, LibraryError
from runtime.errors import BundleError

if TYPE_CHECKING:
    from runtime.bundle.onnx_network import OnnxNetwork

__all__ = ["BundleError", "Engine"]

FLOAT32 = np.dtype(np.float32)


class Engine:
    """One model of one bundle, and the state of one stream of audio.

    bundle_dir: the bundle's folder. model: one of its .onnx or .bin files; None takes the manifest's `default_model`.
    sha256: what the model's has to be; None takes any.

    keywords: names, in the order of the scores. thresholds: the operating point, one per keyword.
    operating_points: per keyword the others that were measured; empty where none were.
    hop_samples: length of one step at 16 kHz. refractory_hops: see `detector.Detector`.
    nan_resets: how often the state had to be thrown away because of audio or scores that were no numbers.

    Raises BundleError.
    """

    def __init__(
        self, bundle_dir: str | os.PathLike[str], model: str | None = None, sha256: str | None = None
    ) -> None:
        folder = os.fspath(bundle_dir)
        manifest = read_manifest(folder)
        self.model: str = manifest["default_model"] if model is None else model
        content = read_verified(folder, manifest["files"], self.model)
        self.sha256: str = manifest["files"][self.model]["sha256"]
        if sha256 not in (None, self.sha256):
            refuse(self.model, "was changed since it was tried", "load it again")
        self._network = _network(self.model, content, manifest)

        self.keywords: tuple[str, ...] = tuple(manifest["keywords"])
        self.thresholds: tuple[float, ...] = tuple(map(float, manifest["threshold"]))
        curves = manifest.get("operating_points") or [[] for _ in self.keywords]
        self.operating_points: tuple[tuple[OperatingPoint, ...], ...] = tuple(
            tuple(OperatingPoint(**point) for point in curve) for curve in curves)
        self.hop_samples: int = manifest["hop_samples"]
        self.refractory_hops: int = manifest["refractory_hops"]
        self._shape = (self.hop_samples,)
        self._try()

    @property
    def nan_resets(self) -> int:
        return self._network.nan_resets

    def stream(self) -> "Engine":
        """The same model for another stream of audio, from zero state. Nothing is loaded again. For the same thread."""
        other = copy.copy(self)
        other._network = self._network.stream()
        return other

    def chosen_thresholds(self, thresholds: Mapping[str, float], false_accepts: Mapping[str, float]) -> list[float]:
        """One for each keyword: of `thresholds`, of the point that `false_accepts` (an hour) choose, or the bundle's.

        Both are by keyword; "" stands for every other keyword; no keyword may have both. Raises OptionsError.
        """
        chosen = []
        for keyword, own, curve in zip(self.keywords, self.thresholds, self.operating_points, strict=True):
            rate = false_accepts.get(keyword, false_accepts.get(""))
            if rate is None:
                chosen.append(thresholds.get(keyword, thresholds.get("", own)))
            else:
                chosen.append(point_at(curve, rate, keyword).threshold)
        return chosen

    def _try(self) -> None:
        """One step of silence: what cannot run, or wants more memory than there may be, is refused now."""
        try:
            self.step(np.zeros(self._shape, np.float32))
        except Exception as error:  # onnxruntime's exceptions share no other base
            reason = " ".join(str(error).split())
            refuse(self.model, f"cannot be run ({reason[-200:]})", "export the bundle again")
        if self.nan_resets:
            refuse(self.model, "its score of silence is no number", "export the bundle again")
        self.reset()

    def reset(self) -> None:
        """Start a new stream: every state is zeros, which means silence."""
        self._network.reset()

    def step(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """One hop of audio, float32 (hop_samples,) at 16 kHz in -1…1 → its scores, float32 (n_keywords,) in 0…1.

        Audio that holds NaN or infinity gives zeros, resets the state and counts in `nan_resets`; so does a score
        that is no number. The result is the caller's to keep. Raises ValueError for any other shape or dtype.
        """
        if not isinstance(audio, np.ndarray) or audio.shape != self._shape or audio.dtype != FLOAT32:
            raise ValueError(f"a hop is a float32 array of shape {self._shape}, got {_describe(audio)}")
        return self._network.step(audio)


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return type(value).__name__


def _network(model: str, content: bytes, manifest: dict[str, Any]) -> "OnnxNetwork | CEngine":
    if model.endswith(C_MODEL):
        return _c_engine(model, content, manifest)
    check_content(model, content, manifest)
    try:
        from runtime.bundle.onnx_network import OnnxNetwork
    except ImportError:
        refuse(model, "onnxruntime is not installed", "pip install onnxruntime, or choose model.bin")
    return OnnxNetwork(model, content, manifest)


def _c_engine(model: str, content: bytes, manifest: dict[str, Any]) -> CEngine:
    try:
        engine = CEngine(content)
    except LibraryError as error:
        raise BundleError(f"{model}: {error}") from None
    told = {
        "keywords": list(engine.keywords),
        "threshold": list(engine.thresholds),
        "hop_samples": engine.hop_samples,
        "refractory_hops": engine.refractory_hops,
    }
    wanted = manifest | {"threshold": [float(np.float32(threshold)) for threshold in manifest["threshold"]]}
    for key, value in told.items():
        if value != wanted[key]:
            refuse(model, f"its {key} is not the one in {MANIFEST}", "export the bundle again")
    return engine
