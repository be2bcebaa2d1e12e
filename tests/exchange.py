"""What tests of other libraries share: parameters on a grid, inputs, and what the others' networks fire."""

import torch
from cases import dyadic
from torch import Tensor, nn


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
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.copy_(dyadic(*module.weight.shape, generator=generator, span=12, unit=unit))
            if module.bias is not None:
                module.bias.copy_(dyadic(*module.bias.shape, generator=generator, span=4, unit=unit))
    return net.eval()


@torch.no_grad()
def make_normal(net: nn.Module, generator: torch.Generator, gain: float) -> nn.Module:
    """Normal weights, a bit above 0 in the mean; ``gain`` sets how much fires."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.copy_((torch.randn(module.weight.shape, generator=generator) + 0.2) * gain / fan_in**0.5)
            if module.bias is not None:
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
    return net.eval()


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
