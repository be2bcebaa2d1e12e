"""Recurrent neurons against a step loop and other libraries: what recurrent_speed.py does."""

import argparse
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from common.checkout import RESULTS, commit
from common.command import refusing
from common.machine import device_name, heading
from common.memory import PeakMemory
from common.tables import check_out, write_csv
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import proxykernels as pk
from speed import recurrent_page
from speed.recurrent_rivals import Loop, jax, norse, numba, snntorch

COLUMNS = [
    "case", "batch", "T", "work", "contender", "ms", "times", "first_ms", "memory", "peak", "rate", "device", "torch",
    "commit",
]  # fmt: skip
NEURONS, RATE, STEPS, BATCH = 1024, 0.05, {"layer": 1000, "braille": 256}, 64
UNIT = 2.0**-20  # of weights: sums are exact, and weights too long for the short rows that layers keep exact ones in
INT8, TWO = "proxykernels, engine, int8", ", two threads"
# Whose neurons reset otherwise; which may round a product and its sum as one; whose weights are rounded.
OTHERS = "snnTorch", "Norse", "JAX", INT8, INT8 + TWO
Work = dict[str, Callable[[], Tensor]]  # contender -> what gives its spikes


def run(options: argparse.Namespace) -> None:
    with refusing("recurrent_speed.py"):
        check_out(options.out)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(heading("recurrent neurons of random weights", "random spikes", options.out))
    about = {"device": device_name(torch.device("cpu")), "torch": torch.__version__, "commit": commit()}
    rows: list[dict] = []
    for case in options.cases:
        T = options.steps or STEPS[case]
        for row in {"layer": layer, "braille": braille}[case](T, options.rounds):
            rows.append({"case": case, "T": T} | row | about)
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items() if value != ""))
            write_csv(options.out / "recurrent_speed.csv", COLUMNS, rows)
    if options.out.resolve() == RESULTS.resolve() and not commit().endswith("-dirty"):
        recurrent_page.update()


def layer(T: int, rounds: int) -> Iterator[dict]:
    """1,024 neurons, one sample and 64."""
    net = pk.FusedRecurrentLinear(NEURONS, NEURONS, neuron=pk.neurons.LIFNeuron(decay=0.9))
    for batch in (1, BATCH):
        x = (torch.rand(T, batch, NEURONS) < RATE).float()
        spikes = pk.pack(x)
        with torch.no_grad():
            if batch == 1:
                net.recurrent_weight *= 0.5
                make_exact(net)
                tune(net, spikes)
            engine, short = (pk.compile(net, spikes, precision=precision) for precision in (None, "int8"))
            loop, rivals = Loop(net), {"numba": numba(net), "JAX": jax(net)}
            contenders: Work = {
                "proxykernels": lambda spikes=spikes: net(spikes).dense(),
                "proxykernels, engine": lambda engine=engine, spikes=spikes: engine(spikes, T).spikes.dense(),
                INT8: lambda short=short, spikes=spikes: short(spikes, T).spikes.dense(),
                "step loop": lambda loop=loop, x=x: loop(x),
                **{name: lambda rival=rival, x=x: rival(x) for name, rival in rivals.items() if rival is not None},
            }
            shared = {name + TWO: contenders[name] for name in ("proxykernels", "proxykernels, engine", INT8)}
            yield from compared(contenders | shared, rounds, "forward", batch)
    x = x[:, :1]
    spikes = pk.pack(x)
    pk.use_surrogate(net, pk.ATan(2.0))
    trained: Work = {"proxykernels": lambda: net(spikes).count(), "step loop": lambda: loop(x, surrogate=True).sum(0)}
    steps = {name: training(net, run) for name, run in trained.items()}
    memory = {name: {"memory": kept(net, run), "peak": peak(net, steps[name])} for name, run in trained.items()}
    for row in compared(steps, rounds, "training", 1):
        yield row | memory[row["contender"]]


def braille(T: int, rounds: int) -> Iterator[dict]:
    """12-38-7, as in NIR's paper."""
    neurons = [pk.neurons.CubaLIFNeuron(decay=beta, current_decay=alpha) for beta, alpha in ((0.9, 0.55), (0.55, 0.5))]
    net = nn.Sequential(pk.FusedRecurrentLinear(12, 38, neuron=neurons[0]), pk.FusedLinear(38, 7, neuron=neurons[1]))
    with torch.no_grad():
        make_exact(net.eval())
    for batch in (1, BATCH):
        x = (torch.rand(T, batch, 12) < 0.2).float()
        spikes = pk.pack(x)
        with torch.no_grad():
            tune(net[0], spikes)
            tune(net[1], net[0](spikes))
        loops, rivals = [Loop(part) for part in net], {"snnTorch": snntorch(net), "Norse": norse(net)}
        contenders: Work = {
            "proxykernels": lambda spikes=spikes: pk.simulate(net, spikes, T).spikes.dense(),
            "step loop": lambda loops=loops, x=x: loops[1](loops[0](x)),
            **{name: lambda rival=rival, x=x: rival(x) for name, rival in rivals.items() if rival is not None},
        }
        with torch.no_grad():
            yield from compared(contenders, rounds, "forward", batch)


def tune(net: pk.FusedRecurrentLinear | pk.FusedLinear, x: pk.Spikes) -> None:
    """The bias with which neurons fire in RATE of the steps."""
    low, high = -1.0, 3.0
    for _ in range(14):
        net.bias.fill_(round((low + high) / 2 / UNIT) * UNIT)
        rate = net.eval()(x).count().float().mean().item() / len(x)
        low, high = (low, (low + high) / 2) if rate > RATE else ((low + high) / 2, high)


def make_exact(net: nn.Module) -> None:
    """Round weights so that all sums are exact: else spikes differ by the order of sums, and soon by all they cause."""
    for parameter in net.parameters():
        parameter.copy_((parameter / UNIT).round() * UNIT)


def training(net: nn.Module, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A step of training by ``run``, with the mean square of what it gives as the loss."""

    def step() -> Tensor:
        net.zero_grad(set_to_none=True)
        y = run()
        F.mse_loss(y, torch.ones_like(y)).backward()
        return y.detach()

    return step


def kept(net: nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes of all tensors that a forward pass saves for the backward pass, except the network's own."""
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        y = run()
    del y
    return sum(saved.values())


def peak(net: nn.Module, step: Callable[[], Tensor]) -> int | None:
    """Bytes by which a step of training grows at its peak, beyond the gradients that it gives; None: not known here."""
    step()  # makes what stays, such as packed weights
    net.zero_grad(set_to_none=True)
    with PeakMemory(torch.device("cpu")) as memory:
        step()
    given = sum(parameter.grad.nbytes for parameter in net.parameters() if parameter.grad is not None)
    return None if memory.growth_bytes is None else max(0, memory.growth_bytes - given)


def compared(contenders: Work, rounds: int, work: str, batch: int) -> Iterator[dict]:
    """A row for each, in turn round after round, twice each; all but other libraries' must fire alike."""
    given = {name: run().float() for name, run in contenders.items()}
    least, first = (dict.fromkeys(contenders, float("inf")) for _ in range(2))
    for _ in range(rounds):
        for name, run in contenders.items():
            clock = time.perf_counter if name.endswith(TWO) else time.process_time
            torch.set_num_threads(2 if name.endswith(TWO) else 1)
            for found in (first, least):
                start = clock()
                run()
                found[name] = min(found[name], clock() - start)
    torch.set_num_threads(1)
    own = given["proxykernels"]
    for name, seconds in least.items():
        if name not in OTHERS and not torch.equal(given[name], own):
            raise AssertionError(f"{name} gives other spikes")
        times = f"{seconds / least['proxykernels']:.2f}"
        steps = own.numel() if own.ndim == 3 else 0
        rate = f"{given[name].sum().item() / steps:.4f}" if steps else ""
        yield {
            "batch": batch,
            "work": work,
            "contender": name,
            "ms": f"{1e3 * seconds:.3f}",
            "times": times,
            "first_ms": f"{1e3 * first[name]:.3f}",
            "rate": rate,
        }
