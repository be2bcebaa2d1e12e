"""Layers as drop-ins, called on dense tensors of spikes: against a step loop of torch and SpikingJelly."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import proxykernels as pk

from .ops_parts import interleave, times

CHANNELS = 32, 64, 64
SIZE, QUICK_SIZE = 28, 8
RATES = 0.01, 0.05, 0.2
CASES = [
    *((T, N, rate) for T, N in ((16, 1), (64, 1), (16, 32)) for rate in RATES),
    (64, 32, 0.05),  # where the rivals take longest
]
QUICK_CASES = [(4, 2, 0.2)]
THRESHOLD = 1.0
JOBS = {  # job -> what is timed, and how many layers
    "one layer": 1,
    "two layers": 2,
}


def layers() -> list[pk.FusedIFConv2d]:
    """Convolutions whose sums are exact, and which fire."""
    random, made = torch.Generator().manual_seed(0), []
    for C_in, C_out in zip(CHANNELS, CHANNELS[1:], strict=False):
        layer = pk.FusedIFConv2d(C_in, C_out, 3, padding=1, v_threshold=THRESHOLD).eval()
        layer.weight.data.copy_(torch.randint(-12, 14, layer.weight.shape, generator=random) / 64)
        layer.bias.data.zero_()
        made.append(layer)
    return made


def one_case(T: int, N: int, rate: float, rounds: int, size: int) -> Iterator[dict]:
    """A row for each job: medians of ours and of its rivals, dense in, dense out, the output read once by torch."""
    random = torch.Generator().manual_seed(1)
    x = (torch.rand(T, N, CHANNELS[0], size, size, generator=random) < rate).float()
    both = layers()
    with torch.no_grad():
        for job, depth in JOBS.items():
            net = nn.Sequential(*both[:depth])
            rivals = {"loop": step_loop(net)} | spikingjelly(net)
            contenders: dict[str, Callable[[Tensor], Tensor]] = {"ours": net} | rivals
            expected = rivals["loop"](x)
            for name, run in contenders.items():
                if not expected.any() or not torch.equal(run(x), expected):
                    raise AssertionError(
                        f"{name} gives other spikes than the step loop, or none: {job}, {T}, {N}, {rate}"
                    )
            jobs = {name: lambda run=run: run(x).sum() for name, run in contenders.items()}
            packed, y = pk.pack(x), expected
            if depth == 1:
                jobs |= {"pack": lambda: pk.pack(x), "dense": net(packed).dense, "copy": y.clone}
            medians = {name: times(found)["median_ms"] for name, found in interleave(jobs, rounds).items()}
            row = {"job": job, "T": T, "N": N, "rate": rate, "rate_out": round(float(expected.mean()), 4)}
            row |= {
                f"{name}_ms": round(medians[name], 3) if name in medians else ""
                for name in ("ours", "loop", "spikingjelly")
            }
            for name, values in (("pack", x), ("dense", y), ("copy", y)):
                row[f"{name}_gb_s"] = round(values.nbytes / 1e6 / medians[name], 2) if name in medians else ""
            yield row


def step_loop(net: nn.Sequential) -> Callable[[Tensor], Tensor]:
    """What users write: torch's convolutions step by step, potentials updated in place, channels last."""
    convolutions = [layer.synapse(layer).plain().to(memory_format=torch.channels_last) for layer in net]

    def run(x: Tensor) -> Tensor:
        potentials: list[Tensor | None] = [None] * len(convolutions)
        steps = []
        for spikes in x:
            for k, convolution in enumerate(convolutions):
                current, v = convolution(spikes), potentials[k]
                v = potentials[k] = current if v is None else v.add_(current)
                fires = v >= THRESHOLD
                v.masked_fill_(fires, 0.0)
                spikes = fires.float()
            steps.append(spikes)
        return torch.stack(steps)

    return run


def spikingjelly(net: nn.Sequential) -> dict[str, Callable[[Tensor], Tensor]]:
    """Its multi-step mode; nothing where it is not installed."""
    try:
        from spikingjelly.activation_based import functional, layer, neuron
    except ImportError:
        return {}
    modules = []
    for ours in net:
        convolution = layer.Conv2d(ours.in_channels, ours.out_channels, 3, padding=1, step_mode="m")
        convolution.load_state_dict({"weight": ours.weight, "bias": ours.bias})
        modules += [convolution, neuron.IFNode(v_threshold=THRESHOLD, v_reset=0.0, step_mode="m")]
    theirs = nn.Sequential(*modules).eval()

    def run(x: Tensor) -> Tensor:
        functional.reset_net(theirs)
        return theirs(x)

    return {"spikingjelly": run}
