"""A model of one network or several, and what makes one: `new_model` to train, `folded` to use."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from training.model.crnn import CRNN, Output, Size, State
from training.model.features import LogMel


class Ensemble(CRNN):
    """Several networks of one size, begun with different weights, that hear the same frames. Each errs in its own way,
    their mean much less (Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using
    Deep Ensembles"): what one of them takes for the keyword in hours of talk, the others do not."""

    def __init__(self, size: Size, dropout: float = 0.1, normalised: bool = False):
        nn.Module.__init__(self)
        self.features = LogMel()
        alone = replace(size, members=1)
        self.members = nn.ModuleList(CRNN(alone, dropout, normalised) for _ in range(size.members))

    @property
    def size(self) -> Size:
        return replace(self.networks[0].size, members=len(self.members))

    @size.setter
    def size(self, size: Size) -> None:
        for member in self.networks:
            member.size = replace(size, members=1)

    @property
    def networks(self) -> list[CRNN]:
        return [member for member in self.members if isinstance(member, CRNN)]

    def classify(self, frames: Tensor, state: State) -> tuple[Output, tuple[Tensor, Tensor, Tensor]]:
        """Of each member alone while they are trained, one member's batch after the other's; else their mean."""
        n, said, after = len(self.members), [], []
        for member, hidden, ring in zip(self.networks, state.hidden.chunk(n), state.ring.chunk(n, dim=2), strict=True):
            output, states = member.classify(frames, State(state.tail, state.context, hidden, ring))
            said.append(output)
            after.append(states)
        parts = [torch.stack(tensors) for tensors in zip(*said, strict=True)]
        contexts, hiddens, rings = zip(*after, strict=True)
        output = Output(*(part.flatten(0, 1) if self.training else part.mean(0) for part in parts))
        return output, (contexts[0], torch.cat(hiddens), torch.cat(rings, dim=2))


def networks(model: CRNN) -> list[CRNN]:
    """Of an ensemble its members, else the model itself."""
    return model.networks if isinstance(model, Ensemble) else [model]


def new_model(size: Size, dropout: float = 0.1, normalised: bool = False) -> CRNN:
    """A network of that size, or as many of them as it has members, with random weights."""
    return (Ensemble if size.members > 1 else CRNN)(size, dropout, normalised)


def folded(model: CRNN) -> CRNN:
    """The same function without normalisation, to be used and not trained: it is part of the convolutions' weights.

    model: in `eval` mode.
    """
    if isinstance(model, Ensemble):
        whole = Ensemble(model.size).eval()
        whole.members = nn.ModuleList(map(folded, model.networks))
        return whole
    plain, layers = CRNN(model.size).eval(), list(model.conv)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("conv.")}
    for place, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            norm = layers[place + 1] if place + 1 < len(layers) else None
            layer = fuse_conv_bn_eval(layer, norm) if isinstance(norm, nn.BatchNorm2d) else layer
            tensors |= {f"conv.{place}.{name}": tensor for name, tensor in layer.state_dict().items()}
    plain.load_state_dict(tensors)
    return plain
