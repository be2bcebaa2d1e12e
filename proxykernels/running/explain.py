"""Explains the time of a network: the kernel of each layer, its firing rates, and why the kernel was chosen."""

import shutil
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from ..kernels.launches import TorchLaunches
from ..kernels.recording import Choice, recording
from ..plan.follow import followed
from ..plan.follow_sigma_delta import follow_changes
from ..plan.followed_values import CannotFollowError
from ..spikes import Spikes
from .inputs import input_of
from .kept_plans import known_of, may_run, timed_plan
from .result import Result
from .sigma_delta_layers import InputsInSteps, SigmaDeltaResult
from .simulate import run

# Names of kernels that a reader knows by other names.
NAMES = {"dense": "unfused"}
REAL = "real-valued input"
LONGEST_NAME = 20  # of a layer, in the table
NARROWEST = 60  # columns of a terminal that a table fits; below, lines


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        layer: its name.
        kernel: what took it: a way of the engine ("patterns", "rows", "tables", "tiles", "pixel tiles", "depthwise"),
            "im2col" (windows of few channels, gathered first), "recurrent", "unfused" (torch's convolution, then the
            neurons), "values" (rows of weights times values), "scan" (only neurons), on a GPU "Triton convolution",
            "pooled Triton convolution", "Triton scan" (neurons in a launch of their own) or "step loop" (neurons that
            no Triton kernel has); "torch" for pooling of rates. Sigma-delta and graded neurons: "sigma-delta" on a CPU;
            on a GPU what is launched for them. Several, joined by +, if calls took several.
        input_rate: firing rate of its input; None if that is real-valued. Of sigma-delta and graded neurons the share
            of inputs that change in a step.
        rate: firing rate of its neurons, as in ``simulate(...).rates``; None of a layer that does not fire.
        measured_ms: what it took, all steps, with packing its weights if this was their first use.
        why: the reason, in short.
    """

    layer: str
    kernel: str
    input_rate: float | None
    rate: float | None
    measured_ms: float
    why: str


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found; ``print`` shows a table.

    Attributes:
        rows: a :class:`Row` for each layer of neurons, in the order of the network.
        by_layers: why :func:`simulate` calls the layers one by one, which is slower; None: it runs the network as a
            whole, or its input is not on a CPU.
    """

    rows: list[Row]
    by_layers: str | None = None

    def __str__(self) -> str:
        width = shutil.get_terminal_size((80, 24)).columns
        table = _lines(self.rows) if width < NARROWEST else _table(self.rows, width)
        if self.by_layers is None:
            return table
        return f"{table}\n{textwrap.fill(f'simulate runs it layer by layer: {self.by_layers}', width)}"


def explain(net: nn.Module, x: Tensor | Spikes, T: int, *, precision: str | None = None) -> Explanation:
    """Simulate a network once, and report the kernel of each layer and why it was chosen.

    Args:
        net, x, T, precision: as in :func:`simulate`: x is [N, ...], constant, or (T, N, ...). ``net`` is not changed.

    Returns:
        An :class:`Explanation`: ``.rows``, and a table when it is printed. Its times include the packing of weights
        that are used for the first time: explain twice to see only the kernels.

    Raises:
        TypeError, ValueError: as :func:`simulate`.
    """
    watch = _Watch()
    result = run(net, x, T, precision=precision, watch=watch)
    rows, by_layers = [watch.row(name, result) for name in result.places], why_by_layers(net, x, T, precision)
    if by_layers is None and x.device.type == "cpu":
        rows = _as_a_whole(rows, net, x, T, precision)
    return Explanation(rows, by_layers)


def _as_a_whole(rows: list[Row], net: nn.Module, x: Tensor | Spikes, T: int, precision: str | None) -> list[Row]:
    """The rows with times of the plan that simulate runs, and its ways behind values and sums."""
    found = timed_plan(net, x, T, precision)
    if found is None:
        return rows
    plan, slots, session = found
    took: dict[str, float] = {}
    ways: dict[str, tuple[str, str]] = {}
    for k, op in enumerate(plan.operations):
        took[op.name] = took.get(op.name, 0.0) + 1e-6 * session.took[k]
        read = [slots[window.slot] for window in op.windows if window.weight is not None]
        if not op.neurons or not read or all(slot.held for slot in read):
            continue
        if any(slot.gives_values for slot in read):
            ways[op.name] = session.way(k), REAL
        elif len(read) > 1:
            ways[op.name] = session.way(k), "a sum of spikes, by the spikes of each term"
    return [
        replace(row, kernel=ways[row.layer][0], why=ways[row.layer][1], measured_ms=took[row.layer])
        if row.layer in ways
        else replace(row, measured_ms=took.get(row.layer, row.measured_ms))
        for row in rows
    ]


class _Watch:
    """Notes the choices, the times and the inputs of each layer while a network runs."""

    def __init__(self):
        self.choices: dict[str, list[Choice]] = {}
        self.launches: dict[str, int] = {}  # by PyTorch, of sigma-delta and graded neurons on a GPU
        self.seconds: dict[str, float] = {}
        self.inputs: dict[str, list[tuple[int, int] | None]] = {}  # spikes and their places; None of real values

    @contextmanager
    def __call__(self, name: str, x) -> Iterator[None]:
        if isinstance(x, InputsInSteps):
            changes = [(int(part.values.count_nonzero()), part.values[:, 0].numel() * x.steps) for part in x.inputs]
            self.inputs.setdefault(name, []).extend(changes)
            with TorchLaunches("cuda") as launches, self._timed(name, x.inputs[0].values.device):
                yield
            self.launches[name] = self.launches.get(name, 0) + launches.count
            return
        parts = x if isinstance(x, tuple | list) else (x,)
        with self._timed(name, parts[0].device):
            yield
        self.inputs.setdefault(name, []).extend(
            (int(part._total()), torch.Size(part.shape).numel()) if isinstance(part, Spikes) else None for part in parts
        )

    @contextmanager
    def _timed(self, name: str, device: torch.device) -> Iterator[None]:
        _wait(device)
        start = time.perf_counter()
        with recording() as choices:
            yield
        _wait(device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.choices.setdefault(name, []).extend(choices)

    def row(self, name: str, result: Result) -> Row:
        choices = self.choices.get(name, [])
        if isinstance(result, SigmaDeltaResult):
            return self._row_of_changes(name, choices, result)
        if all(choice.kernel != "Triton convolution" for choice in choices):  # whose neurons need no scan
            choices = [choice for choice in choices if not choice.kernel.endswith("scan")] or choices
        kernels = list(dict.fromkeys(NAMES.get(choice.kernel, choice.kernel) for choice in choices))
        reasons = list(dict.fromkeys(choice.reason for choice in choices if choice.reason))
        return Row(
            name,
            " + ".join(kernels) or "torch",
            _rate(self.inputs.get(name, [])),
            result.rates.get(name),
            1000 * self.seconds.get(name, 0.0),
            "; ".join(reasons) or ("differs by chunk" if kernels else "torch's operations"),
        )

    def _row_of_changes(self, name: str, choices: list[Choice], result: Result) -> Row:
        """A layer of sigma-delta or graded neurons."""
        kernels = list(dict.fromkeys(NAMES.get(choice.kernel, choice.kernel) for choice in choices))
        reasons = list(dict.fromkeys(choice.reason for choice in choices if choice.reason))
        if kernels:  # on a GPU
            launches = self.launches[name] + sum(choice.kernel.startswith("Triton") for choice in choices)
            reasons.append(f"{launches} launches")
        return Row(
            name,
            " + ".join(kernels) or "sigma-delta",
            _rate(self.inputs[name]),
            result.rates.get(name),
            1000 * self.seconds[name],
            "; ".join(reasons) or "each change adds its weights",
        )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rate(inputs: list[tuple[int, int] | None]) -> float | None:
    counted = [part for part in inputs if part is not None]
    places = sum(size for _, size in counted)
    return sum(spikes for spikes, _ in counted) / places if places and len(counted) == len(inputs) else None


def _cells(row: Row) -> list[str]:
    """The fields of a row as text."""
    name = row.layer if len(row.layer) <= LONGEST_NAME else "..." + row.layer[3 - LONGEST_NAME :]
    rates = ("-" if rate is None else f"{100 * rate:.1f} %" for rate in (row.input_rate, row.rate))
    time = f"{row.measured_ms:.3g}" if row.measured_ms < 100 else f"{row.measured_ms:.0f}"
    return [name, row.kernel, *rates, time, row.why]


TITLES = ["layer", "kernel", "in", "out", "ms", "why"]
assert len(TITLES) == len(fields(Row))


def _table(rows: list[Row], width: int) -> str:
    table = [TITLES, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    left = (0, 1, 5)  # columns of text
    lines = []
    for cells in table:
        *texts, why = (
            cell.ljust(size) if k in left else cell.rjust(size)
            for k, (cell, size) in enumerate(zip(cells, widths, strict=True))
        )
        line, why = "  ".join(texts), why.rstrip()
        lines.append(f"{line}  {why}" if sum(widths) + 2 * len(texts) <= width else f"{line}\n    {why}")
    if all(len(part) <= width for line in lines for part in line.split("\n")):
        return "\n".join(lines)
    return _lines(rows)


def _lines(rows: list[Row]) -> str:
    """One field a line, for a terminal that is narrower than the table."""
    blocks = []
    for row in rows:
        name, *cells = _cells(row)
        blocks.append("\n".join([name, *(f"  {title}: {cell}" for title, cell in zip(TITLES[1:], cells, strict=True))]))
    return "\n".join(blocks)


def why_by_layers(net: nn.Module, x: Tensor | Spikes, T: int, precision: str | None) -> str | None:
    """Why a simulation of an input, which has run, calls the layers one by one; None: it does not, or is on a GPU."""
    if x.device.type != "cpu":
        return None
    known = known_of(net) if may_run(x) else None
    if known is None:
        return (
            "code from outside watches the run, such as global hooks, or a tensor of the network is no plain one on a "
            "CPU, or is computed from others (parametrizations)"
        )
    given = input_of(net, x, T, None, looks=False)
    try:
        if known.changes:
            follow_changes(net, tuple(given.shape[2:]), precision, copies=False)
        else:
            real = isinstance(given, Tensor) and given.dtype != torch.bool
            followed(net, tuple(given.shape[2:]), real, precision, copies=False)
    except CannotFollowError as error:
        return str(error).removesuffix("; proxykernels.simulate may take it")
    return None
