"""Ways to change a network between two calls, for tests of plans: each is seen at the next call.

A way is a function of the network, or a generator: what it does before its ``yield`` is done before the first call.
What a generator has in its variables stays alive, as in the frame of a user.
"""

import copy
import ctypes
import inspect
import mmap
import multiprocessing
import tempfile
import threading
from contextlib import contextmanager
from types import MethodType

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import proxykernels as pk

T, N = 9, 3


def dyadic(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        parameter.data = torch.randint(-3, 7, parameter.shape) / 16
    return layer


def layers() -> dict[str, nn.Module]:
    """Each fires, and the order of any two of them matters."""
    torch.manual_seed(0)
    convolution = dyadic(pk.FusedIFConv2d(2, 4, 3, batch_norm=True, v_reset=None))
    convolution.bn.eps = 0.0
    convolution.bn.weight.data, convolution.bn.bias.data = (
        torch.tensor([2.0, 1.0, 3.0, 4.0]) / 16,
        torch.full((4,), 0.0625),
    )
    return {
        "conv": convolution, "pool": pk.MaxPool2d(1), "swap": pk.Channels(torch.tensor([1, 2, 3, 0])),
        "delay": pk.Delay([0, 1, 2, 3]), "flat": pk.Flatten(), "last": dyadic(pk.FusedIFLinear(64, 256)),
    }  # fmt: skip


def sequence() -> nn.Sequential:
    net = nn.Sequential()
    for name, layer in layers().items():
        net.add_module(name, layer)
    return net.eval()


def graph() -> pk.Network:
    """The same with a sum, whose convolution is torch's."""
    net, source = pk.Network(), pk.Network.INPUT
    for name, layer in layers().items():
        if name == "flat":
            convolution = dyadic(nn.Conv2d(4, 4, 3, padding=1))
            net.append("sum", pk.FusedIFSum(convolution, nn.Identity(), v_threshold=2.0), (source, "pool"))
            source = "sum"
        net.append(name, layer, (source,))
        source = name
    return net.eval()


def image() -> torch.Tensor:
    return torch.randint(0, 9, (N, 2, 6, 6), generator=torch.Generator().manual_seed(1)) / 4


@contextmanager
def changed(net: nn.Module, name: str):
    """A context between the calls before and after a change; ``net`` is prepared before it is entered."""
    way = {**CHANGES, **OF_SUMS}[name]
    steps = way(net) if inspect.isgeneratorfunction(way) else None
    if steps is not None:
        next(steps)
    try:
        yield lambda: way(net) if steps is None else next(steps, None)
    finally:
        if steps is not None:
            steps.close()  # what it changed elsewhere is put back


class Louder(pk.FusedIFConv2d):
    def _fire(self, x, v, batch_statistics):
        return super()._fire(2 * x, v, batch_statistics)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def optimizer(net):
    weight = net.conv.weight
    weight.grad = torch.full_like(weight, 0.25)
    torch.optim.SGD(net.parameters(), 1.0).step()


def held_array(net):
    array = net.last.weight.detach().numpy()
    yield
    array[17, 5] -= 64


def held_data(net):
    data = net.last.weight.data
    yield
    data[17, 5] -= 64


def held_view(net):
    view = net.last.weight.detach()[17].view(8, 8)
    yield
    view[0, 5] -= 64


def held_transposed(net):
    view = net.last.weight.detach().t()
    yield
    view[5, 17] -= 64


def held_memory(net):
    memory = net.last.weight.untyped_storage()
    yield
    memory[4 * (17 * 64 + 5) + 3] = 0xC2  # -32 or less


def held_dlpack(net):
    array = np.from_dlpack(net.last.weight.detach())
    other = torch.from_dlpack(net.last.weight.detach())
    yield
    assert array[17, 5] == other[17, 5]
    other[17, 5] -= 64


def kept_and_let_go(net):
    """Somebody has it at one call, writes, and has it no more at the next."""
    kept = list(net.parameters())
    yield
    kept[-2].data[17, 5] -= 64
    kept.clear()


def held_module(net):
    layer = net.last
    yield
    layer.weight.data[17, 5] -= 64


def of_numpy(net):
    """NumPy's memory, which torch never owned."""
    array = net.last.weight.detach().numpy().copy()
    net.last.weight.data = torch.from_numpy(array)
    yield
    array[17, 5] -= 64


def parameter_of_numpy(net):
    array = net.last.bias.detach().numpy().copy()
    net.last.bias = nn.Parameter(torch.from_numpy(array))
    yield
    array[17] += 64


def of_a_buffer(net):
    memory = bytearray(net.last.weight.detach().numpy().tobytes())
    net.last.weight.data = torch.frombuffer(memory, dtype=torch.float32).view(256, 64)
    yield
    memory[4 * (17 * 64 + 5) + 3] = 0xC2


def of_a_file(net):
    """Another mapping of the file writes."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(net.last.weight.detach().numpy().tobytes())
        file.flush()
        net.last.weight.data = torch.from_file(file.name, shared=True, size=256 * 64).view(256, 64)
        with mmap.mmap(file.fileno(), 0) as other:
            yield
            other[4 * (17 * 64 + 5) + 3] = 0xC2
            yield  # until the calls are done


def of_a_mapped_array(net):
    with tempfile.NamedTemporaryFile() as file:
        array = np.memmap(file.name, np.float32, "w+", shape=(256, 64))
        array[:] = net.last.weight.detach().numpy()
        net.last.weight.data = torch.from_numpy(array)
        yield
        array[17, 5] -= 64
        yield


def of_a_process(net):
    """In memory that is shared with a child, which writes."""
    net.share_memory()
    weight = net.last.weight.detach()
    context = multiprocessing.get_context("fork")
    child = context.Process(target=lambda: weight.numpy().__setitem__((17, 5), -64.0))
    yield
    child.start()
    child.join()
    assert child.exitcode == 0


def at_the_address(net):
    address = net.last.weight.data_ptr() + 4 * (17 * 64 + 5)
    yield
    ctypes.c_float.from_address(address).value -= 64


def in_a_thread(net):
    thread = threading.Thread(target=lambda: net.last.weight.data[17, 5].sub_(64))
    thread.start()
    thread.join()


def iterated(net):
    for parameter in net.parameters():
        parameter.data *= 2


def a_part_of_each(net):
    for parameter in net.parameters():
        parameter.data.view(-1)[3:9] -= 64


def saved(net):
    for name, value in net.state_dict().items():
        if "weight" in name:
            value.data *= 2


def doubled(net):
    return {name: 2 * value if "weight" in name else value for name, value in net.state_dict().items()}


def as_a_vector(net):
    vector = nn.utils.parameters_to_vector(net.parameters()).detach()
    nn.utils.vector_to_parameters(2 * vector, net.parameters())


def averaged(net):
    other = copy.deepcopy(net)
    for parameter, of_other in zip(net.parameters(), other.parameters(), strict=True):
        of_other.data *= 2
        parameter.data, of_other.data = of_other.data, parameter.data


def read_in_another_order(net):
    """The same memory, with other strides."""
    weight = net.last.weight
    weight.data = weight.data.as_strided((256, 64), (1, 256))


def read_as_negative(net):
    net.last.weight.data = torch._neg_view(net.last.weight.data)


def two_swapped(net):
    """Values that add up to what they did before."""
    weight = net.last.weight.data
    weight[:, :32], weight[:, 32:] = weight[:, 32:].clone(), weight[:, :32].clone()


def bits_of_zeros(net):
    net.last.weight.data.copy_(-net.last.weight.data.abs())


def padded(net):
    net.conv.padding, net.pool.kernel_size, net.pool.stride = (1, 1), (3, 3), (1, 1)


def reordered(net):
    """Of what a dict of modules has, the first goes to the end, and others after it."""
    for name in ("delay", "swap", "sum", "flat", "last"):
        if name in net._modules:
            net._modules[name] = net._modules.pop(name)
            if isinstance(net, pk.Network):
                net._sources[name] = net._sources.pop(name)
    if isinstance(net, pk.Network):
        net._sources |= {"delay": ("pool",), "swap": ("delay",), "sum": ("swap", "pool")}


def exchanged(net):
    """Two layers, each under the name of the other."""
    net.swap, net.delay = net.delay, net.swap


def buffer_for_a_parameter(net):
    bias = net.last.bias.detach() + 0.5
    del net.last.bias
    net.last.register_buffer("bias", bias)


def thresholds_in_place(net):
    net.conv.v_threshold = torch.ones(4)
    yield
    net.conv.v_threshold.data[2] = 0.5


def thresholds_of_numpy(net):
    net.conv.v_threshold = torch.ones(4)
    array = net.conv.v_threshold.numpy()
    yield
    array[2] = 0.5


def learned(net):
    pk.learn_neurons(net.conv, "v_threshold")
    yield
    for name, parameter in net.conv.named_parameters():
        if "v_threshold" in name:
            parameter.data += 1.0


def delays(net):
    array = net.delay.delay.numpy()
    yield
    array[1] = 5


def channels(net):
    array = net.swap.index.numpy()
    yield
    array[1] = 0


def parametrized(net):
    parametrize.register_parametrization(net.last, "weight", Doubled())


def parametrized_no_more(net):
    parametrized(net)
    yield
    parametrize.remove_parametrizations(net.last, "weight", leave_parametrized=False)


def pruned(net):
    prune.l1_unstructured(net.last, "weight", 0.5)


def pruned_in_place(net):
    pruned(net)
    yield
    net.last.weight_orig.data *= 2


def plain(x):
    return x.dense() if isinstance(x, pk.Spikes) else x


def hooked(net):
    net.flat.register_forward_hook(lambda module, given, y: plain(y).flip(2))


def hooked_no_more(net):
    hook = net.flat.register_forward_pre_hook(lambda module, given: (plain(given[0]) * 0,))
    yield
    hook.remove()


def forward_of_a_module(net):
    net.pool.forward = MethodType(lambda self, x: plain(x) * 0, net.pool)


def forward_of_a_class(net):
    forward = pk.MaxPool2d.forward
    yield
    try:
        pk.MaxPool2d.forward = lambda self, x: plain(x) * 0
        yield
    finally:
        pk.MaxPool2d.forward = forward


def nested(net):
    net.last = nn.Sequential(net.last)
    yield
    net.last[0] = dyadic(pk.FusedIFLinear(64, 256))


def by_steps(*steps):
    def change(net):
        for step in steps:
            step(net)

    return change


CHANGES = {
    "an optimizer": optimizer,
    "in place": lambda net: net.conv.weight.detach().mul_(2),
    "nn.init": lambda net: nn.init.constant_(net.last.weight, 0.25),
    "a function for all modules": lambda net: net.apply(
        lambda module: module.weight.data.mul_(2) if isinstance(module, pk.FusedIFLinear) else None
    ),
    "foreach": lambda net: torch._foreach_mul_([p.detach() for p in net.parameters()], 2.0),
    "a part, through .data": lambda net: net.last.weight.data[17].sub_(4),
    "one value, through .data": lambda net: net.last.weight.data[17, 5:6].sub_(64),
    "one value, the last": lambda net: net.last.weight.data.view(-1)[-1:].sub_(64),
    "halves that change places": two_swapped,
    "signs": bits_of_zeros,
    "an array that is kept": held_array,
    "data that is kept": held_data,
    "a view that is kept": held_view,
    "a transposed view that is kept": held_transposed,
    "a tensor of dlpack": held_dlpack,
    "a module that is kept": held_module,
    "memory that is kept": held_memory,
    "a part, through an iterator that is kept": kept_and_let_go,
    "NumPy's memory": of_numpy,
    "a parameter in NumPy's memory": parameter_of_numpy,
    "memory of a bytearray": of_a_buffer,
    "memory of a file": of_a_file,
    "memory of NumPy's memmap": of_a_mapped_array,
    "memory that another process has": of_a_process,
    "memory by its address": at_the_address,
    "another thread": in_a_thread,
    "all, through an iterator": iterated,
    "a part, through an iterator": a_part_of_each,
    "all, through a state_dict": saved,
    "all, as a vector": as_a_vector,
    "all, in exchange for others": averaged,
    "rounded and back": lambda net: by_steps(iterated, nn.Module.half, nn.Module.float)(net),
    "other data": lambda net: setattr(net.last.weight, "data", net.last.weight.data * 2),
    "the same memory, other strides": read_in_another_order,
    "the same memory, negated": read_as_negative,
    "another parameter": lambda net: setattr(net.last, "weight", nn.Parameter(net.last.weight.detach() * 2)),
    "a parameter of a dict": lambda net: net.last._parameters.update(weight=nn.Parameter(net.last.weight.detach() * 2)),
    "a bias": lambda net: net.last.bias.data.add_(0.5),
    "no bias": lambda net: setattr(net.last, "bias", None),
    "a buffer in the place of a parameter": buffer_for_a_parameter,
    "a state_dict": lambda net: net.load_state_dict(doubled(net)),
    "a state_dict that is taken over": lambda net: net.load_state_dict(doubled(net), assign=True),
    "statistics": lambda net: net.conv.bn.running_mean.sub_(1),
    "statistics, through .data": lambda net: net.conv.bn.running_var.data.fill_(0.25),
    "statistics, through NumPy": lambda net: net.conv.bn.running_mean.numpy().__isub__(1),
    "other statistics": lambda net: setattr(net.conv.bn, "running_mean", net.conv.bn.running_mean - 1),
    "a gain": lambda net: net.conv.bn.weight.data.mul_(2),
    "a normalisation's bias, through NumPy": lambda net: net.conv.bn.bias.detach().numpy().__iadd__(1),
    "eps": lambda net: setattr(net.conv.bn, "eps", 3.0),
    "no normalisation": lambda net: setattr(net.conv, "bn", None),
    "a threshold": lambda net: setattr(net.conv, "v_threshold", 0.5),
    "thresholds": lambda net: setattr(net.conv, "v_threshold", torch.full((4,), 0.5)),
    "thresholds, through .data": thresholds_in_place,
    "thresholds, through NumPy": thresholds_of_numpy,
    "a threshold that is learned": learned,
    "another reset": lambda net: setattr(net.last, "v_reset", None),
    "a start": lambda net: setattr(net.conv, "v_init", 0.5),
    "a padding": padded,
    "an attribute, past __setattr__": lambda net: vars(net.conv).update(padding=(1, 1), dilation=(2, 2)),
    "delays": delays,
    "channels": channels,
    "another layer": lambda net: setattr(net, "swap", pk.Channels(torch.tensor([3, 2, 1, 0]))),
    "another layer, in the dict": lambda net: net._modules.update(swap=pk.Channels(torch.tensor([3, 2, 1, 0]))),
    "two layers that change their names": exchanged,
    "the order of modules": reordered,
    "a layer within a layer": nested,
    "another class": lambda net: setattr(net.conv, "__class__", Louder),
    "a parametrization": parametrized,
    "a parametrization that is removed": parametrized_no_more,
    "pruning": pruned,
    "pruning, and then its weights": pruned_in_place,
    "a hook": hooked,
    "a hook that is removed": hooked_no_more,
    "a module's forward": forward_of_a_module,
    "a class's forward": forward_of_a_class,
}  # fmt: skip


def convolution_held(net):
    convolution = net.sum.synapses[0]
    yield
    convolution.weight.data[1] += 1


def convolution_of_numpy(net):
    array = net.sum.synapses[0].weight.detach().numpy()
    yield
    array[1] += 1


def convolution_listed(net):
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    yield
    convolutions[-1].weight.data[1] += 1
    convolutions.clear()


def widened(net):
    net.sum.synapses[0].padding = net.sum.synapses[0].dilation = (2, 2)


OF_SUMS = {  # of a Network alone
    "a convolution of a sum": lambda net: net.sum.synapses[0].weight.data[1].add_(1),
    "a convolution of a sum that is kept": convolution_held,
    "a convolution of a sum, through NumPy": convolution_of_numpy,
    "a convolution of a sum, from a list": convolution_listed,
    "a bias of a sum": lambda net: net.sum.synapses[0].bias.data.add_(1),
    "the window of a sum": widened,
    "another synapse of a sum": lambda net: net.sum.synapses.__setitem__(0, dyadic(nn.Conv2d(4, 4, 3, padding=1))),
    "the sources of a sum": lambda net: net._sources.update(sum=("delay", "swap")),
}
