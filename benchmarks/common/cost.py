"""What an image costs a network of any shape: the operations of its ReLU network, and those of a simulation.

Left out on both sides: additions of shortcuts, pooling, and the memory of values that are no neurons'. Costs are those
of 45 nm CMOS: Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014,
doi 10.1109/ISSCC.2014.6757323.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CODE_BITS = 8  # of a sigma-delta spike, as the kernels keep it
SRAM, DRAM = 100e-12 / 8, 1.3e-9 / 8  # joules a byte: a cache of 1 MB; the least that is given for DRAM


@dataclass(frozen=True)
class Arithmetic:
    """Joules of an operation, and the bytes of a weight.

    Of 8 bits each side is read in the way that is worse for spikes: the products add in 8 bits (0.2 + 0.03 pJ), the
    spikes' additions in 32 (0.1 pJ).
    """

    name: str
    product: float
    addition: float
    bytes: int


FLOAT32 = Arithmetic("float32", 4.6e-12, 0.9e-12, 4)
INT8 = Arithmetic("int8", 0.23e-12, 0.1e-12, 1)


@dataclass
class Work:
    """What an image costs, in the mean.

    Memory by the simplest order that either network can be run in. The ReLU network reads each weight once, of a linear
    layer with zeros skipped only the rows of inputs that are not 0, and writes and reads each activation once. The
    spiking network does so at each step: the rows of inputs that fired, all weights of a convolution (but none more
    often than it is added), every state value read and written, spikes of one bit written and read, and the first
    layer's currents read; that layer's weights are read once.

    Attributes:
        products: multiply-accumulates. additions: of a weight to a potential. updates: of neurons and poolings.
        weights: read. values: of states or activations, read or written. bits: of spikes, read or written.
    """

    products: float = 0.0
    additions: float = 0.0
    updates: float = 0.0
    weights: float = 0.0
    values: float = 0.0
    bits: float = 0.0

    def row(self, arithmetic: Arithmetic, value_bytes: int) -> dict[str, str]:
        """The columns of the table."""
        weight_bytes, state_bytes = arithmetic.bytes * self.weights, value_bytes * self.values + self.bits / 8
        joules = {
            "arithmetic_uj": arithmetic.product * self.products + arithmetic.addition * self.additions,
            "neurons_uj": arithmetic.addition * self.updates,
            "sram_uj": SRAM * (weight_bytes + state_bytes),
            "dram_uj": DRAM * weight_bytes + SRAM * state_bytes,
        }
        counts = {
            "products": self.products, "additions": self.additions, "updates": self.updates,
            "weight_bytes": weight_bytes, "state_bytes": state_bytes,
        }  # fmt: skip
        return {key: f"{count:.0f}" for key, count in counts.items()} | {
            key: f"{1e6 * value:.3f}" for key, value in joules.items()
        }


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
    """The work of a simulation of ``images`` for ``T`` steps.

    Args:
        values: state variables per neuron. bits: memory for a spike or its absence.
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
