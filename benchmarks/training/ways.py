"""Ways to a trained spiking network within a budget of CPU time, from the same random weights: compare_methods.py."""

import argparse
import time

import torch
from common import nets
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

import proxykernels as pk
from training import loop
from training import options as train_options
from training.conversion import calibration, converted, relu_network

CONVERSION, CLIPPED, TUNED, SOFT = "conversion", "clipped conversion", "tuned conversion", "proxy, soft reset"
TUNING = 0.3  # of the highest learning rate: of weights that are trained already
# pk.convert's options, by their names in the tables: from what Diehl et al. (2015) did to the default.
REMEDIES = {
    "converted, max": {"method": "max", "v_init": 0.0},
    "converted, max, half a threshold to start": {"method": "max", "v_init": 0.5},
    "converted, percentile, half a threshold to start": {"v_init": 0.5},
    "converted, calibrated": {},
}


def train(
    options: argparse.Namespace, minutes: float, seed: int, dataset: Dataset
) -> tuple[dict[str, nn.Module], int, float]:
    """Train until the time is spent; returns the networks, by name, the steps, and the CPU seconds that they took."""
    torch.manual_seed(seed)
    budget = 60 * minutes
    decay = options.decay if options.neuron == "lif" else None
    v_reset = None if options.method == SOFT else 0.0
    net = nets.TRAINABLE[options.net](1.0, v_reset, decay=decay, width=options.width)
    net.to(memory_format=torch.channels_last)
    model = pk.ProxyNet(net, options.T, clip=options.method != CONVERSION, readout="rate")
    if options.method not in (CONVERSION, CLIPPED, TUNED):
        method = "proxy" if options.method == SOFT else options.method
        steps, seconds = train_for(options, method, options.lr, seed, model, dataset, budget)
        return {options.method: net.eval()}, steps, seconds
    share = 0.5 if options.method == TUNED else 1.0
    steps, seconds = train_for(options, "ann", options.lr, seed, model, dataset, share * budget)
    images = calibration(dataset)
    if options.method == CONVERSION:
        ann = relu_network(model)
        return {name: pk.convert(ann, images, **remedy) for name, remedy in REMEDIES.items()}, steps, seconds
    net = converted(model, images)
    if options.method == CLIPPED:
        return {CLIPPED: net}, steps, seconds
    tuned = pk.ProxyNet(net, options.T, clip=True, readout="rate")
    more = train_for(options, "proxy", TUNING * options.lr, seed, tuned, dataset, (1 - share) * budget)
    return {TUNED: tuned.net.eval()}, steps + more[0], seconds + more[1]


def train_for(
    options: argparse.Namespace, method: str, lr: float, seed: int, model: pk.ProxyNet, dataset: Dataset, budget: float
) -> tuple[int, float]:
    """Train for ``budget`` seconds of CPU time; returns the steps, at least one, and the seconds."""
    given = ["--preset", "plain", "--T", str(options.T), "--batch", str(options.batch), "--seed", str(seed)]
    settings = train_options.parse(given)
    start = time.process_time()

    def spent() -> float:
        return time.process_time() - start

    training = loop.steps(settings, method, lr, model, dataset, lambda: min(1.0, spent() / budget))
    with tqdm(total=round(budget), desc=f"{options.method}, seed {seed}", unit="s", mininterval=0.5) as bar:
        for step, shown in enumerate(training, 1):
            bar.set_postfix({key: f"{value:.3g}" for key, value in shown.items()}, refresh=False)
            bar.update(min(round(spent()), bar.total) - bar.n)
            if spent() >= budget:
                return step, spent()
