"""Judges files, prints the table, writes it, and draws who fires when."""

import csv
from argparse import Namespace

from common import checkout, tables

from .verdict import Verdict, judge

COLUMNS = "file", "simulator", "spikes", "differing", "first node", "first step", "why"


def run(options: Namespace) -> None:
    tables.check_out(options.out)
    rows: list[tuple] = []
    for path in options.files:
        if not path.is_file():
            raise SystemExit(f"nir_referee.py: there is no file {path}")
        verdicts, expected = judge(path, options.dt, options.T, options.reset, options.rate)
        rows += [_row(verdict) for verdict in verdicts]
        if options.draw:
            from .picture import draw

            print(f"-> {draw(path, verdicts, expected, checkout.place(options.out / 'any').parent)}")
    show(COLUMNS, rows)
    place = checkout.place(options.out / "nir_referee.csv")
    with place.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    print(f"-> {place}")


def _row(verdict: Verdict) -> tuple:
    if verdict.output is None:
        return verdict.file, verdict.simulator, "", "", "", "", verdict.why
    first = (verdict.node, verdict.step) if verdict.node else ("", "")
    return verdict.file, verdict.simulator, verdict.spikes, verdict.differing, *first, verdict.why


def show(columns: tuple[str, ...], rows: list[tuple]) -> None:
    """Prints a table."""
    widths = [max(len(str(row[k])) for row in [columns, *rows]) for k in range(len(columns))]
    for row in [columns, *rows]:
        print("  ".join(str(value).ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())
