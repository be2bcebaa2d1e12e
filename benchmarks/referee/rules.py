"""What simulators read differently in the equations of NIR, one question each. The first answer is the definition's."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

ANSWERS = {
    "decay": ("Euler", "exponential"),
    "current": ("new", "old"),
    "reset": ("now", "a step later"),
    "resets": ("to v_reset", "by subtraction"),
    "spikes": ("one a step", "several a step"),
    "fires": (">=", ">"),
    "start": ("at v_leak", "at 0"),
    "output": ("now", "a step later"),
    "dt": ("as given", "1"),
    "input": ("times r dt / tau", "as it is"),
    "floor": ("none", "minus the threshold"),
}
MOST = 2  # questions that are answered otherwise at a time


@dataclass(frozen=True)
class Rules:
    """How a graph is solved.

    Attributes:
        decay: of potentials and currents in a step: 1 - dt / tau, or exp(-dt / tau).
        current: which one the potential of a CubaLIF takes: that of this step, or of the step before.
        reset: at the end of the step of the spike, or of what the next step has integrated.
        resets: to v_reset, or by subtracting the threshold.
        spikes: at most one a step, or as many as thresholds fit.
        fires: at v >= threshold, or at v > threshold.
        start: potentials begin at v_leak, or at 0.
        output: neurons give their spikes in the same step, or in the next one.
        dt: the length of a step, or 1 whatever it is.
        input: what a current adds to a potential.
        floor: the lowest potential.
    """

    decay: str = ANSWERS["decay"][0]
    current: str = ANSWERS["current"][0]
    reset: str = ANSWERS["reset"][0]
    resets: str = ANSWERS["resets"][0]
    spikes: str = ANSWERS["spikes"][0]
    fires: str = ANSWERS["fires"][0]
    start: str = ANSWERS["start"][0]
    output: str = ANSWERS["output"][0]
    dt: str = ANSWERS["dt"][0]
    input: str = ANSWERS["input"][0]
    floor: str = ANSWERS["floor"][0]

    def others(self, given: "Rules") -> dict[str, str]:
        """What is answered otherwise than by ``given``."""
        return {name: getattr(self, name) for name in ANSWERS if getattr(self, name) != getattr(given, name)}


HABITS = (  # sets of answers that simulators are known to give
    {},
    {"decay": "exponential", "dt": "1", "spikes": "several a step", "resets": "by subtraction",
     "floor": "minus the threshold"},
    {"decay": "exponential", "spikes": "several a step", "resets": "by subtraction"},
    {"reset": "a step later", "fires": ">", "start": "at 0"},
    {"fires": ">", "start": "at 0"},
)  # fmt: skip


def hypotheses(given: Rules) -> Iterator[Rules]:
    """Rules that differ from a habit in no question, then those that differ in one, and so on."""
    for number in range(MOST + 1):
        for habit in HABITS:
            start = replace(given, **habit)
            for names in itertools.combinations(ANSWERS, number):
                yield replace(start, **{name: _other(name, getattr(start, name)) for name in names})


def _other(name: str, answer: str) -> str:
    return next(other for other in ANSWERS[name] if other != answer)
