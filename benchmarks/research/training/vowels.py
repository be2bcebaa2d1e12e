"""A recurrent network on JapaneseVowels, here and in snnTorch: what train_vowels.py does."""

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from common.command import refusing
from common.machine import heading
from common.tables import check_out, write_csv
from torch import Tensor, nn

import proxykernels as pk

COLUMNS = ["seed", "library", "neurons", "epochs", "accuracy", "train_s", "test_s"]
SPEAKERS, COEFFICIENTS = 9, 12
DECAY, READOUT = 0.9, 0.95
Run = Callable[[Tensor], Tensor]  # potentials [T, N, speakers] of frames [T, N, coefficients]


def run(options: argparse.Namespace) -> None:
    with refusing("train_vowels.py"):
        check_out(options.out)
        train, test = (utterances(options.root, split) for split in ("TRAIN", "TEST"))
    torch.set_num_threads(1)
    print(heading(f"12-{options.neurons}-9 of random weights", "JapaneseVowels", options.out))
    rows: list[dict] = []
    for seed in range(options.seeds):
        for library in options.libraries:
            row = {"seed": seed, "library": library, "neurons": options.neurons, "epochs": options.epochs}
            rows.append(row | trained(library, seed, train, test, options))
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
            write_csv(options.out / "train_vowels.csv", COLUMNS, rows)


def utterances(root: Path | None, split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Frames [T, N, coefficients], zeros behind the last ones of each; how many there are [N]; and labels [N].

    Raises:
        FileNotFoundError: the file is not there. ValueError: it is another.
    """
    if root is None:
        found = importlib.util.find_spec("aeon")
        if found is None or not found.submodule_search_locations:
            raise FileNotFoundError("JapaneseVowels is not here: run `pip install --no-deps aeon`, or give --root")
        root = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "JapaneseVowels"
    path = root / f"JapaneseVowels_{split}.ts"
    lines = [line for line in path.read_text().splitlines() if line and line[0] not in "#@"]
    parts = [line.split(":") for line in lines]
    if not lines or any(len(part) != COEFFICIENTS + 1 for part in parts):
        raise ValueError(f"{path} is not of JapaneseVowels: its lines must have {COEFFICIENTS} series and a class")
    series = [torch.tensor([[float(v) for v in one.split(",")] for one in part[:-1]]).t() for part in parts]
    lengths = torch.tensor([len(one) for one in series])
    return nn.utils.rnn.pad_sequence(series), lengths, torch.tensor([int(part[-1]) - 1 for part in parts])


def trained(library: str, seed: int, train: tuple, test: tuple, options: argparse.Namespace) -> dict[str, str]:
    """Accuracy and processor times of one training."""
    torch.manual_seed(seed)
    net = network(options.neurons)
    call = net if library == "proxykernels" else in_snntorch(net, library == "snntorch")
    optimizer = torch.optim.Adam(net.parameters(), options.lr)
    (frames, lengths, labels), start = train, time.thread_time()
    for _ in range(options.epochs):
        for batch in torch.randperm(len(labels)).split(options.batch):
            loss = F.cross_entropy(mean(call(frames[:, batch]), lengths[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    seconds, start = (time.thread_time() - start) / options.epochs, time.thread_time()
    with torch.no_grad():
        right = (mean(call(test[0]), test[1]).argmax(1) == test[2]).float().mean().item()
    return {
        "accuracy": f"{right:.4f}",
        "train_s": f"{seconds:.4f}",
        "test_s": f"{time.thread_time() - start:.4f}",
    }


def mean(potentials: Tensor, lengths: Tensor) -> Tensor:
    """The mean over the steps of each utterance, [N, speakers]."""
    there = torch.arange(len(potentials))[:, None] < lengths
    return (potentials * there.unsqueeze(2)).sum(0) / lengths.unsqueeze(1)


def network(neurons: int) -> nn.Sequential:
    recurrent = pk.FusedRecurrentLinear(COEFFICIENTS, neurons, neuron=pk.neurons.LIFNeuron(decay=DECAY, v_reset=None))
    net = nn.Sequential(recurrent, pk.FusedLILinear(neurons, SPEAKERS, decay=READOUT))
    return pk.use_surrogate(net, pk.ATan(2.0))


def in_snntorch(net: nn.Sequential, reset_delay: bool) -> Run:
    """The same network, with the same parameters, in snnTorch. ``reset_delay``: whether it resets a step later."""
    import snntorch as snn
    from snntorch import surrogate

    first, last, neurons = net[0], net[1], net[0].out_features
    lif1 = snn.RLeaky(DECAY, linear_features=neurons, spike_grad=surrogate.atan(2.0), reset_delay=reset_delay)
    lif1.recurrent = nn.Linear(neurons, neurons, bias=False)
    lif1.recurrent.weight = first.recurrent_weight
    lif2 = snn.Leaky(READOUT, reset_mechanism="none")

    def call(frames: Tensor) -> Tensor:
        (spikes, v), readout, potentials = lif1.reset_mem(), lif2.reset_mem(), []
        for frame in frames:
            spikes, v = lif1(F.linear(frame, first.weight, first.bias), spikes, v)
            _, readout = lif2(F.linear(spikes, last.weight, last.bias), readout)
            potentials.append(readout)
        return torch.stack(potentials)

    return call
