"""Time and memory of a converted network: pk.simulate, the step loop, and SpikingJelly in both step modes."""

from functools import partial
from importlib.metadata import version
from importlib.util import find_spec

import torch
from speed.timing import Contender, measure
from torch import Tensor

import proxykernels as pk
from images import network_loop, spikingjelly_network

AT_ONCE = 4  # steps of the multi-step mode: speed/rivals.py


def speed(net: pk.Network, x: Tensor, T: int, repeats: int) -> list[dict]:
    """A row for each: milliseconds a step and image, in turns, and the memory at the peak beyond the network's."""
    contenders = [
        Contender(
            "proxykernels", "pk.simulate", pk.__version__, lambda T: pk.simulate(net, x, T).count(), steady=False
        ),
        Contender(
            "plain", "step loop, channels last, in place", torch.__version__,
            lambda T: network_loop.output_counts(net, x, T),
        ),
    ]  # fmt: skip
    for name, at_once in {"spikingjelly-s": 1, "spikingjelly-m": AT_ONCE}.items() if find_spec("spikingjelly") else ():
        settings = f"IFNode, {at_once} steps at once, channels last"
        run = partial(spikingjelly_network.output_counts, net, x, at_once=at_once)
        contenders.append(Contender(name, settings, version("spikingjelly"), run))
    measured = measure(
        contenders, T, x.device, deadline=0.0, share=1.0, repeats=repeats, progress=lambda what, left: None
    )
    ours = measured[0].median_s
    return [
        {
            "contender": m.contender.name, "settings": m.contender.settings, "T": T,
            "ms_a_step": f"{1e3 * m.median_s / T / len(x):.2f}", "times_ours": f"{m.median_s / ours:.2f}",
            "peak_mb": "" if m.peak_bytes is None else f"{m.peak_bytes / 2**20:.0f}",
            "counts_different": int((m.counts != measured[0].counts).sum()), "repeats": repeats,
        }
        for m in measured
    ]  # fmt: skip
