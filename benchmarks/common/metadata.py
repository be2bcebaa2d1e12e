"""What a weights file says of its network: metadata, which are strings, looked at before anything is made of them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _share(value: Any) -> bool:
    return 0 <= value <= 1


def _count(value: Any) -> bool:
    return type(value) is int and value > 0


FIELDS: dict[str, tuple[Callable[[str], Any], str, Callable[[Any], bool]]] = {
    "T": (json.loads, "a whole number of steps, at least 1", _count),
    "v_threshold": (float, "a number above 0", lambda value: 0 < value < math.inf),
    "decay": (float, "a number within 0 .. 1", _share),
    "reset": (str, "hard or soft", lambda value: value in ("hard", "soft")),
    "twin": (str, "relu or clipped", lambda value: value in ("relu", "clipped")),
    "snn_precision": (str, "float32, int16 or int8", lambda value: value in ("float32", "int16", "int8")),
    "shape": (
        json.loads, "[channels, height, width]",
        lambda value: isinstance(value, list) and len(value) == 3 and all(map(_count, value)),
    ),
    "classes": (json.loads, "a whole number, at least 1", _count),
    "linear_norm": (json.loads, "true or false", lambda value: isinstance(value, bool)),
    "pool": (json.loads, "spikes or rates", lambda value: value in ("spikes", "rates")),
    "statistics": (str, "steps or means", lambda value: value in ("steps", "means")),
    "width": (float, "a number above 0", lambda value: 0 < value < math.inf),
    **dict.fromkeys(
        ("test_accuracy", "validation_accuracy", "twin_test_accuracy"), (float, "a share within 0 .. 1", _share)
    ),
}  # fmt: skip


def values(path: Path, about: dict[str, str], *needed: str) -> dict[str, Any]:
    """The values of the metadata ``about`` of the file ``path``, as numbers and lists where they are.

    Raises:
        ValueError: one of ``needed`` is missing, or a value is not what its key stands for.
    """
    for key in needed:
        if key not in about:
            raise ValueError(f"{path} does not say its {key}: it is no file of train.py, or of another version")
    found: dict[str, Any] = {}
    for key, text in about.items():
        parse, wanted, holds = FIELDS.get(key, (str, "", lambda value: True))
        try:
            found[key] = parse(text)
            good = holds(found[key])
        except (ValueError, TypeError, OverflowError, RecursionError):
            good = False
        if not good:
            raise ValueError(f"{path}: {key} must be {wanted}, got {text[:60]!r}")
    return found
