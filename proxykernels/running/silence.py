"""Warns once where no neuron of a converted network has fired in a run."""

from typing import Any

from ..checks.calibrated import STEPS, Range, has_fired, warn_of_silence
from .result import Result


def listen(owner: Any, known: Range | None, result: Result) -> None:
    """For functions that users call. ``owner``, ``known``: as of look_at_input, by which silence is worth a warning."""
    T, rates = result._output.shape[0], result.rates.values()
    if any(rates):
        has_fired(owner)
    elif rates and T >= STEPS:
        warn_of_silence(owner, T, known, stacklevel=4)
