"""Gestures before an event camera, told by a convolutional and recurrent network: what train_gestures.py does."""

import argparse
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from common import weights_file
from common.command import refusing
from common.machine import heading
from common.tables import check_out, replace, write_csv
from torch import Tensor, nn
from tqdm import tqdm

import proxykernels as pk
from training import hands, sequences
from training.model import stored
from training.sequences import Recordings, Run, Training, cost, learn, recurrent

COLUMNS = [
    "data", "seed", "library", "neurons", "epochs", "recordings", "accuracy", "train_s", "test_s", "rate",
    "million_additions", "arithmetic_uj",
]  # fmt: skip
STEPS_A_SECOND = 1000 / hands.STEP_MS
TEST_GESTURES = 1000
DVS_CLASSES, DVS_SIDE = 11, 128
MAPS = 8, 16  # of the two convolutions
DECAY, READOUT = 0.8, 0.95
THRESHOLD = 0.5


def run(options: argparse.Namespace) -> None:
    with refusing("train_gestures.py"):
        check_out(options.out, {"train_gestures.csv": COLUMNS})
        data, classes = ("made", len(hands.CLASSES)) if options.root is None else ("DVS Gesture", DVS_CLASSES)
        train, test = made(options) if options.root is None else recorded(options)
    torch.set_num_threads(1)
    net = f"convolutions of {MAPS[0]} and {MAPS[1]} maps, {options.neurons} recurrent neurons, of random weights"
    print(heading(net, f"{data} gestures", options.out))
    rows: list[dict] = []
    for seed in range(options.seeds):
        for library in options.libraries:
            row = {"data": data, "seed": seed, "library": library, "neurons": options.neurons}
            rows.append(row | {"epochs": options.epochs} | trained(library, seed, classes, train, test, options))
            tqdm.write(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
            write_csv(options.out / "train_gestures.csv", COLUMNS, rows)


def made(options: argparse.Namespace) -> tuple[Recordings, Recordings]:
    """Gestures to train on and gestures for the test, of different random numbers."""
    drawn = (hands.gestures(options.gestures, options.T, 0), hands.gestures(TEST_GESTURES, options.T, 1))
    train, test = (Recordings(spikes, torch.full([len(labels)], options.T), labels) for spikes, labels in drawn)
    return train, test


def recorded(options: argparse.Namespace) -> tuple[Recordings, Recordings]:
    """DVS Gesture's own split, by tonic, from the folder that has DVSGesture/ibmGestureTrain and ibmGestureTest.

    Raises:
        FileNotFoundError: tonic is not installed, or the folder has no recordings.
    """
    try:
        from tonic.datasets import DVSGesture
    except ModuleNotFoundError as error:
        raise FileNotFoundError("tonic reads DVS Gesture and is missing: pip install tonic") from error
    for name in ("ibmGestureTrain", "ibmGestureTest"):
        folder = options.root / "DVSGesture" / name
        if not any(folder.rglob("*.npy")):
            raise FileNotFoundError(
                f"{folder} has no recordings: tonic.datasets.DVSGesture({str(options.root)!r}) downloads them"
            )
    train, test = (DVSGesture(str(options.root), train=train) for train in (True, False))
    return windows(train, options.T), windows(test, options.T)


def windows(dataset: Iterable[tuple[np.ndarray, int]], steps: int) -> Recordings:
    """All whole windows of so many steps of each recording, at a quarter of the camera's resolution along each side."""
    found, labels = [], []
    for events, label in tqdm(dataset, "events", leave=False, unit="recording"):
        x, y = (events[axis].astype("int64") * hands.SIZE // DVS_SIDE for axis in "xy")
        t = events["t"].astype("int64") - int(events["t"].min())
        spikes = pk.events(t, x, y, events["p"], size=(hands.SIZE, hands.SIZE), dt=1000 * hands.STEP_MS).dense()
        whole = [part for part in spikes.split(steps) if len(part) == steps]
        found += whole
        labels += [int(label)] * len(whole)
    if not found:
        raise ValueError(f"no recording lasts {steps} steps of {hands.STEP_MS} ms; give a smaller --T")
    return Recordings(torch.cat(found, 1).bool(), torch.full([len(labels)], steps), torch.tensor(labels))


def trained(
    library: str, seed: int, classes: int, train: Recordings, test: Recordings, options: argparse.Namespace
) -> dict:
    """Accuracy, processor times and operations of one training."""
    torch.manual_seed(seed)
    net = network(options.neurons, classes)
    how = Training(options.epochs, options.batch, options.lr)
    found = learn(CALLS[library](net), net, train, test, how, f"{library}, seed {seed}")
    if library == "proxykernels":
        about = {"neurons": str(options.neurons), "classes": str(classes), "seed": str(seed)} | found
        file = f"train_gestures{f'-{seed}' * bool(seed)}.safetensors"
        kept = {key: stored(key, value) for key, value in net.state_dict().items()}
        replace(options.out / file, weights_file.content(kept, about))
    return {"recordings": len(test.labels)} | found | cost(net, test, STEPS_A_SECOND)


def network(neurons: int, classes: int) -> nn.Sequential:
    leaky = {"decay": DECAY, "v_threshold": THRESHOLD, "v_reset": None}
    net = nn.Sequential(
        pk.FusedLIFConv2d(2, MAPS[0], 3, padding=1, **leaky), pk.MaxPool2d(2),
        pk.FusedLIFConv2d(*MAPS, 3, padding=1, **leaky), pk.MaxPool2d(2),
        pk.Flatten(),
        *recurrent(MAPS[1] * (hands.SIZE // 4) ** 2, neurons, classes, DECAY, READOUT),
    )  # fmt: skip
    return pk.use_surrogate(net, pk.ATan(2.0))


def in_snntorch(net: nn.Sequential) -> Run:
    """The same network, with the same parameters, in snnTorch; each layer runs all steps before the next begins."""
    import snntorch as snn
    from snntorch import surrogate

    convolutions, rest = (net[0], net[2]), sequences.in_snntorch(net[5:])
    grad = surrogate.atan(2.0)
    lifs = [snn.Leaky(DECAY, THRESHOLD, spike_grad=grad, reset_delay=False) for _ in convolutions]

    def call(spikes: Tensor) -> Tensor:
        x = spikes.float()
        for layer, lif in zip(convolutions, lifs, strict=True):
            v, fired = lif.reset_mem(), []
            for currents in convolved(layer, x):
                now, v = lif(currents, v)
                fired.append(now)
            x = pooled(torch.stack(fired))
        return rest(x.flatten(2))

    return call


def in_spikingjelly(net: nn.Sequential) -> Run:
    """The same in SpikingJelly, all steps of a layer at once."""
    from spikingjelly.activation_based import functional, neuron, surrogate

    convolutions, rest = (net[0], net[2]), sequences.in_spikingjelly(net[5:])
    atan, tau = surrogate.ATan(2.0), 1 / (1 - DECAY)
    lifs = [neuron.LIFNode(tau, False, THRESHOLD, None, atan, step_mode="m") for _ in convolutions]

    def call(spikes: Tensor) -> Tensor:
        x = spikes.float()
        for layer, lif in zip(convolutions, lifs, strict=True):
            functional.reset_net(lif)
            x = pooled(lif(convolved(layer, x)))
        return rest(x.flatten(2))

    return call


def convolved(layer: pk.FusedLIFConv2d, x: Tensor) -> Tensor:
    return F.conv2d(x.flatten(0, 1), layer.weight, layer.bias, padding=1).unflatten(0, x.shape[:2])


def pooled(x: Tensor) -> Tensor:
    return F.max_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])


CALLS = {"proxykernels": lambda net: net, "snntorch": in_snntorch, "spikingjelly": in_spikingjelly}
