"""Single kernels against the card's own speed: bytes per second of the scan, FLOPs per second of the convolution."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

import proxykernels as pk
from gpu.self_check import layer
from gpu.timing import RATE, kernels_alone

# Kinds of weights: the type of the card's own matrix product that theirs is compared with, and products of each weight.
WEIGHTS = {"float32": 3, "float16": 1, "int16": 2, "int8": 1}  # digits; float16 is one part
PEAK_OF = {"float32": "int8", "float16": "float16", "int16": "int8", "int8": "int8"}


class Sizes(NamedTuple):
    """Sizes of what is measured: bytes of a copy; a square matrix; T, N and features of the scan; T, N, channels and
    height of the convolution; repeats of the self-check; small numbers of steps; the convolution that tools look at;
    and for training and first calls the network, its batch, many steps and few."""

    copy: int = 1 << 30
    matrix: int = 8192
    scan: tuple[int, int, int] = (64, 128, 128 * 28 * 28)
    conv: tuple[int, int, int, int] = (64, 128, 128, 28)
    repeats: int = 100
    steps: tuple[int, ...] = (1, 4, 16, 64, 256)
    once: tuple[int, int, int, int] = (32, 1, 64, 14)
    net: str = "paper"
    batch: int = 100
    T: int = 64
    few: int = 16


# For a dry run.
TINY = Sizes(
    copy=5_000_000, matrix=64, scan=(8, 2, 1000), conv=(3, 2, 16, 4), repeats=2, steps=(1, 4), once=(3, 2, 16, 4),
    net="small", batch=2, T=3, few=2,
)  # fmt: skip


@torch.no_grad()
def kernels(device: torch.device, sizes: Sizes, time: Callable[[Callable[[], object]], float]) -> Iterator[dict]:
    """A row for each figure. ``limit``: the card's own speed in the same unit, and ``share`` of it.

    ``effective``: TFLOP/s of the dense convolution that the executed products stand for. ``time``: ms of a call.
    """
    copy = copy_speed(device, sizes.copy, time)
    yield figure("copy", copy, "GB/s")
    yield figure("IF scan", scan_speed(device, sizes.scan, time), "GB/s", copy)
    peaks = {}
    for kind in ("float16", "int8"):
        peaks[kind] = matrix_speed(device, sizes.matrix, kind, time)
        yield figure(f"matrix product, {kind}", peaks[kind], "TFLOP/s")
    C, size = sizes.conv[2:]
    for kind, products in WEIGHTS.items():
        name = f"conv {C}->{C} 3x3 at {size}x{size}, {kind} weights"
        effective = convolution_speed(device, sizes.conv, kind, time)
        row = figure(name, products * effective, "TFLOP/s", peaks[PEAK_OF[kind]], effective)
        yield row | {"weights": kind}
    for T in sizes.steps:
        for kind in ("float32", "float16"):
            effective = convolution_speed(device, (T, *sizes.conv[1:]), kind, time)
            value, peak = WEIGHTS[kind] * effective, peaks[PEAK_OF[kind]]
            yield figure(f"the same in {kind}, T = {T}", value, "TFLOP/s", peak, effective) | {"weights": kind}


def figure(name: str, value: float, unit: str, limit: float | None = None, effective: float | None = None) -> dict:
    rounded = {"value": value, "limit": limit, "effective": effective}
    row = {"figure": name, "unit": unit, "share": "" if limit is None else round(value / limit, 3)}
    return row | {key: "" if number is None else round(number, 1) for key, number in rounded.items()}


def flops(shape: tuple[int, int, int, int]) -> int:
    """Floating point operations of the dense convolution of all steps."""
    T, N, C, size = shape
    return 2 * T * N * size**2 * C * 9 * C


def copy_speed(device: torch.device, size: int, time: Callable) -> float:
    """GB/s read and written by a copy of ``size`` bytes."""
    x = torch.zeros(size, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    return 2 * size / time(lambda: y.copy_(x)) / 1e6


def scan_speed(device: torch.device, shape: tuple[int, int, int], time: Callable) -> float:
    """GB/s that the IF scan must move: float32 currents in, a bit a spike out, potentials in and out."""
    T, N, features = shape
    current, v = torch.rand(shape, device=device), torch.zeros(N, features, device=device)
    size = N * features * (4 * T + T / 8 + 8)
    with kernels_alone():
        return size / time(lambda: pk.if_scan(current, v, v_threshold=2.0)) / 1e6


def matrix_speed(device: torch.device, size: int, kind: str, time: Callable) -> float:
    """TFLOP/s of a square matrix product in float16 or int8."""
    if kind == "int8":
        a, b = torch.randint(-9, 9, (2, size, size), dtype=torch.int8, device=device)
        return 2 * size**3 / time(lambda: torch._int_mm(a, b.t())) / 1e9  # by columns, as cuBLASLt wants it
    a, b = torch.randn(2, size, size, device=device, dtype=torch.float16)
    return 2 * size**3 / time(lambda: a @ b) / 1e9


def convolution_speed(device: torch.device, shape: tuple[int, int, int, int], kind: str, time: Callable) -> float:
    """TFLOP/s of the dense convolution that the fused one of spikes at RATE stands for."""
    T, N, C, size = shape
    spikes, _ = pk.if_hold(2 * RATE * torch.rand(N, C, size, size, device=device), T)
    run = layer(kind, torch.randn(C, C, 3, 3, device=device) / (9 * C) ** 0.5)
    with kernels_alone():
        return flops(shape) / time(lambda: run(spikes)) / 1e9
