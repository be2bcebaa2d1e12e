"""Spoken digits as a model of the cochlea hears them, told by a recurrent network: what train_digits.py does."""

import argparse
import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from common import weights_file
from common.command import refusing
from common.machine import heading
from common.tables import check_out, replace, write_csv
from torch import Tensor, nn
from tqdm import tqdm

import proxykernels as pk
from proxykernels.samples import cochlea
from training.model import stored
from training.sequences import CALLS, Recordings, Training, cost, learn, recurrent

COLUMNS = [
    "test", "seed", "library", "neurons", "epochs", "recordings", "accuracy", "train_s", "test_s",
    "rate", "million_additions", "arithmetic_uj",
]  # fmt: skip
RATE, DIGITS = 8000, 10
USUAL, FIRST = "usual", 5  # the data set's own split: of each speaker and digit the first recordings are for the test
STEPS = 100  # of 10 ms, at most; what is longer is cut
AFTER = 10  # steps of silence behind a recording, in which the network hears its end
DECAY, READOUT = 0.9, 0.97


class Sound(NamedTuple):
    digit: int
    speaker: str
    number: int
    samples: Tensor  # from -1 to 1


def run(options: argparse.Namespace) -> None:
    with refusing("train_digits.py"):
        check_out(options.out, {"train_digits.csv": COLUMNS})
        sounds = read(options.root)
        speakers = sorted({sound.speaker for sound in sounds})
        if unknown := [name for name in options.test if name not in (USUAL, *speakers)]:
            raise ValueError(f"--test must be of {USUAL}, {', '.join(speakers)}, got {unknown[0]}")
    torch.set_num_threads(1)
    print(heading(f"{2 * cochlea.BANDS}-{options.neurons}-10 of random weights", "spoken digits", options.out))
    rows: list[dict] = []
    for test in options.test:
        kept = [sound for sound in sounds if is_test(sound, test)]
        others = [sound for sound in sounds if not is_test(sound, test)]
        heard, unheard = recordings(heard_as(others, options.copies)), recordings(kept)
        for seed in range(options.seeds):
            for library in options.libraries:
                row = {"test": test, "seed": seed, "library": library, "neurons": options.neurons}
                rows.append(row | {"epochs": options.epochs} | trained(library, seed, heard, unheard, options))
                tqdm.write(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
                write_csv(options.out / "train_digits.csv", COLUMNS, rows)


def read(folder: Path) -> list[Sound]:
    """The recordings of the Free Spoken Digit Dataset, 7_jackson_32.wav for example.

    Raises:
        FileNotFoundError: there are none. ValueError: one has another name or format.
    """
    paths = sorted(folder.glob("*.wav")) or sorted(folder.glob("recordings/*.wav"))
    if not paths:
        raise FileNotFoundError(
            f"{folder} has no .wav files: git clone https://github.com/Jakobovski/free-spoken-digit-dataset, and give "
            "--root free-spoken-digit-dataset"
        )
    return [sound_of(path) for path in paths]


def sound_of(path: Path) -> Sound:
    parts = path.stem.split("_")
    if len(parts) != 3 or not (parts[0].isdigit() and int(parts[0]) < DIGITS and parts[2].isdigit()):
        raise ValueError(f"{path.name} must be named DIGIT_SPEAKER_NUMBER.wav")
    try:
        with wave.open(str(path)) as file:
            form = file.getnchannels(), file.getsampwidth(), file.getframerate()
            content = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if form != (1, 2, RATE) or len(content) < 2 * RATE // cochlea.STEPS_A_SECOND:
        raise ValueError(f"{path} must have one channel of 16 bits and {RATE} samples a second, and 10 ms at least")
    samples = torch.from_numpy(np.frombuffer(content, "<i2") / np.float32(1 << 15))
    return Sound(int(parts[0]), parts[1], int(parts[2]), samples)


def is_test(sound: Sound, test: str) -> bool:
    return sound.number < FIRST if test == USUAL else sound.speaker == test


def heard_as(sounds: list[Sound], copies: int) -> list[Sound]:
    """Each sound as it is, and ``copies`` times otherwise: faster or slower, louder or softer, later, in noise."""
    draw = np.random.default_rng(0)
    return [*sounds, *(varied(sound, draw) for _ in range(copies) for sound in sounds)]


def varied(sound: Sound, draw: np.random.Generator) -> Sound:
    samples = sound.samples.numpy()
    faster = draw.uniform(0.85, 1.15)
    samples = np.interp(np.arange(0, len(samples) - 1, faster), np.arange(len(samples)), samples)
    samples = np.pad(samples * 10 ** draw.uniform(-0.6, 0.3), (draw.integers(RATE // 5), 0))
    noisy = samples + draw.normal(0, 10 ** draw.uniform(-4, -2.5), len(samples))
    return sound._replace(samples=torch.from_numpy(noisy.clip(-1, 1).astype(np.float32)))


def recordings(sounds: list[Sound]) -> Recordings:
    spikes = torch.zeros(STEPS, len(sounds), 2 * cochlea.BANDS, dtype=torch.bool)
    lengths = torch.zeros(len(sounds), dtype=torch.int64)
    for k, sound in enumerate(tqdm(sounds, "cochlea", leave=False, unit="recording")):
        silence = torch.zeros(AFTER * RATE // cochlea.STEPS_A_SECOND)
        heard = pk.samples.cochlea_spikes(torch.cat([sound.samples, silence]), RATE)[:STEPS, 0]
        spikes[: len(heard), k], lengths[k] = heard, len(heard)
    return Recordings(spikes, lengths, torch.tensor([sound.digit for sound in sounds]))


def trained(library: str, seed: int, heard: Recordings, unheard: Recordings, options: argparse.Namespace) -> dict:
    """Accuracy, processor times and operations of one training."""
    torch.manual_seed(seed)
    net = network(options.neurons)
    how = Training(options.epochs, options.batch, options.lr)
    found = learn(CALLS[library](net), net, heard, unheard, how, f"{library}, seed {seed}")
    if library == "proxykernels":
        about = {"neurons": str(options.neurons), "seed": str(seed)}
        file = f"train_digits{f'-{seed}' * bool(seed)}.safetensors"
        kept = {key: stored(key, value) for key, value in net.state_dict().items()}
        replace(options.out / file, weights_file.content(kept, about))
    return {"recordings": len(unheard.labels)} | found | cost(net, unheard, cochlea.STEPS_A_SECOND)


def network(neurons: int) -> nn.Sequential:
    net = nn.Sequential(*recurrent(2 * cochlea.BANDS, neurons, DIGITS, DECAY, READOUT))
    return pk.use_surrogate(net, pk.ATan(2.0))
