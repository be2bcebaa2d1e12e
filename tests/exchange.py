"""What tests of other libraries share: networks, parameters on a grid, inputs, and what the others fire."""

import torch
from cases import dyadic, spikes
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.neurons import IFNeuron


@torch.no_grad()
def make_dyadic(net: nn.Module, generator: torch.Generator, unit: float = 1 / 32) -> nn.Module:
    """Random weights and statistics on a grid, with normalisations whose folding is exact."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps = 0.5
            module.running_mean.copy_(dyadic(*module.running_mean.shape, generator=generator, span=2))
            module.running_var.fill_(3.5)  # 4 with eps
            module.weight.copy_(torch.randint(1, 4, module.weight.shape, generator=generator))
            module.bias.copy_(dyadic(*module.bias.shape, generator=generator, span=2))
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            module.weight.copy_(dyadic(*module.weight.shape, generator=generator, span=12, unit=unit))
            if module.bias is not None:
                module.bias.copy_(dyadic(*module.bias.shape, generator=generator, span=4, unit=unit))
    return net.eval()


@torch.no_grad()
def make_normal(net: nn.Module, generator: torch.Generator, gain: float) -> nn.Module:
    """Normal weights; ``gain`` is the deviation of a current on which everything fires, and sets how much does."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * gain / fan_in**0.5)
            if module.bias is not None:
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
    return net.eval()


def louder(net: nn.Module) -> nn.Module:
    """With weights that make most neurons fire."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(3)
    return net.eval()


def sequence(T: int) -> Tensor:
    """Spikes [T, 4, 6]."""
    return spikes(T, 4, 6, generator=torch.Generator().manual_seed(0), rate=0.5)


def images(generator: torch.Generator, N: int = 3) -> Tensor:
    return dyadic(N, 2, 8, 8, generator=generator).abs()


@torch.no_grad()
def spikingjelly_fires(net: nn.Module, x: Tensor, T: int, mode: str = "m") -> Tensor:
    """What a network of SpikingJelly gives in T steps of a held x, in multi-step or single-step mode."""
    from spikingjelly.activation_based import functional

    functional.reset_net(net)
    functional.set_step_mode(net, mode)
    return net(x.expand(T, *x.shape).contiguous()) if mode == "m" else torch.stack([net(x) for _ in range(T)])


@torch.no_grad()
def snntorch_fires(net: nn.Module, x: Tensor, T: int) -> Tensor:
    """What a network of snnTorch gives in T steps of a held x."""
    from snntorch import utils

    utils.reset(net)
    return torch.stack([net(x) for _ in range(T)])


@torch.no_grad()
def stateful_fires(net: nn.Module, x: Tensor, T: int) -> Tensor:
    """What a network gives that takes and returns its state, as those made of NIR graphs do."""
    state, steps = None, []
    for _ in range(T):
        y, state = net(x, state)
        steps.append(y)
    return torch.stack(steps)


def sequential(neuron: IFNeuron) -> nn.Sequential:
    return nn.Sequential(
        pk.FusedConv2d(2, 8, 3, padding=1, batch_norm=True, neuron=neuron), pk.AvgPool2d(2),
        nn.Sequential(pk.FusedConv2d(8, 6, 3, stride=2, padding=1, bias=False, neuron=neuron)), pk.Flatten(),
        pk.FusedLinear(24, 10, neuron=neuron), pk.FusedLinear(10, 10, bias=False, neuron=neuron),
    )  # fmt: skip


def residual(neuron: IFNeuron) -> pk.Network:
    net = pk.Network()
    net.append("stem", pk.FusedConv2d(2, 6, 3, padding=1, neuron=neuron), ("",))
    block = pk.FusedSum(nn.Conv2d(6, 6, 3, padding=1), nn.Identity(), neuron=neuron)
    net.append("block", block, ("stem", "stem"))
    down = pk.FusedSum(nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(6, 8, 1, 2), neuron=neuron)
    net.append("down", down, ("block", "stem"))
    net.append("pool", pk.AdaptiveAvgPool2d(2), ("down",))
    net.append("again", pk.Population(neuron), ("pool",))
    net.append("flatten", pk.Flatten(), ("again",))
    net.append("fc", pk.FusedLinear(32, 10, neuron=neuron), ("flatten",))
    return net


def plain(neuron: IFNeuron) -> nn.Sequential:
    """Without pooling, of which neither Norse nor snnTorch knows much."""
    return nn.Sequential(
        pk.FusedConv2d(2, 8, 3, padding=1, neuron=neuron), pk.FusedConv2d(8, 6, 3, 4, 1, neuron=neuron), pk.Flatten(),
        pk.FusedLinear(24, 10, neuron=neuron), pk.FusedLinear(10, 10, bias=False, neuron=neuron),
    )  # fmt: skip
