"""The kinds of cases, how often each is drawn, and the case of a number."""

from random import Random

from .calls import Calls
from .case import Case
from .convolutions import Convolution
from .engine_files import Damaged
from .engine_layers import EngineLayer
from .engines import Compiled, Integers
from .events import Events
from .gradients import LayerGradient, ScanGradient
from .mixtures import Mixture
from .networks import Invariance, Network, Proxy
from .ports import LIBRARIES, Port
from .recurrent import Recurrent
from .recurrent_networks import RecurrentNetwork
from .rounding import Rounding
from .scans import Scan
from .sigma_delta import SigmaDelta, SigmaDeltaPool
from .sigma_delta_engines import SigmaDeltaEngine
from .translations import Translation
from .words import Pool, WordCase

KINDS: dict[str, tuple[type[Case], int]] = {  # and how many of a round's cases are of it
    "convolutions": (Convolution, 10),
    "calls": (Calls, 4),
    "scans": (Scan, 3),
    "scan gradients": (ScanGradient, 1),
    "layer gradients": (LayerGradient, 3),
    "recurrent": (Recurrent, 3),
    "recurrent networks": (RecurrentNetwork, 3),
    "words": (WordCase, 2),
    "events": (Events, 1),
    "pools": (Pool, 2),
    "networks": (Network, 3),
    "engines": (Compiled, 3),
    "integer neurons": (Integers, 2),
    "engine layers": (EngineLayer, 3),
    "engine files": (Damaged, 1),
    "rounding": (Rounding, 1),
    "rounded weights": (Invariance, 1),
    "proxy": (Proxy, 1),
    "tensors": (Mixture, 2),
    "translations": (Translation, 2),
    "sigma-delta": (SigmaDelta, 3),
    "sigma-delta pools": (SigmaDeltaPool, 1),
    "sigma-delta engines": (SigmaDeltaEngine, 2),
}

if LIBRARIES:  # which need not be installed
    KINDS["ports"] = Port, 1


def case(seed: int, number: int, only: str | None, ways: list[str]) -> tuple[str, Case]:
    """The case of a number, and its kind: of a seed always the same."""
    random = Random(f"{seed}/{number}")
    kinds = [only] if only else list(KINDS)
    (kind,) = random.choices(kinds, [KINDS[name][1] for name in kinds])
    common = {
        "way": ways[number % len(ways)],
        "threads": random.choice((1, 1, 1, 2, 3)),
        "seed": random.randint(0, 10_000),
    }
    return kind, KINDS[kind][0].draw(random, **common)
