"""Damaged files of engines: refused in one sentence, or the same engine; with a valid checksum, one that runs."""

import json
import os
import tempfile
import warnings
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from random import Random

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import proxykernels as pk
from proxykernels.plan.file import checksum
from proxykernels.plan.follow import follow
from proxykernels.plan.follow_sigma_delta import follow_changes
from proxykernels.plan.plan import Plan
from proxykernels.running.engine import Engine

from . import draw, ways
from .case import Case, Mismatch
from .graphs import UNIT, Graph
from .models import Drawn
from .networks import Input
from .translations import SIZES

VALUES = None, True, -1, 0, 1, 2, 3, 7, 1 << 31, 1 << 40, 0.5, 1e300, "", "neurons", "move", "flatten", [], {}, [1, 1]
KINDS = *VALUES, "changes of the input", "sigma-delta", "sigma-delta maxima", "sum of changes"
MOST_RUN = 4000  # values of a sample, of an engine that is run


@dataclass(frozen=True, kw_only=True)
class Damaged(Input, Case):
    """The file of a random engine, damaged so often."""

    damages: int = 1
    plain: bool = True
    changes: bool = False  # of sigma-delta neurons

    @classmethod
    def draw(cls, random: Random, **common) -> "Damaged":
        return cls(**common, **cls.draw_input(random), plain=random.random() < 0.5, damages=20,
                   changes=random.random() < 0.4)  # fmt: skip

    def check(self) -> bool:
        try:
            plan = self.plan()
        except (TypeError, ValueError):  # convert or the engine does not take the network
            return False
        ways.executed[ways.TARGETS[-1], "engine"] += 1
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "engine")
            Engine(plan).save(path)
            with open(path, "rb") as file:
                whole = file.read()
            for k in range(self.damages):
                random = Random(f"{self.seed}/{k}")
                if random.random() < 0.5:
                    self.check_bytes(path, whole, damaged(random, whole))
                else:
                    self.check_hostile(path, whole, random)
        return True

    def plan(self) -> Plan:
        g = draw.generator(self.seed)
        if self.changes:
            random = Random(self.seed)
            size = random.choice(SIZES)
            x = torch.rand(6, *size, generator=g)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                neuron = random.choice(("sigma-delta", pk.neurons.Graded(0.1)))
                net = pk.convert(Drawn(random.randint(1, 6), self.seed, x), x, neuron=neuron)
            return follow_changes(net, size, None if neuron == "sigma-delta" else random.choice((None, "int8")))
        x = (draw.whole(self.shape, 4, g) * UNIT).expand(6, *self.shape)
        return follow(Graph(self.layers, self.seed, self.plain).build(x), tuple(self.shape[1:]), True)

    def check_bytes(self, path: str, whole: bytes, changed: bytes) -> None:
        write(path, changed)
        engine = loaded(path)
        if engine is not None:
            engine.save(path)
            with open(path, "rb") as file:
                if file.read() != whole:
                    raise Mismatch("a damaged file is another engine")

    def check_hostile(self, path: str, whole: bytes, random: Random) -> None:
        """What is damaged has a checksum that says it is not."""
        write(path, whole)
        with safe_open(path, "pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - it is no dict
        plan = json.loads(about["plan"])
        for _ in range(random.choice((1, 1, 2))):
            if random.random() < 0.3:
                name = random.choice(sorted(tensors))
                tensors[name] = other(random, tensors[name])
            else:
                change(random, plan)
        about["plan"] = json.dumps(plan)
        about["checksum"] = checksum(about["plan"], tensors)
        save_file(tensors, path, about)
        engine = loaded(path)
        if engine is not None and prod(engine.plan.shape) <= MOST_RUN:
            held = engine.inputs.takes_floats
            engine(torch.ones(2, *[2] * (not held), *engine.plan.shape, dtype=torch.float32 if held else torch.bool), 2)


def write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def loaded(path: str) -> Engine | None:
    """None: it is refused, by one sentence that names it."""
    try:
        return pk.load(path)
    except ValueError as error:
        if path not in str(error) or "\n" in str(error):
            raise Mismatch(f"refused in other words: {error}") from None
        return None


def damaged(random: Random, whole: bytes) -> bytes:
    """Bytes are flipped, lost, added, exchanged, or cut off; half of the time in the header."""
    content = bytearray(whole)
    end = len(content) if random.random() < 0.5 else min(len(content), 8 + int.from_bytes(whole[:8], "little"))
    first, last = sorted(random.sample(range(end + 1), 2))
    kind = random.choice(("bits", "bits", "cut", "lost", "added", "exchanged", "zeros", "longer"))
    if kind == "bits":
        for place in random.sample(range(end), min(end, random.choice((1, 1, 4)))):
            content[place] ^= 1 << random.randrange(8)
    elif kind == "cut":
        del content[random.choice((first, len(content) - 1)) :]
    elif kind == "lost":
        del content[first : min(last, first + random.choice((1, 8, 1000)))]
    elif kind == "added":
        content[first:first] = random.randbytes(random.choice((1, 8, 1000)))
    elif kind == "exchanged":
        size = min(last - first, end - last)
        content[first : first + size], content[last : last + size] = (
            content[last : last + size],
            content[first : first + size],
        )
    elif kind == "zeros":
        content[first:last] = bytes(last - first)
    else:
        content += random.randbytes(9)
    return bytes(content)


def other(random: Random, tensor: Tensor) -> Tensor:
    """A tensor of another type, shape or value."""
    kind = random.choice(("type", "shape", "value", "order"))
    if kind == "type":
        return tensor.to(random.choice((torch.float64, torch.int32, torch.int64, torch.float16, torch.float32)))
    if kind == "shape":
        shape = [max(0, n + random.choice((-1, 0, 1))) for n in tensor.shape] or [2]
        return torch.zeros(shape, dtype=tensor.dtype)
    if kind == "order":
        return tensor.flatten().flip(0).view(tensor.shape)
    if tensor.numel():
        whole = (-2, -1, 127 if tensor.dtype == torch.int8 else 1 << 40, 0)
        values = (float("nan"), float("inf"), -1, 0, 3e38) if tensor.is_floating_point() else whole
        tensor.view(-1)[random.randrange(tensor.numel())] = random.choice(values)
    return tensor


def change(random: Random, plan) -> None:
    """Puts another value somewhere in a description, or leaves one out."""
    place = plan
    while True:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = random.choice(list(keys))
        if not isinstance(place[key], dict | list) or not place[key] or random.random() < 0.1:
            break
        place = place[key]
    if random.random() < 0.1:
        del place[key]
    elif isinstance(place[key], int) and random.random() < 0.5:
        place[key] = int(place[key]) + random.choice((-1, 1, 2))
    else:
        place[key] = deepcopy(random.choice(KINDS))
