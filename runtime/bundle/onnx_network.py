"""One ONNX model in onnxruntime, and the state of one stream of audio."""

import copy
import functools
import os
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.bundle.manifest import MANIFEST, refuse

LARGEST_MEMORY = 96 << 20  # bytes of weights and results, of all engines of a process; the service may have 200 MB
LOUDEST = 1e30  # energy of a hop (sum of squares) beyond which it is no audio; full scale at 80 ms has 1280


class OnnxNetwork:
    """nan_resets: how often the state had to be thrown away because of audio or scores that were no numbers.

    model: the file's name; content: its bytes, which `check_content` took. Raises BundleError.
    """

    def __init__(self, model: str, content: bytes, manifest: dict[str, Any]) -> None:
        self.nan_resets = 0
        session = _session(model, content)
        _check_graph(model, session, manifest)
        self._bind(session)

    def _bind(self, session: ort.InferenceSession) -> None:
        """Fix where the graph reads and writes, once: a step then allocates nothing and looks up no names.

        Each state has two buffers. One step reads the first and writes the second, the next one the other way
        round: ping-pong, as a graph may still read a state when it already writes the next.
        """
        inputs, outputs = session.get_inputs(), session.get_outputs()
        audio = np.zeros(inputs[0].shape, np.float32)
        score = np.zeros(outputs[0].shape, np.float32)
        ping, pong = ([np.zeros(s.shape, np.float32) for s in inputs[1:]] for _ in range(2))
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
        self._score: NDArray[np.float32] = score[0]
        self._states = ping, pong
        self._turn = 0

    def stream(self) -> "OnnxNetwork":
        """The same graph for another stream of audio, from zero state."""
        other = copy.copy(self)
        other.nan_resets = 0
        other._bind(self._session)
        return other

    def reset(self) -> None:
        """Start a new stream: every state is zeros, which means silence."""
        for state in self._states[self._turn]:
            state.fill(0)

    def step(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """One hop of audio, float32 (hop_samples,) → its scores, float32 (n_keywords,)."""
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


@functools.cache
def _limit_memory() -> None:
    """What results may take, should it not be what `onnx_sizes` thinks. Sessions that use this allocator share it."""
    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    grow_as_needed = 1  # instead of doubling
    limits = ort.OrtArenaCfg({"max_mem": LARGEST_MEMORY, "arena_extend_strategy": grow_as_needed})
    try:
        ort.create_and_register_allocator(info, limits)
    except RuntimeError as error:  # onnxruntime before 1.23, when another module of this process was first
        if "already been registered" not in str(error):
            raise


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
            refuse(model, "keeps weights in another file (external data)", "export it again with its weights inside")
        refuse(model, f"onnxruntime {ort.__version__} cannot load it ({reason[-200:]})",
               "export the bundle again, without custom operators, or install a newer onnxruntime")


def _kind(node: Any) -> tuple[str, str, list[int]]:
    return node.name, node.type, node.shape


def _check_graph(model: str, session: ort.InferenceSession, manifest: dict[str, Any]) -> None:
    """Inputs, outputs and metadata of the graph are those of the contract and of the manifest."""

    def check(good: bool, problem: str) -> None:
        if not good:
            refuse(model, problem, "export the bundle again")

    inputs, outputs = session.get_inputs(), session.get_outputs()
    audio = ("audio", "tensor(float)", [1, manifest["hop_samples"]])
    score = ("score", "tensor(float)", [1, len(manifest["keywords"])])
    check(len(inputs) >= 1 and _kind(inputs[0]) == audio, f"its first input is not audio, float32 {audio[2]}")
    check(len(outputs) >= 1 and _kind(outputs[0]) == score, f"its first output is not score, float32 {score[2]}")

    states, following = inputs[1:], outputs[1:]
    for position, state in enumerate(states):
        check(state.type == "tensor(float)" and all(type(n) is int for n in state.shape),
              f"state {state.name} has no static shape or is not float32")
        after = following[position] if position < len(following) else None
        check(after is not None and _kind(after) == (f"{state.name}_next", state.type, state.shape),
              f"state {state.name} lacks its output {state.name}_next of the same shape and type, in the same order")
    check(len(following) == len(states), f"output {following[-1].name if following else ''} belongs to no state")
    listed = [(state["name"], state["shape"]) for state in manifest["states"]]
    check(listed == [(state.name, state.shape) for state in states], f"its states are not those in {MANIFEST}")
