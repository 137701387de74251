"""One system in a process of its own, stepped on command by `python edge_demo/bench`.

    python edge_demo/bench/systems.py SYSTEM PATH HOPS

SYSTEM: a name in `SYSTEMS`. PATH: of its model. HOPS: a file of float32 samples, 16 kHz, −1…1. A line of JSON on
standard output announces the first score. Then every number on standard input is answered with the cost of so many
hops. Each system imports only what it needs, because its memory is measured. The names in `PREPARE` write files that a
system needs; HOPS is then their folder.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

if not __package__:  # run as a script: find the folder that holds the rooms
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

HOP = 1280  # samples: 80 ms, the step of all systems here
System = tuple[Callable[[np.ndarray], Any], Callable[[Any], Any]]  # hop → input of the system; step


def engine(path: str) -> System:
    """PATH: bundle/model.onnx; several, with a colon between them, step the same hop one after the other."""
    from runtime.bundle.engine import Engine

    steps = [Engine(os.path.dirname(one), os.path.basename(one)).step for one in path.split(":")]
    return unchanged, steps[0] if len(steps) == 1 else lambda hop: [step(hop) for step in steps]


def torch_eager(path: str) -> System:
    """PATH: a checkpoint's folder. The trained model, with torch's own FFT and GRU."""
    import torch

    from training.model import checkpoint
    from training.model.crnn import log_odds

    torch.set_num_threads(1)
    model, _ = checkpoint.load(path)
    state = model.zero_state()

    def step(audio: torch.Tensor) -> float:
        nonlocal state
        with torch.inference_mode():
            output, state = model(audio, state)
            return torch.sigmoid(log_odds(output.logits)).item()

    return as_tensor, step


def torchscript(path: str) -> System:
    """PATH: a bundle's folder, or a folder by `save_torchscript_int8`."""
    import torch

    torch.set_num_threads(1)
    module = torch.jit.load(os.path.join(path, "model.torchscript"))
    with open(os.path.join(path, "manifest.json")) as file:
        states = [torch.zeros(state["shape"]) for state in json.load(file)["states"]]

    def step(audio: torch.Tensor) -> float:
        nonlocal states
        with torch.inference_mode():
            score, *states = module(audio, *states)
            return score.item()

    return as_tensor, step


def save_torchscript_int8(checkpoint_path: str, folder: str) -> None:
    """The trained model with torch's dynamic int8 GRU and linear layers, traced and frozen."""
    import torch
    from torch import Tensor, nn

    from training.model import checkpoint
    from training.model.crnn import State, log_odds

    model, _ = checkpoint.load(checkpoint_path)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.GRU})
    quantized.attention = torch.ao.quantization.quantize_dynamic(model.attention, {nn.Linear})

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = quantized

        def forward(self, audio: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
            output, following = self.model(audio, State(*states))
            return torch.sigmoid(log_odds(output.logits))[0], *following

    states = model.zero_state()
    with torch.no_grad():
        traced = torch.jit.trace(Step().eval(), (torch.zeros(1, HOP), *states), check_trace=False)
    torch.jit.save(torch.jit.freeze(traced), os.path.join(folder, "model.torchscript"))
    with open(os.path.join(folder, "manifest.json"), "w") as file:
        json.dump({"states": [{"shape": list(state.shape)} for state in states]}, file)


def save_two_keywords(checkpoint_path: str, folder: str) -> None:
    """The trained model with its keyword twice, to measure the cost of a model of two keywords."""
    import torch

    from training.model import checkpoint

    model, info = checkpoint.load(checkpoint_path)
    tensors = model.state_dict()
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = torch.cat([tensors[name], tensors[name][1:]])
    keywords = [*info.keywords, *(f"{keyword} again" for keyword in info.keywords)]
    rest = info.thresholds * 2, info.refractory_hops, model.size.smoothing
    checkpoint.save(folder, tensors, info.recipe_text, 0, keywords, *rest)


def pymicro_wakeword(_: str) -> System:
    from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

    word, features = MicroWakeWord.from_builtin(Model.ALEXA), MicroWakeWordFeatures()  # the fastest of its four
    return as_pcm, lambda pcm: [word.process_streaming(frame) for frame in features.process_streaming(pcm)]


def pyopen_wakeword(_: str) -> System:
    from pyopen_wakeword import Model, OpenWakeWord, OpenWakeWordFeatures

    word, features = OpenWakeWord.from_builtin(Model.ALEXA), OpenWakeWordFeatures.from_builtin()
    return as_pcm, lambda pcm: [list(word.process_streaming(frame)) for frame in features.process_streaming(pcm)]


SYSTEMS: dict[str, Callable[[str], System]] = {
    "engine": engine,
    "torch-eager": torch_eager,
    "torchscript": torchscript,
    "pymicro-wakeword": pymicro_wakeword,
    "pyopen-wakeword": pyopen_wakeword,
}
PREPARE: dict[str, Callable[[str, str], None]] = {
    "save-torchscript-int8": save_torchscript_int8,
    "save-two-keywords": save_two_keywords,
}


def unchanged(hop: np.ndarray) -> np.ndarray:
    return hop


def as_pcm(hop: np.ndarray) -> bytes:
    return (np.clip(hop, -1, 1) * 32767).astype("<i2").tobytes()


def as_tensor(hop: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(hop[None])


def memory() -> dict[str, float]:
    """MB of this process: now, and at most so far. From /proc: getrusage would count the parent's before exec."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return {"rss_mb": int(fields["VmRSS"].split()[0]) / 1024, "peak_mb": int(fields["VmHWM"].split()[0]) / 1024}


def run(step: Callable[[Any], Any], hops: list[Any], start: int, count: int) -> tuple[list[int], int]:
    """`count` steps from hop `start` on, cyclically → nanoseconds of each, CPU nanoseconds of all."""
    clock, times = time.perf_counter_ns, [0] * count
    cpu = time.process_time_ns()
    for index in range(count):
        hop = hops[(start + index) % len(hops)]
        before = clock()
        step(hop)
        times[index] = clock() - before
    return times, time.process_time_ns() - cpu


def main() -> None:
    system, path, file = sys.argv[1:]
    if system in PREPARE:
        return PREPARE[system](path, file)
    prepare, step = SYSTEMS[system](path)
    audio = np.fromfile(file, np.float32).reshape(-1, HOP)
    step(prepare(audio[0]))
    print(json.dumps(memory()), flush=True)
    hops, done = [prepare(hop) for hop in audio], 1
    for line in sys.stdin:
        count = int(line)
        times, cpu = run(step, hops, done, count)
        done += count
        print(json.dumps({"wall_ns": times, "cpu_ns": cpu, **memory()}), flush=True)


if __name__ == "__main__":
    main()
