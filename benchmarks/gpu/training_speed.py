"""Training steps on a GPU: by proxy, and with surrogate gradients in the precisions that torch offers."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from common import nets
from torch import nn

import proxykernels as pk
from gpu.kernel_speed import figure
from gpu.rivals import set_float32_precision

KINDS = {  # name -> class, precision of float32 convolutions, autocast
    "proxy": (pk.ProxyNet, "tf32", None),
    "surrogate, IEEE float32": (pk.SurrogateNet, "ieee", None),
    "surrogate, TF32": (pk.SurrogateNet, "tf32", None),
    "surrogate, autocast to bfloat16": (pk.SurrogateNet, "tf32", torch.bfloat16),
}


def rows(device: torch.device, net: str, batch: int, T: int, time: Callable) -> Iterator[dict]:
    """A row for each kind of step, in ms."""
    images, target = torch.rand(batch, 1, 28, 28, device=device), torch.rand(batch, 10, device=device)
    for kind, (make, precision, lower) in KINDS.items():
        set_float32_precision(precision)
        model: nn.Module = make(getattr(nets, net)().to(device), T=T)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        context: AbstractContextManager = nullcontext() if lower is None else torch.autocast(device.type, dtype=lower)

        def step(model=model, optimizer=optimizer, context=context) -> None:
            optimizer.zero_grad()
            with context:
                loss = nn.functional.mse_loss(model(images) / T, target)
            loss.backward()
            optimizer.step()

        row = figure(f"step, {kind}: {net} net, batch {batch}, T = {T}", time(step), "ms")
        yield row | {"weights": "float32"}
