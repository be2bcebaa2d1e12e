"""The contenders of train_iteration.py surrogate: the small network with its weights, as each library's users write it.

All have IF neurons with hard reset and the arcus tangent of alpha = 2 as the derivative of a spike. A model takes
images [N, C, H, W], which are constant for T steps, and gives spike counts [N, classes], differentiable.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import proxykernels as pk

Model = Callable[[Tensor], Tensor]


def ours(net: nn.Sequential, images: Tensor, T: int) -> Model:
    return pk.SurrogateNet(net.train(), T, surrogate=pk.ATan(2.0))


def spikingjelly(net: nn.Sequential, images: Tensor, T: int) -> Model:
    """Multi-step mode: all steps of a layer at once."""
    return _SpikingJelly(_spikingjelly_blocks(net), T)


def spikingjelly_memopt(net: nn.Sequential, images: Tensor, T: int) -> Model:
    """With its memory optimisation, level 1, the only one off a GPU: blocks are computed again, from packed spikes."""
    from spikingjelly.activation_based import memopt

    model = _SpikingJelly(_spikingjelly_blocks(net), T)
    model.net = memopt.optimize_memory(
        model.net, _Block, lambda net: net(images[:2].expand(T, -1, -1, -1, -1)), level=1
    )
    return model


def snntorch(net: nn.Sequential, images: Tensor, T: int) -> Model:
    """A loop over the steps. Its reset acts one step later, so a few spikes differ."""
    import snntorch
    from snntorch import surrogate, utils

    def neurons() -> nn.Module:
        derivative = surrogate.atan(alpha=2.0)
        return snntorch.Leaky(beta=1.0, spike_grad=derivative, reset_mechanism="zero", init_hidden=True)

    layers = nn.Sequential(*(part for layer in net for part in _plain(layer, neurons)))
    layers.to(memory_format=torch.channels_last)

    def run(x: Tensor) -> Tensor:
        utils.reset(layers)
        return torch.stack([layers(x) for _ in range(T)]).sum(0)

    run.parameters = layers.parameters
    return run


CONTENDERS = {
    "proxykernels": ours,
    "SpikingJelly": spikingjelly,
    "SpikingJelly, memopt": spikingjelly_memopt,
    "snnTorch": snntorch,
}


def _plain(layer: nn.Module, neurons: Callable[[], nn.Module]) -> Iterator[nn.Module]:
    """The modules of torch that a layer of the small network is made of, and neurons behind its weights."""
    if isinstance(layer, nn.Conv2d):
        conv = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding)
        yield _with_weights(conv, layer)
        yield neurons()
    elif isinstance(layer, nn.Linear):
        yield _with_weights(nn.Linear(layer.in_features, layer.out_features), layer)
        yield neurons()
    else:
        yield nn.Flatten() if isinstance(layer, pk.Flatten) else nn.MaxPool2d(layer.kernel_size)


def _with_weights(module: nn.Module, layer: nn.Module) -> nn.Module:
    module.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    return module


class _SpikingJelly(nn.Module):
    def __init__(self, net: nn.Sequential, T: int):
        super().__init__()
        self.net, self.T = net.to(memory_format=torch.channels_last), T

    def forward(self, x: Tensor) -> Tensor:
        from spikingjelly.activation_based import functional

        functional.reset_net(self)
        return self.net(x.expand(self.T, *x.shape)).sum(0)


class _Block(nn.Sequential):
    """Some modules of SpikingJelly."""


def _spikingjelly_blocks(net: nn.Sequential) -> nn.Sequential:
    """Blocks that end in neurons, what its memory optimisation works on."""
    from spikingjelly.activation_based import layer, neuron, surrogate

    def neurons() -> nn.Module:
        return neuron.IFNode(surrogate_function=surrogate.ATan(2.0), step_mode="m")

    blocks: list[nn.Module] = []
    parts: list[nn.Module] = []
    for module in (part for each in net for part in _plain(each, neurons)):
        if isinstance(module, neuron.IFNode):
            blocks.append(_Block(*parts, module))
            parts = []
        elif isinstance(module, nn.Conv2d):
            conv = layer.Conv2d(
                module.in_channels, module.out_channels, module.kernel_size, padding=module.padding, step_mode="m"
            )
            parts.append(_with_weights(conv, module))
        else:
            parts.append(layer.SeqToANNContainer(module))
    return nn.Sequential(*blocks)
