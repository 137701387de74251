"""Loads and checks a bundle, and runs it hop by hop.

    engine = Engine("dist/happy-ensemble")
    for hop in hops:                 # float32 (1280,), 16 kHz, -1…1
        scores = engine.step(hop)    # float32 (n_keywords,), 0…1

A bundle is taken only when everything about it is as the contract says: a detector that loads but hears nothing is
worse than one that refuses to start. Every refusal is a `BundleError` of one line that names the file and the fix.
"""

import copy
import functools
import importlib
import json
import math
import os
import re
import stat
from typing import Any, NoReturn

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.onnx_scan import ScanError, scan

CONTRACT_VERSION = "1"
SAMPLE_RATE = 16_000
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 1 << 20  # bytes; real ones have a few thousand
LARGEST_FILE = 64 << 20  # bytes; of a model or a report
LARGEST_STATE = 16 << 20  # bytes of all states together
LARGEST_MEMORY = 256 << 20  # bytes of weights and intermediate results, of all engines of a process
MOST_FILES = 100
LONGEST_KEYWORD = 100  # characters
LONGEST_REFRACTORY = 1_000_000  # hops
LONGEST_MESSAGE = 480  # characters of a refusal
LONGEST_HOP = SAMPLE_RATE  # samples: one second
FLOAT32 = np.dtype(np.float32)
LOUDEST = 1e30  # energy of a hop (sum of squares) beyond which it is no audio; full scale at 80 ms has 1280

DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class BundleError(Exception):
    """A bundle that must not be run. The message is one line: which file, what is wrong, what to do."""


class Engine:
    """One model of one bundle, and the state of one stream of audio.

    bundle_dir: the bundle's folder. model: one of its ONNX files; None takes the manifest's `default_model`.

    keywords: names, in the order of the scores. thresholds: the operating point, one per keyword.
    hop_samples: length of one step at 16 kHz. refractory_hops: see `detector.Detector`.
    nan_resets: how often the state had to be thrown away because of audio or scores that were no numbers.

    Raises BundleError.
    """

    def __init__(self, bundle_dir: str | os.PathLike[str], model: str | None = None) -> None:
        folder = os.fspath(bundle_dir)
        manifest = _read_manifest(folder)
        self.model: str = manifest["default_model"] if model is None else model
        content = _read_verified(folder, manifest["files"], self.model)
        _check_content(self.model, content, manifest)
        session = _session(self.model, content)
        _check_graph(self.model, session, manifest)

        self.keywords: tuple[str, ...] = tuple(manifest["keywords"])
        self.thresholds: tuple[float, ...] = tuple(map(float, manifest["threshold"]))
        self.hop_samples: int = manifest["hop_samples"]
        self.refractory_hops: int = manifest["refractory_hops"]
        self.nan_resets = 0
        self._bind(session)
        self._try()

    def _bind(self, session: ort.InferenceSession) -> None:
        """Fix where the graph reads and writes, once: a step then allocates nothing and looks up no names.

        Each state has two buffers. One step reads the first and writes the second, the next one the other way
        round: ping-pong, as a graph may still read a state when it already writes the next.
        """
        inputs, outputs = session.get_inputs(), session.get_outputs()
        audio = np.zeros(inputs[0].shape, np.float32)
        score = np.zeros(outputs[0].shape, np.float32)
        ping, pong = ([np.zeros(s.shape, DTYPES[s.type]) for s in inputs[1:]] for _ in range(2))
        self._values = []  # an OrtValue borrows numpy's memory; what is bound has to stay alive
        self._bindings = []
        for source, target in ((ping, pong), (pong, ping)):
            binding = session.io_binding()
            for node, array in zip(inputs, [audio, *source], strict=True):
                self._values.append(ort.OrtValue.ortvalue_from_numpy(array))
                binding.bind_ortvalue_input(node.name, self._values[-1])
            for node, array in zip(outputs, [score, *target], strict=True):
                self._values.append(ort.OrtValue.ortvalue_from_numpy(array))
                binding.bind_ortvalue_output(node.name, self._values[-1])
            self._bindings.append(binding)
        self._session = session
        self._run = session.run_with_iobinding
        self._audio: NDArray[np.float32] = audio[0]
        self._shape = self._audio.shape
        self._score: NDArray[np.float32] = score[0]
        self._states = ping, pong
        self._turn = 0

    def stream(self) -> "Engine":
        """The same model for another stream of audio, from zero state. Nothing is loaded again. For the same thread."""
        other = copy.copy(self)
        other.nan_resets = 0
        other._bind(self._session)
        return other

    def _try(self) -> None:
        """One step of silence: what cannot run, or wants more memory than there may be, is refused now."""
        try:
            self.step(np.zeros_like(self._audio))
        except Exception as error:  # onnxruntime's exceptions share no other base
            reason = " ".join(str(error).split())
            _refuse(self.model, f"cannot be run ({reason[-200:]})", "export the bundle again")
        if self.nan_resets:
            _refuse(self.model, "its score of silence is no number", "export the bundle again")
        self.reset()

    def reset(self) -> None:
        """Start a new stream: every state is zeros, which means silence."""
        for state in self._states[self._turn]:
            state.fill(0)

    def step(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """One hop of audio, float32 (hop_samples,) at 16 kHz in -1…1 → its scores, float32 (n_keywords,) in 0…1.

        Audio that holds NaN or infinity gives zeros, resets the state and counts in `nan_resets`; so does a score
        that is no number. The result is the caller's to keep. Raises ValueError for any other shape or dtype.
        """
        if not isinstance(audio, np.ndarray) or audio.shape != self._shape or audio.dtype != FLOAT32:
            raise ValueError(f"a hop is a float32 array of shape {self._audio.shape}, got {_describe(audio)}")
        # NaN in the audio need not show in the score (onnxruntime's sigmoid clamps it away) and would still stay in
        # a recurrent state for good. The energy catches NaN, infinity and what would overflow further on.
        if not audio.dot(audio) < LOUDEST:
            return self._start_over()
        self._audio[:] = audio
        self._run(self._bindings[self._turn])
        self._turn ^= 1
        scores = self._score.copy()
        if not scores.dot(scores) < LOUDEST:
            return self._start_over()
        return scores

    def _start_over(self) -> NDArray[np.float32]:
        self.reset()
        self.nan_resets += 1
        return np.zeros_like(self._score)


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return type(value).__name__


def _refuse(name: str, problem: str, fix: str) -> NoReturn:
    line = " ".join(f"{name}: {problem[:300]}: {fix}".split())
    # Names in a bundle are a stranger's: an escape sequence among them would command the terminal.
    raise BundleError("".join(c if c.isprintable() else "?" for c in line)[-LONGEST_MESSAGE:])


def _read(folder: str, name: str, largest: int) -> bytes:
    """Content of one plain file of the bundle. A link is refused: it may lead out of the bundle."""
    path = os.path.join(folder, name)
    # Between a look at a path and its opening somebody may put a pipe or a link there: the flags keep it from holding
    # us up and from being followed, and what was opened is looked at again.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        _check_plain(path, os.lstat(path), largest)
        with open(os.open(path, flags), "rb") as file:
            _check_plain(path, os.fstat(file.fileno()), largest)
            return file.read(largest + 1)
    except OSError as error:
        _refuse(path, f"cannot be read ({error.strerror})", "name the folder of a complete, readable bundle")
    except ValueError:
        _refuse(path, "is no path", "name the folder of a bundle")


def _check_plain(path: str, info: os.stat_result, largest: int) -> None:
    if not stat.S_ISREG(info.st_mode):
        _refuse(path, "not a plain file", "copy the bundle again, with its files instead of links")
    if info.st_size > largest:
        _refuse(path, f"{info.st_size} bytes, more than the {largest} allowed", "export the bundle again")


def _object(path: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. One key twice means one thing to this reader and another to the next, so it is refused."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key in found if sum(key == other for other, _ in pairs) > 1)
        _refuse(path, f"says {json.dumps(twice)[:80]} twice", "copy or export the bundle again")
    return found


def _read_manifest(folder: str) -> dict[str, Any]:
    """The manifest, with every field the runtime uses checked for type and range."""
    path = os.path.join(folder, MANIFEST)
    try:
        text = _read(folder, MANIFEST, LARGEST_MANIFEST).decode()
        manifest: Any = json.loads(text, object_pairs_hook=functools.partial(_object, path))
    except (ValueError, RecursionError):
        _refuse(path, "not JSON, half-written or damaged", "copy or export the bundle again")

    def check(good: bool, problem: str) -> None:
        if not good:
            _refuse(path, problem, "export the bundle again")

    check(isinstance(manifest, dict), "not a JSON object")
    version = manifest.get("earshot_version")
    if version != CONTRACT_VERSION:
        _refuse(path, f'earshot_version is {json.dumps(version)[:40]}, this runtime knows "{CONTRACT_VERSION}"',
                "use the runtime/ folder that came with the exporter, or export the bundle again")

    check(manifest.get("sample_rate") == SAMPLE_RATE, f"sample_rate is not {SAMPLE_RATE}")
    hop = manifest.get("hop_samples")
    check(type(hop) is int and 1 <= hop <= LONGEST_HOP, f"hop_samples is not a whole number in 1…{LONGEST_HOP}")
    refractory = manifest.get("refractory_hops")
    check(type(refractory) is int and 1 <= refractory <= LONGEST_REFRACTORY,
          f"refractory_hops is not a whole number in 1…{LONGEST_REFRACTORY}")

    keywords = manifest.get("keywords")
    check(isinstance(keywords, list) and len(keywords) >= 1
          and all(isinstance(k, str) and 1 <= len(k) <= LONGEST_KEYWORD and k.isprintable() for k in keywords),
          "keywords is not a list of names")
    check(len(set(keywords)) == len(keywords), "keywords names one twice")
    threshold = manifest.get("threshold")
    check(isinstance(threshold, list) and len(threshold) == len(keywords)
          and all(type(t) in (int, float) and 0 < t <= 1 for t in threshold),
          "threshold is not one number in 0…1 per keyword")

    files = manifest.get("files")
    check(isinstance(files, dict) and 1 <= len(files) <= MOST_FILES, "files is not a table of files")
    for name, entry in files.items():
        # A name with a slash, or "..", would lead out of the bundle.
        check(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name) is not None and name != MANIFEST,
              f"files names {json.dumps(name)[:80]}, which is not a plain file name")
        check(isinstance(entry, dict) and type(entry.get("bytes")) is int and 0 <= entry["bytes"] <= LARGEST_FILE
              and isinstance(entry.get("sha256"), str) and re.fullmatch("[0-9a-f]{64}", entry["sha256"]) is not None,
              f"files has no good bytes and sha256 for {name}")
    check(isinstance(manifest.get("default_model"), str), "default_model is not a file name")

    states = manifest.get("states")
    check(isinstance(states, list)
          and all(isinstance(s, dict) and isinstance(s.get("name"), str) and isinstance(s.get("shape"), list)
                  for s in states), "states is not a list of names and shapes")
    return dict(manifest)


def _read_verified(folder: str, files: dict[str, dict[str, Any]], model: str) -> bytes:
    """The very bytes of the model, after their SHA-256 and that of every other listed file was found right.

    Another listed file may be missing when it is no ONNX model: a device needs no TorchScript and no report.
    """
    path = os.path.join(folder, MANIFEST)
    models = [name for name in files if name.endswith(".onnx")]
    if model not in models:
        choice = f"choose one of {', '.join(models)}" if models else "export the bundle again"
        _refuse(path, f"lists no model {json.dumps(model)[:80]}", choice)
    content = b""
    for name, entry in files.items():
        if name not in models and not os.path.lexists(os.path.join(folder, name)):
            continue
        found = _read(folder, name, LARGEST_FILE)
        where = os.path.join(folder, name)
        if len(found) != entry["bytes"]:
            _refuse(where, f"{len(found)} bytes where {MANIFEST} says {entry['bytes']}, half-written or changed",
                    "copy or export the bundle again")
        if _sha256(found) != entry["sha256"]:
            _refuse(where, f"its SHA-256 is not the one in {MANIFEST}, damaged or changed",
                    "copy or export the bundle again")
        if name == model:
            content = found
    return content


def _sha256(content: bytes) -> str:
    """By Python's own code where it can be had: hashlib loads OpenSSL, 4 MB that nothing else here needs."""
    for module in ("_sha2", "_sha256", "hashlib"):  # Python 3.12 and later; before; whatever else there is
        try:
            return str(importlib.import_module(module).sha256(content).hexdigest())
        except ImportError:
            continue
    raise AssertionError("every Python has hashlib")


def _check_content(model: str, content: bytes, manifest: dict[str, Any]) -> None:
    """All that can be known of a model's bytes before they are loaded."""
    try:
        metadata = scan(content)
    except ScanError as error:
        _refuse(model, str(error), "export the bundle again")
    for key in ("earshot_version", "sample_rate", "hop_samples", "keywords", "threshold", "refractory_hops"):
        if key not in metadata:
            _refuse(model, f"its metadata lacks {key}", "export the bundle again")
        try:
            told = metadata[key] if key == "earshot_version" else json.loads(metadata[key])
        except (ValueError, RecursionError):
            told = None
        if told != manifest[key]:
            _refuse(model, f"{key} in its metadata is not the one in {MANIFEST}", "export the bundle again")


@functools.cache
def _limit_memory() -> None:
    """A graph of a hundred bytes can ask for any amount of memory. Sessions that use this allocator share a limit."""
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    grow_as_needed = 1  # instead of doubling
    limits = ort.OrtArenaCfg({"max_mem": LARGEST_MEMORY, "arena_extend_strategy": grow_as_needed})
    ort.create_and_register_allocator(info, limits)


def _session(model: str, content: bytes) -> ort.InferenceSession:
    """An onnxruntime session of a graph in memory, for one quiet thread."""
    options = ort.SessionOptions()
    # A pool of threads costs more than it gives at this size, and spins between two hops.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights in other files are in no manifest, and onnxruntime would look for them in the working directory.
    # Nothing can lie below a device file, so this refuses them all.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    # It would also take its own format, which nobody has looked through.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    _limit_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = 4  # what fails is raised and told once, by us
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no other base
        reason = " ".join(str(error).split())
        if "external data" in reason.lower():
            _refuse(model, "keeps weights in another file (external data)", "export it again with its weights inside")
        _refuse(model, f"onnxruntime {ort.__version__} cannot load it ({reason[-200:]})",
                "export the bundle again, without custom operators, or install a newer onnxruntime")


def _kind(node: Any) -> tuple[str, str, list[int]]:
    return node.name, node.type, node.shape


def _check_graph(model: str, session: ort.InferenceSession, manifest: dict[str, Any]) -> None:
    """Inputs, outputs and metadata of the graph are those of the contract and of the manifest."""

    def check(good: bool, problem: str) -> None:
        if not good:
            _refuse(model, problem, "export the bundle again")

    inputs, outputs = session.get_inputs(), session.get_outputs()
    audio = ("audio", "tensor(float)", [1, manifest["hop_samples"]])
    score = ("score", "tensor(float)", [1, len(manifest["keywords"])])
    check(len(inputs) >= 1 and _kind(inputs[0]) == audio, f"its first input is not audio, float32 {audio[2]}")
    check(len(outputs) >= 1 and _kind(outputs[0]) == score, f"its first output is not score, float32 {score[2]}")

    states, following = inputs[1:], outputs[1:]
    size = 0
    for position, state in enumerate(states):
        check(state.type in DTYPES and all(type(n) is int and n > 0 for n in state.shape),
              f"state {state.name} has no static shape or a type this runtime does not know")
        size += math.prod(state.shape) * np.dtype(DTYPES[state.type]).itemsize
        check(size <= LARGEST_STATE, f"its states need more than {LARGEST_STATE} bytes")
        after = following[position] if position < len(following) else None
        check(after is not None and _kind(after) == (f"{state.name}_next", state.type, state.shape),
              f"state {state.name} lacks its output {state.name}_next of the same shape and type, in the same order")
    check(len(following) == len(states), f"output {following[-1].name if following else ''} belongs to no state")
    listed = [(state["name"], state["shape"]) for state in manifest["states"]]
    check(listed == [(state.name, state.shape) for state in states], f"its states are not those in {MANIFEST}")
