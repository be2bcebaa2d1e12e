"""Every picture of research, drawn from its table: what redraw.py does."""

import argparse
from functools import partial
from pathlib import Path

from common import photographs, pictures
from images import picture
from methods import report as report_of_methods
from training import events

from accuracy import every_step, sigma_delta_picture


def run(options: argparse.Namespace) -> None:
    pictures.draw("redraw.py", options, drawers)


def drawers(folder: Path) -> pictures.Drawers:
    """What draws each table, by the tables' names; those that there are may be fewer."""
    found: pictures.Drawers = {
        "few_steps_sigma_delta.csv": sigma_delta_picture.draw,
        "train_events_time.csv": events.draw,
    }
    for table in sorted(folder.glob("accuracy_*.csv")):
        if not table.stem.endswith("_converted"):  # drawn with the trained one
            found[table.name] = partial(every_step.draw, name=table.stem.removeprefix("accuracy_"))
    for table in sorted(folder.glob("compare_methods_*_[0-9]*.csv")):  # of a net and a width
        if not table.stem.endswith("_settings"):
            found[table.name] = partial(report_of_methods.draw, stem=table.stem)
    if photographs.are_there():
        found["imagenet_answers.csv"] = picture.draw
    return found
