"""What an image costs a network of any shape: the operations of its ReLU network, and those of a simulation.

As accuracy/work.py counts them for chains. Left out on both sides: additions of shortcuts, pooling, and the memory of
values that are no neurons'.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from accuracy.work import Work

CODE_BITS = 8  # of a sigma-delta spike, as the kernels keep it


@torch.no_grad()
def of_relu(ann: nn.Module, images: Tensor) -> tuple[Work, Work]:
    """Dense, and with products with zeros skipped; means of ``images``."""
    dense, sparse = Work(), Work()

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        used = (inputs[0] != 0).double()
        nonzero = uses(module, used)
        dense.products += uses(module, torch.ones_like(used))
        sparse.products += nonzero
        weights: Any = module.weight
        dense.weights += weights.numel() * len(used)
        sparse.weights += min(nonzero, weights.numel() * len(used))
        for work in (dense, sparse):
            work.updates += 2 * output.numel()
            work.values += 2 * output.numel()

    hooks = [m.register_forward_hook(count) for m in ann.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Linear)]
    try:
        ann(images)
    finally:
        for hook in hooks:
            hook.remove()
    for work in (dense, sparse):
        for name, total in vars(work).items():
            setattr(work, name, total / len(images))
    return dense, sparse


@torch.no_grad()
def uses(module: nn.Module, inputs: Tensor) -> float:
    """How often a weight of a convolution, matrix product or identity is used, by how often each input is."""
    ones: Any = copy.deepcopy(module).double()
    for parameter in ones.parameters():
        parameter.fill_(1.0)
    if getattr(ones, "bias", None) is not None:
        ones.bias.zero_()
    return ones.forward(inputs.double()).sum().item()  # not a call: copies have the module's hooks too


def of_simulation(net: nn.Module, result: Any, T: float, images: int, values: int, bits: int) -> Work:
    """Of ``images`` for ``T`` steps.

    Args:
        values: the state of a neuron. bits: of a spike or its absence.
    """
    additions, products = result.synops.accumulates, result.synops.multiply_accumulates
    places = sum(result.places.values()) / images
    # Behind a max pooling neurons are fewer than the sums that it takes, which are states too.
    pooled = sum(count - result.places[name] for name, count in getattr(result, "sums", {}).items()) / images
    sizes = {name: sum(p.numel() for p in layer.parameters() if p.ndim > 1) for name, layer in net.named_modules()}
    read = sum(min((additions[name] + products[name]) / images, sizes[name] * T) for name in additions)
    return Work(
        products=sum(products.values()) / images,
        additions=sum(additions.values()) / images,
        updates=(values + 1) * places + pooled,  # each value is added to, and one is compared
        weights=read,
        values=2 * (values * places + pooled),
        bits=2 * bits * places,
    )
