"""What a spike costs: a convolution with sigma-delta neurons and one with IF neurons, on spikes of the same places."""

from collections.abc import Iterator
from statistics import median

import torch

import proxykernels as pk
from proxykernels.kernels import backends, sigma_delta_codes

from .sigma_delta_time import processor_seconds

CHANNELS, SIZE, IMAGES, STEPS = 128, 28, 4, (4, 16)
RATES = (0.02, 0.05, 0.1, 0.2, 0.4)  # of neurons that send something at a step
COLUMNS = ["net", "rate", "T", "if_ns", "sigma_delta_ns", "ratio", "repeats", "device", "commit"]


def rows(repeats: int) -> Iterator[dict]:
    """Nanoseconds of one thread for a spike, which 9 times 128 weights are added for, neurons included; medians."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, generator=g) / 100
    window = (1, 1), (1, 1), (1, 1), 1
    neuron = sigma_delta_codes.Senders(9, 0.0, torch.full((CHANNELS,), torch.inf))
    for T in STEPS:
        for rate in RATES:
            fires = torch.rand(T, IMAGES, CHANNELS, SIZE, SIZE, generator=g) < rate
            packed = pk.pack(fires)
            codes = torch.randint(1, 10, fires.shape, generator=g) * (
                2 * torch.randint(0, 2, fires.shape, generator=g) - 1
            )
            x = (codes * fires).to(torch.int8).flatten(3).permute(1, 0, 3, 2).contiguous()
            operands = x, (SIZE, SIZE), weight, None, None, T, neuron, window
            timed = {
                "if": lambda packed=packed: pk.if_conv2d(packed, weight, padding=1, v_reset=None),
                "sigma-delta": lambda operands=operands: backends.cpu_backend().sigma_delta(*operands),
            }
            seconds = processor_seconds(timed, repeats)
            spikes = int(fires.sum())
            ours, theirs = (1e9 * median(seconds[name]) / spikes for name in ("sigma-delta", "if"))
            yield {
                "net": f"{CHANNELS}C3, {SIZE} x {SIZE}", "rate": rate, "T": T, "if_ns": f"{theirs:.0f}",
                "sigma_delta_ns": f"{ours:.0f}", "ratio": f"{ours / theirs:.2f}", "repeats": repeats,
            }  # fmt: skip
