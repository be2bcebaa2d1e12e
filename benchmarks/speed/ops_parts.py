"""Two measurements of ops_speed.py: firing rates and shapes.

Rivals and kernels take turns within each round, so that a slow moment of the machine hits all of them alike. Before a
case is timed, its kernels must give the same spikes and potentials as the dense path, on weights whose sums are exact.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

import proxykernels as pk
from proxykernels.kernels import cpu
from proxykernels.kernels.neuron_models import Neuron, if_neuron
from proxykernels.kernels.recording import recording
from speed.ops_cases import Data, Shape, row_adds

KERNELS = "plan", "dense"  # that can be forced: a plan of one operation; torch's convolution and a scan
ROW = 16  # output channels of a row of float weights
CHOSEN, FP32, BF16 = "chosen", "torch fp32", "torch bf16"
LEAST_S = 0.005  # shorter calls are timed several at once
PEAK_RUNS = 7
SPREAD = ["median_ms", "min_ms", "max_ms"]
LOST = 0.9  # of the rival's speed: a kernel that is slower than that was the wrong choice


class Kernel:
    """The kernels of an instruction set with one of them forced, or free to choose (None).

    Attributes:
        taken: the kernel that the last call took.
    """

    def __init__(self, target: str | None, forced: str | None):
        self.forced, self.taken = forced, None
        self._kernels = cpu.load(target, forced)

    def pack(self, dense: Tensor) -> Tensor:
        return self._kernels.pack(dense.flatten(3))

    def run(self, shape: Shape, words: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Packed spikes and potentials, from rest, threshold 1, hard reset to 0."""
        v = torch.zeros(shape.N, math.prod(shape.out), shape.C_out)
        window = ((shape.stride,) * 2, (shape.padding,) * 2, (shape.dilation,) * 2)
        size = shape.size, shape.size
        neuron = _neuron(shape.C_out)
        with recording() as choices:
            result = self._kernels.if_conv2d(words, shape.T, size, weight, None, v, neuron, *window, shape.groups)
        self.taken = self.forced or str(choices[-1].kernel)
        return result


def _neuron(C_out: int) -> Neuron:
    return if_neuron(torch.ones(C_out), 0.0)


def interleave(contenders: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Seconds a call in each round; the order rotates from round to round."""
    calls, seconds, names = {}, {name: [] for name in contenders}, list(contenders)
    for name, run in contenders.items():
        run()  # packs weights, takes memory
        calls[name] = min(1000, max(1, math.ceil(LEAST_S / _seconds(run, 1))))
    for turn in range(rounds):
        for index in range(len(names)):
            name = names[(turn + index) % len(names)]
            seconds[name].append(_seconds(contenders[name], calls[name]))
    return seconds


def _seconds(run: Callable, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def times(seconds: list[float]) -> dict:
    """The columns of SPREAD, and how many rounds."""
    values = zip(SPREAD, (median(seconds), min(seconds), max(seconds)), strict=True)
    return {**{name: round(1000 * value, 4) for name, value in values}, "rounds": len(seconds)}


def peak(size: int) -> float:
    """GMAC/s of an fp32 matrix product by torch, the best of several: if large, near the peak of the multiply-adds."""
    a, b = torch.randn(2, size, size)
    torch.mm(a, b)
    return size**3 / 1e9 / min(_seconds(lambda: torch.mm(a, b), 1) for _ in range(PEAK_RUNS))


def check(shape: Shape, name: str, found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """End the program if spikes (packed) or potentials differ."""
    bits = (found[0] ^ expected[0]).view(-1)
    differ = int(torch.stack([bits >> i & 1 for i in range(8)]).sum(dtype=torch.int64))
    if differ or not torch.equal(found[1], expected[1]):
        sys.exit(
            f"{name} is wrong on {shape}, T = {shape.T}, N = {shape.N}, rate {shape.rate:.0%}: {differ} spikes differ "
            f"from the dense path's, potentials {'too' if differ else 'differ'}. Nothing was written"
        )


def torch_currents(shape: Shape, dense: Tensor, weight: Tensor, dtype: torch.dtype) -> Callable[[], Tensor]:
    """torch's own convolution of all steps; spikes and weights are unpacked and in its favourite order beforehand."""
    images = dense.flatten(0, 1).to(dtype)
    if shape.linear:
        images, matrix = images.flatten(1), weight.flatten(1).to(dtype)
        return lambda: F.linear(images, matrix)
    images = images.contiguous(memory_format=torch.channels_last)
    weight = weight.to(dtype, memory_format=torch.channels_last)
    return lambda: F.conv2d(images, weight, None, shape.stride, shape.padding, shape.dilation, shape.groups)


# Firing rates


def rates(shape: Shape, rounds: int, peak_gmac: float, macs_a_cycle: int) -> Iterator[dict]:
    """Each kernel forced, the chosen one, and torch's convolution (without IF), at the shape's firing rate."""
    data = Data.of(shape)
    kernels = {name: Kernel(None, name) for name in KERNELS}
    kernels[CHOSEN] = Kernel(None, None)
    words = kernels[CHOSEN].pack(data.dense)
    expected = kernels["dense"].run(shape, words, data.dyadic)
    for name, kernel in kernels.items():
        check(shape, name, kernel.run(shape, words, data.dyadic), expected)
    contenders = {FP32: torch_currents(shape, data.dense, data.weight, torch.float32)}
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        contenders[BF16] = torch_currents(shape, data.dense, data.weight, torch.bfloat16)
    for name, kernel in kernels.items():
        contenders[name] = lambda kernel=kernel: kernel.run(shape, words, data.weight)
    threads = torch.get_num_threads()
    clock = peak_gmac / macs_a_cycle / threads  # GHz
    adds = {"plan": row_adds(shape, data.dense, ROW)}
    for name, seconds in interleave(contenders, rounds).items():
        cycles = median(seconds) * clock * 1e9 * threads
        yield {
            "kernel": name,
            "taken": kernels[name].taken if name in kernels else "",
            **times(seconds),
            "gmac_s": round(shape.gmac / median(seconds), 3),
            "cycles_row_add": round(cycles / max(adds[name], 1), 3) if name in adds else "",
            "clock_ghz": round(clock, 3),
            "peak_gmac_s": round(peak_gmac, 1),
        }


# Shapes


def one_shape(shape: Shape, rounds: int) -> dict:
    """The public path with the kernel that it chooses, against torch's convolution and this library's scan."""
    data = Data.of(shape)
    kernel = Kernel(None, None)
    words = kernel.pack(data.dense)
    kernel.run(shape, words, data.weight)
    chosen = kernel.taken
    spikes, v = rival(shape, data.dense, data.dyadic)()
    expected = kernel.pack(spikes.dense(torch.bool).view(shape.T, shape.N, shape.C_out, *shape.out)), v
    found, v_found = kernel.run(shape, words, data.dyadic)
    check(shape, chosen, (found, v_found.transpose(1, 2).reshape(v.shape)), expected)
    contenders = {"ours": ours(shape, data.dense, data.weight), "rival": rival(shape, data.dense, data.weight)}
    seconds = interleave(contenders, rounds)
    ratio = round(median(seconds["rival"]) / median(seconds["ours"]), 3)
    return {
        "kernel": chosen,
        **{f"{who}_{name}": times(own)[name] for who, own in seconds.items() for name in SPREAD},
        "rounds": rounds,
        "ratio": ratio,
        "lost": ratio < LOST,
    }


def ours(shape: Shape, dense: Tensor, weight: Tensor) -> Callable:
    if shape.linear:
        spikes, matrix = pk.pack(dense.flatten(2)), weight.flatten(1)
        return lambda: pk.if_linear(spikes, matrix)
    spikes = pk.pack(dense)
    window = {name: getattr(shape, name) for name in ("stride", "padding", "dilation", "groups")}
    return lambda: pk.if_conv2d(spikes, weight, **window)


def rival(shape: Shape, dense: Tensor, weight: Tensor) -> Callable:
    currents = torch_currents(shape, dense, weight, torch.float32)
    return lambda: pk.if_scan(currents().unflatten(0, (shape.T, shape.N)))
