"""Redraws pictures from their tables, for draw.py and research/redraw.py."""

import argparse
from collections.abc import Callable
from pathlib import Path

from common.command import refusing
from common.tables import check_out, read_csv

Drawers = dict[str, Callable[[Path], None]]  # what draws a table in a folder, by its name


def draw(command: str, options: argparse.Namespace, drawers: Callable[[Path], Drawers]) -> None:
    """Draw the tables that there are in ``--results``, of those that ``drawers`` has for this folder."""
    folder, drawn = options.results, 0
    with refusing(command):
        if not folder.is_dir():
            raise FileNotFoundError(f"--results {folder} is no folder; give the --out of the other commands")
        check_out(folder, option="--results")
    for name, draw_table in drawers(folder).items():
        try:
            if read_csv(folder / name):
                draw_table(folder)
                drawn += 1
        except ValueError as error:
            raise SystemExit(f"{command}: {name} cannot be drawn: {error}") from error
        except (LookupError, StopIteration) as error:
            reason = "rows are missing; make it with its command"
            raise SystemExit(f"{command}: {name} cannot be drawn: {reason}") from error
    if not drawn:
        raise SystemExit(f"{command}: --results {folder} holds no table to draw; give the --out of the other commands")
    print(f"drew the pictures of {drawn} tables in {folder}")
