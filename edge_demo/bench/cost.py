"""Cost of a model by counting: multiply-accumulate operations (MACs), and bytes of weights."""

from pathlib import Path

import onnx
import torch
from torch.utils.flop_counter import FlopCounterMode

from training.model.crnn import CRNN, n_parameters
from training.model.ensemble import networks
from training.model.features import FRAME_STEP, N_MELS, SAMPLE_RATE

THOP_HOPS = 25  # two seconds of audio


def macs(model: CRNN, hops: int) -> int:
    """MACs of the network, without its front end, in `hops` hops: convolutions and matrix products, as torch's
    FlopCounterMode sees them run."""
    frames = torch.zeros(1, hops * model.size.hop_samples // FRAME_STEP, N_MELS)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval().classify(frames, model.zero_state())
    return counter.get_total_flops() // 2  # a multiplication and an addition


def macs_per_second(model: CRNN) -> float:
    return macs(model, 1) * SAMPLE_RATE / model.size.hop_samples


def macs_by_thop(model: CRNN) -> int:
    """In two seconds, as thop counts them, which the student projects kws_project and kws-hw used: products, sums of
    biases and the GRU's element-wise operations; the classifier once, because theirs does not run each hop."""
    size = model.size
    gates = 13 * size.hidden * size.layers  # of a unit: six biases, seven operations
    biases = size.channels * size.bands * size.mix[1] + (size.columns if size.mix[0] else 0)  # one for each output
    once = (THOP_HOPS - 1) * networks(model)[0].classifier.weight.numel()
    return macs(model, THOP_HOPS) + size.members * (THOP_HOPS * (gates + biases) - once)


def weight_bytes(model: CRNN, bundle: Path, file: str) -> int:
    """Weights of the network in one of a bundle's models: all constants but the front end's.

    In model.onnx the front end has all constants but 4 bytes for each parameter.
    """
    front_end = constant_bytes(bundle / "model.onnx") - 4 * n_parameters(model)
    return constant_bytes(bundle / file) - front_end


def constant_bytes(path: Path) -> int:
    return sum(len(onnx.numpy_helper.to_array(tensor).tobytes()) for tensor in onnx.load(path).graph.initializer)
