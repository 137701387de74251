"""Structured pruning: a penalty drives whole channels and units to zero, then the tensors are made smaller.

A channel of the convolution, a unit of a GRU layer and a unit of the attention are each a group: all weights that
lead into it and out of it (Wen et al. 2018, "Learning Intrinsic Sparse Structures within Long Short-Term Memory"). The
output of a group of zeros is zero and has no weight, so a model without the group gives the same scores.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.model.crnn import CRNN, Size


class Part(NamedTuple):
    """A parameter that, reshaped to `shape`, has the weights of group i at index i along `axis`."""

    name: str
    shape: tuple[int, ...]
    axis: int


class Kind(NamedTuple):
    """The groups of one kind: channels, or units of one layer."""

    groups: int
    keep: int  # how many stay
    parts: list[Part]


def kinds(size: Size, target: Size) -> list[Kind]:
    """The kinds of groups of a model of `size`. target: the size after pruning, with no more channels and hidden units
    and the same in all else. Raises ValueError."""
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
    all_kinds = [Kind(size.channels, target.channels, channels)]
    columns, gates = (-1, size.hidden), (3, size.hidden, -1)  # gates: reset, update and new, one below the other
    for layer in range(size.layers):
        rows = [Part(f"gru.{name}_l{layer}", gates, 1) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        next_layer = [f"gru.weight_ih_l{layer + 1}"]
        if layer + 1 == size.layers:
            next_layer = ["attention.energy.0.weight", "classifier.weight"]
        readers = [Part(name, columns, 1) for name in (f"gru.weight_hh_l{layer}", *next_layer)]
        all_kinds.append(Kind(size.hidden, target.hidden, rows + readers))
    attention = [Part(f"attention.energy.0.{name}", (size.hidden, -1), 0) for name in ("weight", "bias")]
    attention.append(Part("attention.energy.2.weight", columns, 1))
    all_kinds.append(Kind(size.hidden, target.hidden, attention))
    return all_kinds


def spread(values: Tensor, part: Part) -> Tensor:
    """One value for each group → a shape that multiplies the reshaped parameter."""
    return values.reshape([-1 if axis == part.axis else 1 for axis in range(len(part.shape))])


def norms(tensors: dict[str, Tensor], kind: Kind) -> Tensor:
    """Root mean square of the weights of each group: (groups,)."""
    squares, n = torch.zeros(kind.groups, device=tensors[kind.parts[0].name].device), 0
    for part in kind.parts:
        weights = tensors[part.name].reshape(part.shape)
        others = [axis for axis in range(weights.ndim) if axis != part.axis]
        squares += weights.square().sum(others)
        n += weights.numel() // kind.groups
    return (squares / n).sqrt()


def largest(tensors: dict[str, Tensor], kind: Kind) -> Tensor:
    """Indices of the groups that stay, ascending: (keep,)."""
    return norms(tensors, kind).topk(kind.keep).indices.sort().values


@torch.no_grad()
def scale(tensors: dict[str, Tensor], kind: Kind, factors: Tensor) -> None:
    """Multiply the weights of each group by its factor, in place."""
    for part in kind.parts:
        tensors[part.name].view(part.shape).mul_(spread(factors, part))


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.data for name, parameter in model.named_parameters()}


def lasso_step(model: CRNN, target: Size, amount: float) -> None:
    """Reduce the root mean square of every group by `amount`, except for the largest groups, as many as `target` has.

    This is the proximal step of the group lasso (Yuan & Lin 2006, "Model selection and estimation in regression with
    grouped variables"), which unlike its gradient reaches zero exactly. Sparing the largest groups makes the final size
    independent of the penalty (Yun et al. 2019, "Trimming the l1 Regularizer").
    """
    tensors = parameters(model)
    for kind in kinds(model.size, target):
        sizes = norms(tensors, kind)
        factors = (1 - amount / sizes.clamp(min=1e-12)).clamp(min=0)
        factors[sizes.topk(kind.keep).indices] = 1
        scale(tensors, kind, factors)


def prune(model: CRNN, target: Size) -> list[Tensor]:
    """Zero all but the largest groups, in place. Returns the indices of these, for each kind of group."""
    tensors, kept = parameters(model), []
    for kind in kinds(model.size, target):
        kept.append(largest(tensors, kind))
        scale(tensors, kind, norms(tensors, kind).zero_().index_fill(0, kept[-1], 1))
    return kept


def shrink(tensors: dict[str, Tensor], size: Size, target: Size, kept: list[Tensor]) -> dict[str, Tensor]:
    """A state dict of `size`, or a tensor for each of its parameters → that of `target`. kept: of `prune`."""
    small = dict(tensors)
    for kind, indices in zip(kinds(size, target), kept, strict=True):
        for part in kind.parts:
            whole = small[part.name].reshape(part.shape)
            small[part.name] = whole.index_select(part.axis, indices.to(whole.device))
    shapes = {name: tensor.shape for name, tensor in CRNN(target).state_dict().items()}
    return {name: tensor.reshape(shapes[name]).contiguous() for name, tensor in small.items()}


def shrink_moments(
    state: dict[int, Any], names: list[str], size: Size, target: Size, kept: list[Tensor]
) -> dict[int, Any]:
    """The "state" of Adam's state dict → that of the pruned model. names: of the parameters, in their order."""
    small = {i: {"step": state[i]["step"]} for i in state}
    for key in ("exp_avg", "exp_avg_sq"):
        moments = shrink({name: state[i][key] for i, name in enumerate(names)}, size, target, kept)
        for i, name in enumerate(names):
            small[i][key] = moments[name]
    return small
