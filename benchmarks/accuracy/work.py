"""What an image costs a network: operations, and bytes of memory by a model; counted alike for ReLUs and for spikes.

What pads an image is no operation, and the image's zeros are skipped where zeros are. Costs are those of 45 nm CMOS:
Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, doi 10.1109/ISSCC.2014.6757323.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common.accuracy import BATCH, strict_correct
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import proxykernels as pk

CHUNK = 2  # steps between two looks at which images are decided
STATE_BYTES = 4  # of a potential, whatever the weights are: sums need the room
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
def relu_work(ann: nn.Sequential, dataset: Dataset) -> tuple[Work, Work, float]:
    """Dense, with zeros skipped, and the products of the first layer with the image's values that are not 0."""
    dense, sparse, first, count = Work(), Work(), 0.0, 0
    for images, _ in DataLoader(dataset, BATCH):
        x, is_first = images, True
        for module in ann:
            if isinstance(module, nn.Conv2d | nn.Linear):
                nonzero = products(module, x != 0)
                dense.products += products(module, torch.ones_like(x, dtype=torch.bool))
                sparse.products += nonzero
                first += nonzero * is_first
                is_first = False
                whole = module.weight.numel() * len(x)
                dense.weights += whole
                sparse.weights += nonzero if isinstance(module, nn.Linear) else whole
            x, before = module(x), x
            if isinstance(module, nn.Conv2d | nn.Linear):  # the bias and the comparison with 0; written and read
                dense.updates += 2 * x.numel()
                dense.values += 2 * x.numel()
            elif isinstance(module, nn.MaxPool2d):
                dense.updates += before.numel()
        count += len(images)
    sparse.updates, sparse.values = dense.updates, dense.values
    for work in (dense, sparse):
        for name, total in vars(work).items():
            setattr(work, name, total / count)
    return dense, sparse, first / count


def products(module: nn.Conv2d | nn.Linear, used: Tensor) -> float:
    """How often a weight is multiplied with an input that is ``used``, bool [N, ...]; what pads the input is not."""
    if isinstance(module, nn.Linear):
        return used.sum().item() * module.out_features
    window = torch.ones(1, 1, *module.kernel_size)
    inputs = used.float().sum(1, keepdim=True)  # of a pixel
    taken = F.conv2d(inputs, window, None, module.stride, module.padding, module.dilation)
    return taken.double().sum().item() * module.out_channels / module.groups


def spiking_work(
    net: nn.Module, dataset: Dataset, T: int, stop, precision: str | None, first: float
) -> tuple[float, float, Work]:
    """Accuracy, mean steps and work of a network; ``first``: products of the first layer, once an image."""
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, pk.layers.Fused)}
    start = next(iter(layers))
    additions, right, steps, count = dict.fromkeys(layers, 0), 0, 0, 0
    options = {} if stop is None else {"chunk": CHUNK, "stop": stop}
    for images, labels in tqdm(DataLoader(dataset, BATCH), "test images", unit="batch", mininterval=1.0):
        result = pk.simulate(net, images, T, precision=precision, **options)
        for name in layers:
            additions[name] += result.synops.accumulates[name]
        right += strict_correct(result.count(), labels).sum().item()
        steps, count = steps + result.steps.sum().item(), count + len(labels)
        states = sum(v[0].numel() for values in result.state.values() for v in values)
        constant = result.state[start][0][0].numel()  # currents of the image, read at each step
    mean = steps / count
    read = layers[start].weight.numel()
    for name in (name for name in layers if name != start):
        added = additions[name] / count
        read += min(added, layers[name].weight.numel() * mean) if isinstance(layers[name], nn.Conv2d) else added
    work = Work(
        products=first,
        additions=sum(additions.values()) / count,
        updates=2 * states * mean,
        weights=read,
        values=(2 * states + constant) * mean,
        bits=2 * states * mean,
    )
    return right / count, mean, work
