"""The one style of all pictures: what is compared keeps its name and colour everywhere, and legends lie outside.

A picture is 8 inches wide, so that README shows its letters at their size. ``python benchmarks/draw.py``, and
research/redraw.py there, redraw every picture from the tables.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0  # inches
TITLE_WIDTH, SUBTITLE_WIDTH = 80, 112  # letters that fit into it
MOST_MARKS = 11  # on an axis, before 2 and 5 are left out
BLACK, GRAY = "#000000", "#7f7f7f"
# Colours that the colour-blind can tell apart (Okabe and Ito).
BLUE, SKY, VERMILION, ORANGE, GREEN, PINK, BROWN = (
    "#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#8C564B",
)  # fmt: skip


class Look(NamedTuple):
    """How one of the things compared appears: its name as in the tables, and its line."""

    label: str
    color: str
    dash: str = "-"
    width: float = 1.6


LOOKS = {
    # contenders of sim_speed.py and gpu_speed.py
    "proxykernels": Look("proxykernels", BLACK, width=3.2),
    "proxykernels int16": Look("proxykernels, int16", GRAY, width=3.2),
    "proxykernels int8": Look("proxykernels, int8", GRAY, "--", width=3.2),
    "net(x)": Look("proxykernels, net(x)", BLACK, ":", width=2.2),
    "with bias": Look("proxykernels, with biases", BLACK, "--", 1.6),  # of event_speed.py
    "relu": Look("one pass of the ReLU network", GRAY, ":"),
    "plain": Look("PyTorch step loop", BLUE),
    "compiled": Look("step loop, compiled", SKY),
    "spikingjelly-s": Look("SpikingJelly, single-step", VERMILION),
    "spikingjelly-m": Look("SpikingJelly, multi-step", ORANGE),
    "snntorch": Look("snnTorch", GREEN),
    "norse": Look("Norse", PINK),
    "sinabs": Look("sinabs", BROWN),
    "layers-fp16": Look("layer by layer, float16", VERMILION, "--"),
    "layers-graph-fp32": Look("layer by layer, CUDA graph, float32", GREEN, "--"),
    "layers-graph-tf32": Look("layer by layer, CUDA graph, TF32", BROWN, "--"),
    "layers-graph-fp16": Look("layer by layer, CUDA graph, float16", ORANGE, "--"),
    "layers-graph-bf16": Look("layer by layer, CUDA graph, bfloat16", ORANGE, ":"),
    # kernels of ops_speed.py
    "chosen": Look("chosen", BLACK, width=4.5),
    "events": Look("events", VERMILION),
    "shorts": Look("short rows (int16)", ORANGE),
    "bytes": Look("byte rows (int8)", GRAY),
    "lookup": Look("lookup", PINK),
    "tiles": Look("tiles (AMX)", GREEN),
    "dense": Look("dense, then a scan", BROWN),
    "torch fp32": Look("torch, float32", BLUE, "--"),
    "torch bf16": Look("torch, bfloat16", SKY, "--"),
    # ways to a trained spiking network, of compare_methods.py
    "proxy": Look("proxy", BLACK, width=2.6),
    "proxy, outputs unbounded": Look("proxy, outputs unbounded", BLACK, "-."),
    "proxy, spikes pooled": Look("proxy, spikes pooled, from rest", BLACK, ":"),
    "proxy, statistics of steps": Look("proxy, statistics of steps", BLACK, "--"),
    "tandem": Look("tandem learning", BROWN),
    "surrogate": Look("backpropagation through time", VERMILION),
    "surrogate, each movement": Look("the same, read after each movement", ORANGE),
    "bptt": Look("backpropagation through time, tdBN, T = 4", VERMILION),
    "tet": Look("TET, T = 4", ORANGE),
    "conversion": Look("ReLU network, converted", BLUE, width=2.6),
    "qcfs": Look("QCFS, converted", GREEN),
    "the authors' recipe": Look("proxy, the authors' recipe", GRAY, "--", width=2.6),
    "the authors' recipe with statistics of each step": Look("the same, statistics of each step", GRAY, ":"),
    "ReLU network, then proxy": Look("ReLU network, then proxy", SKY),
    # neurons of evaluate.py sigma-delta
    "sigma-delta, K = 9": Look("sigma-delta, K = 9", BLACK, width=2.6),
    "sigma-delta, K = 9, signed": Look("sigma-delta, K = 9, signed", SKY, "--"),
    "sigma-delta, K = 12": Look("sigma-delta, K = 12", GRAY, "--", width=2.6),
    "sigma-delta, K = 6": Look("sigma-delta, K = 6", SKY),
    "IF": Look("IF", VERMILION),
    # contenders of against_relu.py
    "ReLU network, torch float32": Look("ReLU network, torch", BLUE),
    "ReLU network, torch.compile float32": Look("ReLU network, torch.compile", BROWN),
    "ReLU network, OpenVINO float32": Look("OpenVINO, float32", SKY),
    "ReLU network, OpenVINO bfloat16": Look("OpenVINO, bfloat16", PINK),
    "ReLU network, OpenVINO int8": Look("OpenVINO, int8", GREEN),
    "ReLU network, ONNX Runtime float32": Look("ONNX Runtime, float32", GRAY),
    "ReLU network, ONNX Runtime int8": Look("ONNX Runtime, int8", BLACK),
    "ReLU network, small activations cut": Look("small activations cut", BROWN),
    "two signed powers, one pass": Look("two signed powers, one pass", PINK),
    "ReLU network, half the width int8": Look("half the width, int8", SKY),
    "ReLU network, a quarter of the width int8": Look("a quarter of the width, int8", PINK),
    "the small ReLU network int8": Look("the small ReLU network, int8", SKY),
    "IF, float32": Look("IF, float32", VERMILION),
    "IF, int8": Look("IF, int8", ORANGE),
    "IF, early exit, float32": Look("IF, early exit, float32", VERMILION, "--"),
    "IF, early exit, int8": Look("IF, early exit, int8", ORANGE, "--"),
    "cascade of ReLU networks, float32": Look("cascade of ReLU networks, float32", BLUE),
    "cascade of ReLU networks, int8": Look("cascade of ReLU networks, int8", GREEN),
    "sigma-delta, float32": Look("sigma-delta", BLACK),
}


def look(name: str) -> Look:
    """The look of a name in the tables' columns; what is not listed is gray, under its own name."""
    return LOOKS.get(name, Look(name, GRAY))


def line(name: str) -> dict:
    """The arguments by which matplotlib draws the line of ``name``."""
    label, color, dash, width = look(name)
    return {"label": label, "color": color, "linestyle": dash, "linewidth": width}


def new_figure(height: float, panels: int = 1, rows: int = 1, **options) -> tuple[Figure, list[Axes]]:
    """A figure of README's width with ``panels`` side by side, in ``rows`` rows; without pyplot, so that it needs no
    display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)  # inches
    axes = list(figure.subplots(rows, panels, squeeze=False, **options).flat)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(which="major", color="#dddddd", linewidth=0.8)
        panel.set_axisbelow(True)
    return figure, axes


def title(figure: Figure, sentence: str, where: str) -> None:
    """A sentence that says what is to be seen, and under it in small letters on what it was measured."""
    above, below = textwrap.wrap(sentence, TITLE_WIDTH), textwrap.wrap(where, SUBTITLE_WIDTH)
    figure.suptitle("\n".join(above + [""] * len(below)), x=0.01, ha="left", fontsize=12, fontweight="bold")
    top = 1 - (0.14 + 0.2 * len(above)) / figure.get_size_inches()[1]
    figure.text(0.01, top, "\n".join(below), ha="left", va="top", fontsize=9.5, color="#444444")


def legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """One legend under all panels, where no point can lie."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=10)


def ticks(axis, values: Iterable[float], unit: str = "") -> None:
    """Marks only at ``values``, as plain numbers, on an axis that may be logarithmic."""
    values = sorted(values)
    axis.set_ticks(values, [f"{value:g}{unit}" for value in values], minor=False)
    axis.set_ticks([], minor=True)


def plain_numbers(axis, low: float, high: float) -> None:
    """Marks at 1, 2 and 5 times the powers of ten within ``low`` .. ``high`` of a logarithmic axis."""
    marks = [m * 10.0**e for e in range(-6, 9) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    ticks(axis, marks if len(marks) <= MOST_MARKS else [mark for mark in marks if f"{mark:e}".startswith("1")])
