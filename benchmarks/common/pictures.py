"""Every picture of the results, drawn from its table: what draw.py does."""

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from accuracy import anytime_table, every_step, sigma_delta_picture
from images import picture, torchvision_nets_table
from methods import recipes_table
from methods import report as report_of_methods
from speed import against_picture, event_lag_picture, event_picture, ops_report, ops_table, report
from training import events

from common import photographs
from common.command import refusing
from common.tables import check_out, read_csv

PICTURE, MACHINE = ("net", "reset", "batch", "neuron"), ("trained", "device", "threads", "torch")
README = ("paper", "soft", "32", "if")  # what README shows as bars, at T = 64
GPUS = "NVIDIA|Tesla|Quadro|GeForce|AMD Instinct|AMD Radeon"


def run(options: argparse.Namespace) -> None:
    folder, drawn = options.results, 0
    with refusing("draw.py"):
        if not folder.is_dir():
            raise FileNotFoundError(f"--results {folder} is no folder; give the --out of the other commands")
        check_out(folder, option="--results")
    for name, draw in drawers(folder).items():
        try:
            if read_csv(folder / name):
                draw(folder)
                drawn += 1
        except ValueError as error:
            raise SystemExit(f"draw.py: {name} cannot be drawn: {error}") from error
        except (LookupError, StopIteration) as error:
            raise SystemExit(f"draw.py: {name} cannot be drawn: rows are missing; make it with its command") from error
    if not drawn:
        raise SystemExit(f"draw.py: --results {folder} holds no table to draw; give the --out of the other commands")
    print(f"drew the pictures of {drawn} tables in {folder}")


def drawers(folder: Path) -> dict[str, Callable[[Path], None]]:
    """What draws each table, by the tables' names; those that there are may be fewer."""
    found = {
        "sim_speed.csv": draw_sim_speed,
        "ops_speed_rates.csv": draw_rates,
        "anytime_paper.csv": partial(anytime_table.draw, net="paper"),
        "anytime_small.csv": partial(anytime_table.draw, net="small"),
        "few_steps_sigma_delta.csv": sigma_delta_picture.draw,
        "event_lag_packets.csv": event_lag_picture.draw,
        "event_speed.csv": event_picture.draw,
        "recipes.csv": recipes_table.draw,
        "train_events_time.csv": events.draw,
        "torchvision_rates.csv": torchvision_nets_table.draw,
    }
    for table in sorted(folder.glob("accuracy_*.csv")):
        if not table.stem.endswith(("_converted", "_int16", "_int8")):  # drawn with the float32 one
            found[table.name] = partial(every_step.draw, name=table.stem.removeprefix("accuracy_"))
    for table in sorted(folder.glob("against_relu_*.csv")):
        found[table.name] = partial(against_picture.draw, net=table.stem.removeprefix("against_relu_"))
    for table in sorted(folder.glob("compare_methods_*_[0-9]*.csv")):  # of a net and a width
        if not table.stem.endswith("_settings"):
            found[table.name] = partial(report_of_methods.draw, stem=table.stem)
    if photographs.are_there():
        found["imagenet_answers.csv"] = picture.draw
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
