"""Networks whose layers send more than single spikes, beside SpikingJelly's modules: SEW-ResNet-18, whose shortcuts add
spikes, and a network of I-LIF neurons, which send 0 to 4 spikes in a step, with the convolution blocks and widths of
Spike-driven Transformer V3. Random weights on a grid that makes every sum exact: one changed spike changes a tenth of
the spikes ten layers later, so that only equal outputs tell that both sides ran the same network."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import proxykernels as pk

from .ops_parts import interleave, times

CASES = [(threads, N, T) for threads in (1, 2) for N in (1, 8) for T in (1, 4)]
SIZE, WIDTHS = 64, (32, 64, 128)
QUICK_CASES, QUICK_SIZE, QUICK_WIDTHS = [(1, 1, 4)], 16, (4, 4, 8)
WEIGHT_GRID, PIXEL_GRID = 1024, 64  # parts of 1, for sums that are exact in every order


def rows(rounds: int, quick: bool) -> Iterator[dict]:
    """A row for each network and case; nothing without SpikingJelly."""
    try:
        from spikingjelly.activation_based import functional
    except ImportError:
        return
    cases, size = (QUICK_CASES, QUICK_SIZE) if quick else (CASES, SIZE)
    nets = {"I-LIF, D = 4": lambda: integer_net(QUICK_WIDTHS if quick else WIDTHS)}
    if not quick:
        nets["SEW-ResNet-18"] = _sew
    before = torch.get_num_threads()
    for job, make in nets.items():
        theirs = _in_evaluation(make(), size)
        ours = pk.from_spikingjelly(theirs, torch.rand(1, 3, size, size), check=False)

        def run(x: Tensor, net: nn.Module = theirs) -> Tensor:
            functional.reset_net(net)
            return net(x)

        for threads, N, T in cases:
            torch.set_num_threads(threads)
            x = _rounded(torch.rand(N, 3, size, size, generator=torch.Generator().manual_seed(1)), PIXEL_GRID)
            steps = x.expand(T, *x.shape).contiguous()
            with torch.no_grad():
                found, expected = pk.simulate(ours, x, T), run(steps)
                rate = sum(found.rates.values()) / len(found.rates)
                if not (rate > 0.01 and torch.equal(found.output, expected)):
                    raise AssertionError(f"{job}: the outputs differ, or none fires: mean rate {rate:.3f}")
                jobs: dict[str, Callable] = {
                    "ours": lambda net=ours, x=x, T=T: pk.simulate(net, x, T), "theirs": lambda x=steps: run(x)
                }  # fmt: skip
                medians = {name: times(taken)["median_ms"] for name, taken in interleave(jobs, rounds).items()}
            yield {
                "job": job, "T": T, "N": N, "threads": threads, "rate": round(rate, 3),
                "ours_ms": round(medians["ours"], 2), "spikingjelly_ms": round(medians["theirs"], 2),
            }  # fmt: skip
    torch.set_num_threads(before)


def _sew() -> nn.Module:
    from spikingjelly.activation_based import neuron
    from spikingjelly.activation_based.model import sew_resnet

    torch.manual_seed(0)
    return sew_resnet.sew_resnet18(num_classes=10, spiking_neuron=neuron.IFNode, cnf="ADD")


@torch.no_grad()
def _in_evaluation(net: nn.Module, size: int) -> nn.Module:
    """Multi-step, with normalisations that have seen images and whose scales are powers of two."""
    from spikingjelly.activation_based import functional

    functional.set_step_mode(net, "m")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    net.train()(torch.rand(4, 4, 3, size, size, generator=torch.Generator().manual_seed(0)))
    functional.reset_net(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            scale = module.weight / (module.running_var + module.eps).sqrt()
            module.weight.copy_(scale.log2().round().exp2())
            module.running_var.fill_(1.0)
            module.eps = 0.0
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.copy_(_rounded(module.weight, WEIGHT_GRID))
        for shift in (getattr(module, "running_mean", None), getattr(module, "bias", None)):
            if shift is not None:
                shift.copy_(_rounded(shift, PIXEL_GRID))
    return net.eval()


def _rounded(values: Tensor, grid: int) -> Tensor:
    return (values * grid).round() / grid


def integer_net(widths: tuple[int, ...], neuron: Callable[[], nn.Module] | None = None) -> nn.Module:
    """For each width a convolution of stride 2 and a block: a depthwise part, then two 3x3 convolutions, each with a
    shortcut around it; at the end a linear layer on averages."""
    from spikingjelly.activation_based import layer
    from spikingjelly.activation_based.neuron import ILIFNode

    fires = neuron or (lambda: ILIFNode(tau=4 / 3))

    def convolved(C_in: int, C_out: int, k: int, stride: int = 1) -> list[nn.Module]:
        return [layer.Conv2d(C_in, C_out, k, stride, k // 2, bias=False), layer.BatchNorm2d(C_out)]

    class Around(nn.Module):
        def __init__(self, *modules: nn.Module):
            super().__init__()
            self.inside = nn.Sequential(*modules)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inside(x)

    torch.manual_seed(0)
    modules: list[nn.Module] = []
    for C_in, C in zip((3, *widths), widths, strict=False):
        modules += convolved(3, C, 7, 2) if not modules else [fires(), *convolved(C_in, C, 3, 2)]
        depthwise = layer.Conv2d(2 * C, 2 * C, 7, padding=3, groups=2 * C, bias=False)
        modules.append(Around(fires(), *convolved(C, 2 * C, 1), fires(), depthwise, *convolved(2 * C, C, 1)))
        modules.append(Around(fires(), *convolved(C, 4 * C, 3), fires(), *convolved(4 * C, C, 3)))
    return nn.Sequential(*modules, fires(), layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(widths[-1], 10))
