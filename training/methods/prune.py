"""Structured pruning: whole channels and units go to zero during training, then the tensors are really shrunk.

A channel of the convolution, a unit of a GRU layer and a unit of the attention are each a group: all weights that
lead into it and out of it (Wen et al. 2018, "Learning Intrinsic Sparse Structures within Long Short-Term Memory"). A
group of zeros says zero whatever it hears and nothing listens to it, so a model without it gives the same scores.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.model.crnn import CRNN, Size


class Part(NamedTuple):
    """A parameter that, reshaped to `shape`, belongs to member i of a kind of group at index i along `axis`."""

    name: str
    shape: tuple[int, ...]
    axis: int


class Kind(NamedTuple):
    """Channels, or units of one layer: so many members, each of which may go."""

    members: int
    wanted: int  # how many are to stay
    parts: list[Part]


def kinds(size: Size, target: Size) -> list[Kind]:
    """All groups of a model of `size`. target: differs in channels and hidden units only, and has no more of either.
    Raises ValueError."""
    if replace(target, channels=size.channels, hidden=size.hidden) != size:
        raise ValueError("pruning changes channels and hidden units only")
    if not (0 < target.channels <= size.channels and 0 < target.hidden <= size.hidden):
        raise ValueError(f"pruning keeps 1 to {size.channels} channels and 1 to {size.hidden} hidden units")
    channels = [
        Part("conv.0.weight", (size.channels, -1), 0),
        Part("conv.0.bias", (size.channels, -1), 0),
        Part("gru.weight_ih_l0", (-1, size.channels, size.columns // size.channels), 1),
    ]
    if size.mix[0]:
        channels += [Part(f"conv.3.{name}", (size.channels, -1), 0) for name in ("weight", "bias")]
    found = [Kind(size.channels, target.channels, channels)]
    columns, gates = (-1, size.hidden), (3, size.hidden, -1)  # gates: reset, update and new, one below the other
    for layer in range(size.layers):
        rows = [Part(f"gru.{name}_l{layer}", gates, 1) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        followers = ["attention.energy.0.weight", "classifier.weight"]
        if layer + 1 < size.layers:
            followers = [f"gru.weight_ih_l{layer + 1}"]
        heard = [Part(name, columns, 1) for name in (f"gru.weight_hh_l{layer}", *followers)]
        found.append(Kind(size.hidden, target.hidden, rows + heard))
    attention = [Part(f"attention.energy.0.{name}", (size.hidden, -1), 0) for name in ("weight", "bias")]
    attention.append(Part("attention.energy.2.weight", columns, 1))
    found.append(Kind(size.hidden, target.hidden, attention))
    return found


def spread(values: Tensor, part: Part) -> Tensor:
    """One value for each member → a shape that multiplies the reshaped parameter."""
    return values.reshape([-1 if axis == part.axis else 1 for axis in range(len(part.shape))])


def norms(tensors: dict[str, Tensor], kind: Kind) -> Tensor:
    """Root mean square of the weights of each member: (members,)."""
    squares, n = torch.zeros(kind.members, device=tensors[kind.parts[0].name].device), 0
    for part in kind.parts:
        weights = tensors[part.name].reshape(part.shape)
        others = [axis for axis in range(weights.ndim) if axis != part.axis]
        squares += weights.square().sum(others)
        n += weights.numel() // kind.members
    return (squares / n).sqrt()


def largest(tensors: dict[str, Tensor], kind: Kind) -> Tensor:
    """The members that stay, in their order: (wanted,) indices."""
    return norms(tensors, kind).topk(kind.wanted).indices.sort().values


@torch.no_grad()
def scale(tensors: dict[str, Tensor], kind: Kind, factors: Tensor) -> None:
    """Multiply each member's weights by its factor, in place."""
    for part in kind.parts:
        tensors[part.name].view(part.shape).mul_(spread(factors, part))


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.data for name, parameter in model.named_parameters()}


def lasso_step(model: CRNN, target: Size, amount: float) -> None:
    """Take `amount` of every group's root mean square away, but for the largest groups, as many as `target` has.

    That is the proximal step of the group lasso (Yuan & Lin 2006, "Model selection and estimation in regression with
    grouped variables"), which unlike its gradient ends at exactly zero; sparing the largest makes the size that is left
    a choice instead of a guess at the penalty (Yun et al. 2019, "Trimming the l1 Regularizer").
    """
    tensors = parameters(model)
    for kind in kinds(model.size, target):
        sizes = norms(tensors, kind)
        factors = (1 - amount / sizes.clamp(min=1e-12)).clamp(min=0)
        factors[sizes.topk(kind.wanted).indices] = 1
        scale(tensors, kind, factors)


def prune(model: CRNN, target: Size) -> list[Tensor]:
    """Zero all but the largest groups, in place. Returns the indices that stay, for each kind of group."""
    tensors, stay = parameters(model), []
    for kind in kinds(model.size, target):
        stay.append(largest(tensors, kind))
        scale(tensors, kind, norms(tensors, kind).zero_().index_fill(0, stay[-1], 1))
    return stay


def shrink(tensors: dict[str, Tensor], size: Size, target: Size, stay: list[Tensor]) -> dict[str, Tensor]:
    """A state dict of `size`, or what an optimizer keeps for each parameter → the same of `target`: what stays."""
    small = dict(tensors)
    for kind, indices in zip(kinds(size, target), stay, strict=True):
        for part in kind.parts:
            whole = small[part.name].reshape(part.shape)
            small[part.name] = whole.index_select(part.axis, indices.to(whole.device))
    shapes = {name: tensor.shape for name, tensor in CRNN(target).state_dict().items()}
    return {name: tensor.reshape(shapes[name]).contiguous() for name, tensor in small.items()}
