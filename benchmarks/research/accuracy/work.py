"""What an image costs a chain of layers: operations, and bytes of memory, counted alike for ReLUs and for spikes.

What pads an image is no operation, and the image's zeros are skipped where zeros are. common/cost.py has the costs.
"""

import torch
import torch.nn.functional as F
from common.accuracy import BATCH, strict_correct
from common.cost import Work, of_simulation
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import proxykernels as pk

CHUNK = 2  # steps between two looks at which images are decided
STATE_BYTES = 4  # of a potential, whatever the weights are: sums need the room


def graded_work(net: nn.Module, dataset: Dataset, precision: str | None, bits: int) -> tuple[float, Work]:
    """Accuracy and work of a network of graded neurons, of which one step is a pass.

    A message is a product for each weight that it reaches, and has ``bits`` of memory for each neuron, as a spike has
    one: Loihi 2's graded spikes carry up to 32 (Intel, "Taking neuromorphic computing to the next level with Loihi 2",
    technology brief, 2021).
    """
    work, right, count = Work(), 0, 0
    for images, labels in DataLoader(dataset, BATCH):
        result, n = pk.simulate(net, images, 1, precision=precision), len(labels)
        for name, mean in vars(of_simulation(net, result, 1, n, values=1, bits=bits)).items():
            setattr(work, name, getattr(work, name) + n * mean)
        right, count = right + (result.logits.argmax(1) == labels).sum().item(), count + n
    for name, total in vars(work).items():
        setattr(work, name, total / count)
    return right / count, work


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
