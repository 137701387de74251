"""Several networks as one model; `new_model` for training and `folded` for use, of one network or several."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from training.model.crnn import CRNN, Output, Size, State
from training.model.features import LogMel


class Ensemble(CRNN):
    """Several networks of one size with different initial weights and the same frames. Their errors differ, so their
    mean has fewer (Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep
    Ensembles"), above all fewer false accepts in hours of talk."""

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
        """In training the outputs of each member, one member's batch after the other's; else their mean."""
        n, outputs, after = len(self.members), [], []
        for member, hidden, ring in zip(self.networks, state.hidden.chunk(n), state.ring.chunk(n, dim=2), strict=True):
            output, states = member.classify(frames, State(state.tail, state.context, hidden, ring))
            outputs.append(output)
            after.append(states)
        parts = [torch.stack(tensors) for tensors in zip(*outputs, strict=True)]
        contexts, hiddens, rings = zip(*after, strict=True)
        output = Output(*(part.flatten(0, 1) if self.training else part.mean(0) for part in parts))
        return output, (contexts[0], torch.cat(hiddens), torch.cat(rings, dim=2))


def networks(model: CRNN) -> list[CRNN]:
    """The members of an ensemble, or the model itself."""
    return model.networks if isinstance(model, Ensemble) else [model]


def new_model(size: Size, dropout: float = 0.1, normalised: bool = False) -> CRNN:
    """A network, or an ensemble if the size has several members, with random weights."""
    return (Ensemble if size.members > 1 else CRNN)(size, dropout, normalised)


def folded(model: CRNN) -> CRNN:
    """The same model with its batch normalisation moved into the convolutions' weights. model: in `eval` mode."""
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
