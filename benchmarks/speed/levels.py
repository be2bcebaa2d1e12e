"""From how many steps on a spiking network answers as its ReLU network does, and in how many passes.

The steps are chosen on held-out images, where there are some, and the accuracy is that of the test images.

A cascade of two ReLU networks is compared in the same way: for its T stands the percentage of held-out images that go
on to the large one.
"""

from collections.abc import Iterable

LEVEL = 0.1  # points below the ReLU network's accuracy that are level with it
RELU, CASCADE, CUT, IF, EARLY, SIGMA_DELTA, POWERS = (
    "ReLU network", "cascade of ReLU networks", "ReLU network, small activations cut", "IF", "IF, early exit",
    "sigma-delta", "two signed powers, one pass",
)  # fmt: skip
UNTIMED = CUT, POWERS  # no kernel computes them
LINES = (  # spiking networks and cascades, and what they compute in
    *((CASCADE, precision) for precision in ("float32", "int8")),
    *((name, precision) for name in (IF, EARLY) for precision in ("float32", "int8")),
    (SIGMA_DELTA, "float32"),
)
PASSES = ("float32", "int8")  # OpenVINO's, which times are compared with

Rows = list[dict[str, str]]


def steps(row: dict[str, str]) -> str:
    """As tables show it: the most steps, and the mean, if samples end early; of cascades, what goes on."""
    if row["contender"] == CASCADE:
        return f"{row['T']} %"
    return f"{row['T']}, mean {row['mean_T']}" if row.get("mean_T") else row["T"]


def changed(row: dict[str, str]) -> str:
    """Images that it has right and the ReLU network has wrong, and the other way round."""
    return f"+{row['gained']} -{row['lost']}" if row.get("gained") else ""


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


def choosing(row: dict[str, str]) -> float:
    """The accuracy in % by which the number of steps is chosen: of held-out images, where there are some."""
    return float(row.get("held_out") or row["right"])


def line(rows: Rows, contender: str, precision: str) -> Rows:
    """A line's rows of one batch, by steps."""
    found = [row for row in rows if (row["contender"], row["precision"]) == (contender, precision)]
    return sorted(found, key=lambda row: int(row["T"]))


def first_level(rows: Rows, contender: str, precision: str) -> dict[str, str] | None:
    """The row of the fewest steps that are level with the ReLU network; None: none are."""
    least = choosing(reference(rows)) - LEVEL
    return next((row for row in line(rows, contender, precision) if round(choosing(row) - least, 6) >= 0), None)


def passes(rows: Rows, row: dict[str, str]) -> dict[str, float]:
    """The time of a row of one batch, in OpenVINO's passes of each of PASSES."""
    times = {other["precision"]: float(other["ms"]) for other in rows if other["by"] == "OpenVINO"}
    return {precision: float(row["ms"]) / times[precision] for precision in PASSES if precision in times}


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
            told = f"first level with {relu} at {at(level)}, {level['right']} %; {'; '.join(shares)} by OpenVINO"
        elif last:
            told = f"not level with {relu} up to {at(last)}, {last['right']} %"
        yield f"{contender}, {precision}: {told}"


def at(row: dict[str, str]) -> str:
    """The steps of a row in a sentence."""
    return f"{row['T']} % to the large one" if row["contender"] == CASCADE else f"T = {row['T']}"
