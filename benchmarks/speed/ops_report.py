"""What ops_speed.py prints and draws of the rows that it measured."""

from collections import defaultdict
from pathlib import Path

from common import figures
from common.printed import print_table
from common.tables import save_figure
from rich.console import Console

from speed.ops_parts import CHOSEN, LOST, SPREAD

PEAK = "fp32 matrix-product peak"


def spread(row: dict, prefix: str = "") -> str:
    """The median, and half of the range around it."""
    median, least, most = (row[f"{prefix}{name}"] for name in SPREAD)
    return f"{median:.3g} ±{50 * (most - least) / median:.0f}%"


def kernel_name(row: dict) -> str:
    return f"{CHOSEN} ({row['taken']})" if row["kernel"] == CHOSEN else row["kernel"]


def print_rates(console: Console, rows: list[dict]) -> None:
    peak = rows[0]["peak_gmac_s"]
    for layer, mine in grouped(rows, "layer").items():
        title = f"{layer}, T = {mine[0]['T']}, N = {mine[0]['N']}; {PEAK} {peak:.0f} GMAC/s"
        headings = ["kernel", "rate", "ms", "GMAC/s", "/ peak", "cycles a\nrow-add"]
        lines = []
        for same in grouped(mine, "kernel").values():
            for row in same:
                speed = f"{row['gmac_s']:.0f}", f"{row['gmac_s'] / peak:.2f}", str(row["cycles_row_add"])
                lines.append([kernel_name(row), f"{row['rate']:.0%}", spread(row), *speed])
        print_table(console, title, headings, lines)
    console.print(
        f"Cycles: of one core, a clock of {rows[0]['clock_ghz']:.2f} GHz taken from the peak; the floor is 1, one load "
        "of 64 bytes a cycle."
    )


def print_shapes(console: Console, rows: list[dict]) -> None:
    headings = ["layer", "T", "N", "rate", "kernel", "ours\nms", "rival\nms", "ratio"]
    lines = []
    for row in sorted(rows, key=lambda row: row["ratio"]):
        case = row["layer"], str(row["T"]), str(row["N"]), f"{row['rate']:.0%}", row["kernel"]
        times = f"{row['ours_median_ms']:.3g}", f"{row['rival_median_ms']:.3g}"
        lines.append([*case, *times, f"{'lost ' if row['lost'] else ''}{row['ratio']:.2f}"])
    print_table(console, "Time of torch's convolution and the fused scan / time of ours", headings, lines)
    lost = [row for row in rows if row["lost"]]
    console.print(f"{len(lost)} of {len(rows)} shapes slower than {LOST} times the rival")


def print_drop_in(console: Console, rows: list[dict]) -> None:
    headings = [
        "",
        "T",
        "N",
        "rate",
        "ours\nms",
        "step loop\nms",
        "SpikingJelly\nms",
        "pack\nGB/s",
        "dense()\nGB/s",
        "copy\nGB/s",
    ]
    lines = []
    for row in rows:
        times = [f"{row['ours_ms']:.3g}"]
        for rival in ("loop_ms", "spikingjelly_ms"):
            times.append(f"{row[rival]:.3g} ({row[rival] / row['ours_ms']:.1f}x)" if row[rival] else "not run")
        speeds = [str(row[f"{name}_gb_s"]) for name in ("pack", "dense", "copy")]
        rate = f"{row['rate']:.0%}" if row["rate"] else ""
        lines.append([row["job"], str(row["T"]), str(row["N"]), rate, *times, *speeds])
    print_table(
        console, "Layers called on dense spikes, 3x3 on 28x28 pixels, their output read by torch", headings, lines
    )


def print_networks(console: Console, rows: list[dict]) -> None:
    headings = ["", "T", "N", "threads", "spikes a neuron\nand step", "ours\nms", "SpikingJelly\nms"]
    lines = []
    for row in rows:
        rival = f"{row['spikingjelly_ms']:.3g} ({row['spikingjelly_ms'] / row['ours_ms']:.1f}x)"
        numbers = [str(row[name]) for name in ("T", "N", "threads", "rate")]
        lines.append([row["job"], *numbers, f"{row['ours_ms']:.3g}", rival])
    print_table(console, "Networks of random weights, 64x64 pixels, beside SpikingJelly's modules", headings, lines)


PRINT = {"rates": print_rates, "shapes": print_shapes, "drop_in": print_drop_in, "networks": print_networks}


def grouped(rows: list[dict], column: str) -> dict[str, list[dict]]:
    groups = defaultdict(list)
    for row in rows:
        groups[row[column]].append(row)
    return groups


def plot(path: Path, rows: list[dict]) -> None:
    """Speed against firing rate, both logarithmic, a panel a layer, from rows of a run or of the CSV."""
    layers, first = grouped(rows, "layer"), rows[0]
    figure, panels = figures.new_figure(5.4, len(layers), sharey=True)
    for axes, (layer, mine) in zip(panels, layers.items(), strict=True):
        for name in sorted(grouped(mine, "kernel"), key=lambda name: name != CHOSEN):  # the chosen one lies under all
            same = [row for row in mine if row["kernel"] == name]
            style = figures.line(name) | ({"alpha": 0.3} if name == CHOSEN else {"marker": "o", "markersize": 4})
            axes.loglog([100 * float(row["rate"]) for row in same], [float(row["gmac_s"]) for row in same], **style)
        axes.axhline(float(first["peak_gmac_s"]), color=figures.GRAY, linestyle=":", label=PEAK)
        axes.set_title(f"{layer}, T = {mine[0]['T']}, {mine[0]['N']} images", fontsize=10)
        figures.ticks(axes.xaxis, {round(100 * float(row["rate"]), 6) for row in mine})
        axes.set_xlabel("inputs that fire at a step, %")
    speeds = [float(row["gmac_s"]) for row in rows]
    figures.plain_numbers(panels[0].yaxis, min(speeds) / 1.3, max(speeds) * 1.3)
    panels[0].set_ylabel("dense-equivalent GMAC/s (median)")
    figures.legend(figure, panels[0], columns=4)
    where = f"{first['device']}, {first['threads']} threads, torch {first['torch']}"
    figures.title(figure, "The fewer inputs fire, the faster are the kernels that add only what fired", where)
    save_figure(path, figure)
