"""How long first calls take, which compile kernels, beside second ones: from an empty cache of Triton's."""

import time
from collections.abc import Callable, Iterator

import torch
from common import nets
from torch import nn

import proxykernels as pk
from gpu.kernel_speed import figure


def calls(device: torch.device, net: str, T: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """What a newcomer calls first, by name; each compiles what none before it has."""
    images = torch.rand(2, 1, 28, 28, device=device)
    network: nn.Module = getattr(nets, net)().to(device).eval()
    few = torch.no_grad()(lambda: network(images.expand(4, *images.shape)))
    yield f"net(x), {net} net, 2 images, T = 4", few
    yield f"simulate, {net} net, 2 images, T = {T}", lambda: pk.simulate(network, images, T)
    yield f"simulate in int8, {net} net, T = {T}", lambda: pk.simulate(network, images, T, precision="int8")
    model = pk.SurrogateNet(getattr(nets, net)().to(device), T=4)
    yield f"surrogate step, {net} net, T = 4", lambda: model(images).sum().backward()


def rows(device: torch.device, net: str, T: int) -> Iterator[dict]:
    """A row for each first call, in seconds; ``limit``: those of the second."""
    for name, call in calls(device, net, T):
        first, second = _seconds(call), _seconds(call)
        row = figure(f"first call: {name}", first, "s", second) | {"value": f"{first:.3g}", "limit": f"{second:.3g}"}
        yield row | {"weights": "int8" if "int8" in name else "float32"}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start
