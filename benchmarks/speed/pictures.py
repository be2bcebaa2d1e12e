"""Every picture of the speeds, drawn from its table, and the tables of docs/when.md: what draw.py does."""

import argparse
import re
from functools import partial
from pathlib import Path

from common import pictures
from common.checkout import RESULTS
from common.tables import read_csv

from speed import against_picture, event_picture, ops_report, ops_table, report, when_page

PICTURE, MACHINE = ("net", "reset", "batch", "neuron"), ("trained", "device", "threads", "torch")
README = ("paper", "soft", "32", "if")  # what README shows as bars, at T = 64
GPUS = "NVIDIA|Tesla|Quadro|GeForce|AMD Instinct|AMD Radeon"


def run(options: argparse.Namespace) -> None:
    pictures.draw("draw.py", options, drawers)
    if options.results.resolve() == RESULTS.resolve():
        when_page.update()


def drawers(folder: Path) -> pictures.Drawers:
    """What draws each table, by the tables' names; those that there are may be fewer."""
    found: pictures.Drawers = {
        "sim_speed.csv": draw_sim_speed,
        "ops_speed_rates.csv": draw_rates,
        "event_speed.csv": event_picture.draw,
    }
    for table in sorted(folder.glob("against_relu_*.csv")):
        found[table.name] = partial(against_picture.draw, table=table.stem.removeprefix("against_relu_"))
    return found


def draw_rates(folder: Path) -> None:
    rows = read_csv(folder / "ops_speed_rates.csv", ops_table.COLUMNS["rates"])
    ops_report.plot(folder / "ops_speed_rates.png", rows)


def draw_sim_speed(folder: Path) -> None:
    """The pictures of sim_speed.csv: of each, the machine and threads that timed the most, trained weights first."""
    runs: dict[tuple, list[dict]] = {}
    for row in read_csv(folder / "sim_speed.csv", report.COLUMNS):
        runs.setdefault(tuple(row[key] for key in ("date", "T", *PICTURE, *MACHINE)), []).append(row)
    shown: dict[tuple, dict[tuple, dict[str, list[dict]]]] = {}
    for (_, T, *about), rows in sorted(runs.items()):  # by date, so that the last of equals stays
        picture, machine = tuple(about[: len(PICTURE)]), tuple(about[len(PICTURE) :])
        kept = shown.setdefault(picture, {}).setdefault(machine, {})
        if len(rows) >= len(kept.get(T, [])):
            kept[T] = rows
    for (net, reset, batch, neuron), machines in shown.items():
        several = [sum(kept.values(), []) for kept in machines.values()]
        rows = max(several, key=lambda rows: (rows[0]["trained"] == "True", len(rows)))
        other = ([] if batch == "32" else [f"batch{batch}"]) + ([] if neuron == "if" else [neuron])
        device = "cuda" if re.match(GPUS, rows[0]["device"]) else "cpu"
        report.plot(folder / report.picture_name(net, reset, device, other), rows)
        if (net, reset, batch, neuron) == README:
            report.plot(folder / "speed.png", [row for row in rows if row["T"] == "64"])
