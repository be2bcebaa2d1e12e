"""What print(result) of a simulation shows."""

from collections.abc import Sequence

from ..spikes import Spikes

COLUMNS = "layer", "rate", "accumulates", "multiply-accumulates"


def summary(result) -> str:
    """The size of the output, the steps, and a row for each layer; no tensor's values."""
    y = result.output
    (T, N), kind = y.shape[:2], "spikes" if isinstance(y, Spikes) else "potentials"
    lines = [f"Result of T = {T} steps, N = {N} samples: {kind} {tuple(y.shape)} on {y.device}"]
    if N and result.steps.min() < T:
        steps = result.steps
        lines.append(f"stopped after {steps.min()} to {steps.max()} steps, {steps.float().mean():.1f} on average")
    additions, products = result.synops.accumulates, result.synops.multiply_accumulates
    rows = [
        (name, f"{rate:.4f}", f"{additions.get(name, 0):,}", f"{products.get(name, 0):,}")
        for name, rate in result.rates.items()
    ]
    lines += table([COLUMNS, *rows])
    lines.append(f"{result.synops.total:,} synaptic operations, about {result.synops.joules:.2g} J (.synops)")
    if result.records:
        lines.append(f"records of {', '.join(result.records)}")
    return "\n".join(lines)


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Names to the left, numbers to the right."""
    name, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        "  ".join([row[0].ljust(name), *(cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True))])
        for row in rows
    ]
