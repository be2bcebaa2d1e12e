"""A recurrent network on JapaneseVowels, here and in snnTorch: what train_vowels.py does."""

import argparse
import importlib.util
from pathlib import Path

import torch
from common.command import refusing
from common.machine import heading
from common.tables import check_out, write_csv
from torch import nn

import proxykernels as pk
from training.sequences import Recordings, Training, in_snntorch, learn, recurrent

COLUMNS = ["seed", "library", "neurons", "epochs", "accuracy", "train_s", "test_s"]
SPEAKERS, COEFFICIENTS = 9, 12
DECAY, READOUT = 0.9, 0.95


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


def utterances(root: Path | None, split: str) -> Recordings:
    """Frames [T, N, coefficients].

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
    labels = torch.tensor([int(part[-1]) - 1 for part in parts])
    return Recordings(nn.utils.rnn.pad_sequence(series), lengths, labels)


def trained(
    library: str, seed: int, train: Recordings, test: Recordings, options: argparse.Namespace
) -> dict[str, str]:
    """Accuracy and processor times of one training."""
    torch.manual_seed(seed)
    net = network(options.neurons)
    call = net if library == "proxykernels" else in_snntorch(net, reset_delay=library == "snntorch")
    how = Training(options.epochs, options.batch, options.lr, smoothing=0.0, rises=False)
    return learn(call, net, train, test, how, f"{library}, seed {seed}")


def network(neurons: int) -> nn.Sequential:
    net = nn.Sequential(*recurrent(COEFFICIENTS, neurons, SPEAKERS, DECAY, READOUT))
    return pk.use_surrogate(net, pk.ATan(2.0))
