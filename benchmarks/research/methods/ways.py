"""The ways to a spiking network that compare_methods.py compares, and what of each is chosen on held-out images."""

import shlex
from argparse import Namespace
from dataclasses import dataclass, replace
from functools import partial

import torch
from common import nets
from torch import Tensor, nn
from training import options as train_options

import proxykernels as pk

RATES = (1e-3, 3e-4, 3e-3)  # learning rates that are tried


@dataclass(frozen=True)
class Way:
    """One way.

    Attributes:
        method: of training.methods.COMPARED.
        options: of train.py, after ``--preset plain`` and --T and --batch of the comparison; or a preset, as it is.
        lrs: learning rates to choose from.
        thresholds: to choose from, of the layers but the last.
        starts: initial potentials to choose from, in thresholds of each layer.
        output: the last layer's threshold: "data" (ProxyNet.fit_output_threshold, before the first step), "after" (the
            same before each measurement: training does not use it), or "same" as the others'.
        twin: share of the steps, from the start, in which only the ReLU network is trained.
        convert: options of pk.convert, which makes the spiking network of the trained ReLU network; None: it does not.
        linear_norm: normalisation of the linear layers.
        pool: of common.nets.build. statistics_of: of ProxyNet.
        loss: of STEP_LOSSES, instead of the options'.
        each_step: whether training normalises each step by its own statistics.
    """

    method: str
    options: str = "--reset soft --batch-norm always"
    lrs: tuple[float, ...] = RATES
    thresholds: tuple[float, ...] = (3.0, 1.0)
    starts: tuple[float, ...] = (0.0,)
    output: str = "data"
    twin: float = 0.0
    convert: dict | None = None
    linear_norm: bool = True
    pool: str = "spikes"
    statistics_of: str = "steps"
    loss: str | None = None
    each_step: bool = False


AUTHORS, TWIN_FIRST = "the authors' recipe", "ReLU network, then proxy"
AUTHORS_WAY = Way("proxy", "--preset authors-fashion", (1e-4,), thresholds=(2.0,), output="same", linear_norm=False)
UNROLLED = Way(
    "unrolled", "--T 4 --reset soft --batch-norm always", thresholds=(1.0, 0.5), starts=(0.0, 0.5), output="after"
)
PROXY = Way("proxy")
UNBOUNDED = replace(PROXY, method="unbounded proxy")
REPAIRED = replace(PROXY, starts=(0.5, 0.0), pool="rates", statistics_of="means")
WAYS = {
    "conversion": Way("ann", convert={}, output="same"),
    "qcfs": Way("qcfs", convert={"v_init": 0.5}, output="same"),
    AUTHORS: AUTHORS_WAY,
    f"{AUTHORS} with statistics of each step": replace(AUTHORS_WAY, each_step=True),
    "proxy": REPAIRED,
    "proxy, outputs unbounded": replace(REPAIRED, method=UNBOUNDED.method),
    "proxy, statistics of steps": replace(REPAIRED, method=UNBOUNDED.method, statistics_of="steps"),
    "proxy, spikes pooled": UNBOUNDED,
    "tandem": replace(REPAIRED, method="tandem"),
    TWIN_FIRST: replace(REPAIRED, twin=0.5),
    "bptt": replace(UNROLLED, loss="mean-cross-entropy"),
    "tet": replace(UNROLLED, loss="step-cross-entropy"),
}


@dataclass(frozen=True)
class Settings:
    """What is chosen on held-out images."""

    lr: float
    threshold: float
    start: float


def settings_of(way: Way, options: Namespace, seed: int) -> Namespace:
    """train.py's options of a way."""
    given = f"{way.options} --net {options.net} --seed {seed}"
    if "--preset" not in way.options:  # which says what its authors took
        given = f"--preset plain --T {options.T} --batch {options.batch} {given}"
    parsed = train_options.parse(shlex.split(given))
    parsed.loss = way.loss or parsed.loss
    return parsed


def make(way: Way, settings: Settings, given: Namespace, width: float) -> pk.ProxyNet:
    """The network with random weights, of the seed in ``given``."""
    torch.manual_seed(given.seed)
    v_reset = 0.0 if given.reset == "hard" else None
    make_net = nets.TRAINABLE[given.net]
    net = make_net(settings.threshold, v_reset, width=width, linear_norm=way.linear_norm, pool=way.pool)
    if way.each_step:
        normalise_each_step(net)
    net = net.to(memory_format=torch.channels_last)
    options = {"clip": given.twin == "clipped", "readout": "rate", "statistics_of": way.statistics_of}
    return pk.ProxyNet(net, given.T, **options)


def normalise_each_step(net: nn.Module) -> None:
    """Make batch normalisation use the statistics of each single step, as a loop over the steps does.

    The layers normalise by those of all steps. Running statistics are then updated at each step.
    """
    for layer in net.modules():
        if isinstance(layer, pk.layers.Fused) and layer.bn is not None:
            layer._fire = partial(step_by_step, layer._fire)


def step_by_step(fire, x: Tensor | pk.Spikes, v: Tensor | float | None, batch_statistics: bool):
    """What ``fire`` computes, in training one step after another."""
    if not batch_statistics:
        return fire(x, v, False)
    spikes = []
    for t in range(len(x)):
        y, v = fire(x[t : t + 1], v, True)
        spikes.append(y.dense())
    return pk.pack(torch.cat(spikes)), v
