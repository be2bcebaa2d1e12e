"""From how many steps on a spiking network answers as its ReLU network does, and in how many passes.

A pass is the fastest that was timed in a precision, whatever runs it.

The steps are chosen on held-out images, where there are some, and the accuracy is that of the test images.

A cascade of two networks is compared in the same way: for its T stands the percentage of held-out images that go on to
the large one.
"""

import math
from collections.abc import Iterable

NORMAL = 1.96  # standard deviations of 95 %
LEVEL = 0.1  # points below the ReLU network's accuracy that are level with it
RELU, CASCADE, IF, EARLY, SIGMA_DELTA, GRADED, GRADED_CASCADE, POWERS = (
    "ReLU network", "cascade of ReLU networks", "IF", "IF, early exit", "sigma-delta", "graded",
    "cascade of graded networks", "two signed powers, one pass",
)  # fmt: skip
CASCADES = CASCADE, GRADED_CASCADE
HALF, QUARTER, SMALL = "ReLU network, half the width", "ReLU network, a quarter of the width", "the small ReLU network"
SMALLER = HALF, QUARTER, SMALL  # trained by themselves
UNTIMED = (POWERS,)  # no kernel computes them
LINES = (  # spiking networks and cascades, and what they compute in
    *((CASCADE, precision) for precision in ("float32", "int8")),
    *((name, precision) for name in (IF, EARLY) for precision in ("float32", "int8")),
    (SIGMA_DELTA, "float32"),
    *((name, precision) for name in (GRADED, GRADED_CASCADE) for precision in ("float32", "int8")),
)
PASSES = ("float32", "bfloat16", "int8")  # which times are compared with

Rows = list[dict[str, str]]


def steps(row: dict[str, str]) -> str:
    """As tables show it: the most steps, and the mean, if samples end early; of cascades, what goes on."""
    if row["contender"] in CASCADES:
        return f"{row['T']} %"
    return f"{row['T']}, mean {row['mean_T']}" if row.get("mean_T") else row["T"]


def changed(row: dict[str, str]) -> str:
    """Images that it has right and the ReLU network has wrong, and the other way round."""
    return f"+{row['gained']} -{row['lost']}" if row.get("gained") else ""


def accuracy(row: dict[str, str]) -> str:
    """As tables show it, in %: with its interval."""
    low, high = interval(row)
    return f"{row['right']} ({low:.1f} to {high:.1f})"


def lines(rows: Rows) -> list[tuple[str, str]]:
    """The entries of LINES for which there are rows."""
    return [one for one in LINES if line(rows, *one)]


def images(batch: int | str) -> str:
    return "1 image" if int(batch) == 1 else f"{batch} images"


def of_batch(rows: Rows, batch: str) -> Rows:
    """The rows that were timed with ``batch`` images, and those that have no time."""
    return [row for row in rows if row["batch"] in (batch, "")]


def batches(rows: Rows) -> list[str]:
    return sorted({row["batch"] for row in rows if row["batch"]}, key=int)


def reference(rows: Rows) -> dict[str, str]:
    """The row of the ReLU network in torch."""
    return next(row for row in rows if row["contender"] == RELU and row["by"] == "torch")


def is_level(row: dict[str, str], reference: dict[str, str]) -> bool:
    """Whether a row is level with the reference: on held-out images, where both have an accuracy on them."""
    column = "held_out" if row.get("held_out") and reference.get("held_out") else "right"
    return round(float(row[column]) - float(reference[column]) + LEVEL, 6) >= 0


def line(rows: Rows, contender: str, precision: str) -> Rows:
    """A line's rows of one batch, by steps."""
    found = [row for row in rows if (row["contender"], row["precision"]) == (contender, precision)]
    return sorted(found, key=lambda row: int(row["T"]))


def first_level(rows: Rows, contender: str, precision: str) -> dict[str, str] | None:
    """The row of the fewest steps that are level with the ReLU network; None: none are."""
    wanted = reference(rows)
    return next((row for row in line(rows, contender, precision) if is_level(row, wanted)), None)


def fastest(rows: Rows) -> dict[str, dict[str, str]]:
    """The fastest pass of the ReLU network in each of PASSES that was timed; ``rows``: of one batch."""
    timed = [row for row in rows if row["contender"] == RELU and row["ms"]]
    of_each = {name: [row for row in timed if row["precision"] == name] for name in PASSES}
    return {name: min(found, key=lambda row: float(row["ms"])) for name, found in of_each.items() if found}


def passes(rows: Rows, row: dict[str, str]) -> dict[str, float]:
    """The time of a row of one batch, in the fastest passes."""
    return {name: float(row["ms"]) / float(one["ms"]) for name, one in fastest(rows).items()}


def interval(row: dict[str, str]) -> tuple[float, float]:
    """Wilson's 95 % interval of a row's accuracy, in %."""
    count, share = int(row["images"]), float(row["right"]) / 100
    square = NORMAL**2 / count
    middle, half = share + square / 2, NORMAL * math.sqrt((share * (1 - share) + square / 4) / count)
    return 100 * (middle - half) / (1 + square), 100 * (middle + half) / (1 + square)


def sentences(rows: Rows) -> Iterable[str]:
    """One for each line, whichever way it goes."""
    relu = f"the ReLU network ({reference(rows)['right']} %)"
    for contender, precision in lines(rows):
        shares, level, last = [], None, None
        for batch in batches(rows):
            part = of_batch(rows, batch)
            last, level = line(part, contender, precision)[-1], first_level(part, contender, precision)
            if level:
                of = " and ".join(f"{share:.2f} of the {name} pass" for name, share in passes(part, level).items())
                shares.append(f"{images(batch)}: {of}")
        if level:
            told = f"first level with {relu} at {at(level)}, {level['right']} %; {'; '.join(shares)}"
        elif last:
            told = f"not level with {relu} up to {at(last)}, {last['right']} %"
        yield f"{contender}, {precision}: {told}"


def at(row: dict[str, str]) -> str:
    """The steps of a row in a sentence."""
    return f"{row['T']} % to the large one" if row["contender"] == CASCADE else f"T = {row['T']}"
