"""What a model costs, counted: multiplications, and bytes of weights."""

from pathlib import Path

import onnx
import torch
from torch.utils.flop_counter import FlopCounterMode

from training.model.crnn import CRNN, n_parameters
from training.model.ensemble import networks
from training.model.features import FRAME_STEP, N_MELS, SAMPLE_RATE

SEEDS_HOPS = 25  # of the two seconds of audio for which the seed projects count


def multiplications(model: CRNN, hops: int) -> int:
    """Multiply-accumulate operations of the network, without its front end, in `hops` hops: those of convolutions and
    matrix products, as torch's own counter sees them run."""
    frames = torch.zeros(1, hops * model.size.hop_samples // FRAME_STEP, N_MELS)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval().classify(frames, model.zero_state())
    return counter.get_total_flops() // 2  # a multiplication and an addition


def per_second(model: CRNN) -> float:
    return multiplications(model, 1) * SAMPLE_RATE / model.size.hop_samples


def as_the_seeds_count(model: CRNN) -> int:
    """In two seconds, by the rules of the counter that the seed projects used (thop): besides products also the sums of
    biases and the GRU's element-wise operations; their classifier runs once, not each hop."""
    size = model.size
    gates = 13 * size.hidden * size.layers  # a GRU layer adds six biases and does seven things more for each unit
    biases = size.channels * size.bands * size.mix[1] + (size.columns if size.mix[0] else 0)  # one for each output
    once = (SEEDS_HOPS - 1) * networks(model)[0].classifier.weight.numel()
    return multiplications(model, SEEDS_HOPS) + size.members * (SEEDS_HOPS * (gates + biases) - once)


def weight_bytes(model: CRNN, bundle: Path, file: str) -> int:
    """Of the network in one of a bundle's models: all constants but the front end's, which are what model.onnx has
    besides 4 bytes for each parameter."""
    front_end = constant_bytes(bundle / "model.onnx") - 4 * n_parameters(model)
    return constant_bytes(bundle / file) - front_end


def constant_bytes(path: Path) -> int:
    return sum(len(onnx.numpy_helper.to_array(tensor).tobytes()) for tensor in onnx.load(path).graph.initializer)
