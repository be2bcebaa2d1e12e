"""What commands print: tables that fit the terminal, and help with an example."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
from common.checkout import RESULTS
from common.printed import (
    natural,
    new_parser,
    numbers,
    positive_number,
    print_table,
    seed,
    seeds,
    share,
    some_of,
)
from rich.console import Console
from speed import report

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROW = {
    "T": 256, "reset": "soft", "neuron": "if", "batch": 32, "counts_total": 320, "median_ms_per_image": 1000.0,
    "min_ms_per_image": 900.0, "max_ms_per_image": 1300.0, "rounds": 12, "counts_different": 111, "accuracy": 1.0,
    "peak_mb": 1234.0,
}  # fmt: skip
ROWS = [{**ROW, "contender": name} for name in ("proxykernels", "proxykernels int16", "spikingjelly-s", "compiled")]


def shown(width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        report.print_table(console, ROWS, {"norse": "absent"}, {"conv1": 0.1})
    return capture.get().splitlines()


@pytest.mark.parametrize(("width", "is_table"), [(200, True), (80, True), (60, False), (50, False), (30, False)])
def test_table_fits_80_columns_and_gives_way_to_plain_lines(width, is_table):
    lines = shown(width)
    assert max(map(len, lines)) <= width
    assert any("──" in line for line in lines) == is_table
    text = " ".join(" ".join(lines).split())
    for part in ("SpikingJelly, single-step", "1234", "±20 %", "Norse", "not run"):
        assert part in text, part
    if not is_table:
        assert "ms an image 1e+03, half range ±20 %, runs 12" in text


def test_narrow_terminals_get_plain_lines_even_of_a_table_that_would_fit(capsys):
    for width, is_table in ((60, True), (59, False)):
        print_table(Console(width=width), "title", ["layer", "ms"], [["conv1", "1.5"], ["conv2", ""]])
        lines = capsys.readouterr().out.splitlines()
        assert any("──" in line for line in lines) == is_table
    assert [line.rstrip() for line in lines if line.strip()] == ["title", "conv1", "  ms 1.5", "conv2"]


@pytest.mark.parametrize(("columns", "is_table"), [(None, True), ("80", True), ("50", False)])
def test_width_is_80_in_a_pipe_and_that_of_COLUMNS(columns, is_table, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    program = (
        "from common.printed import print_table; from rich.console import Console\n"
        "print_table(Console(), 'title', ['layer', 'ms'], [['conv1', '1.5']])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    assert ("──" in done.stdout) == is_table and "1.5" in done.stdout


def test_defaults_are_shown_as_they_are_given():
    parser = new_parser("doc")
    for name, default in (("a", 0.0), ("b", (0.8, 0.99)), ("c", [0, 1]), ("d", RESULTS), ("e", "50%"), ("f", 0)):
        parser.add_argument(f"--{name}", default=default, nargs=2 if name == "b" else None, help="of it")
    for name, default in (("g", None), ("h", False)):
        parser.add_argument(f"--{name}", default=default, help="of it")
    text = " ".join(parser.format_help().split())
    for default in ("0.0", "0.8 0.99", "0,1", "benchmarks/results", "50%", "0"):
        assert f"of it (default: {default})" in text
    assert text.endswith("--g G of it --h H of it") and "None" not in text


def test_types_of_options():
    for parse, good, bad in (
        (natural, {"0": 0, "7": 7}, ("-1", "x", "1.5")),
        (seed, {"0": 0, "4294967295": 2**32 - 1}, ("-1", "4294967296", "x", "")),
        (seeds, {"0,0,3": [0, 3]}, ("0,", "1,x")),
        (positive_number, {"1e-3": 1e-3}, ("0", "-1", "nan", "inf", "x")),
        (share, {"0": 0.0, "0.9": 0.9}, ("1", "-0.1", "nan", "x")),
    ):
        assert {text: parse(text) for text in good} == good
        for text in bad:
            with pytest.raises(argparse.ArgumentTypeError, match="expected a .*, got"):
                parse(text)


def test_lists_have_commas_and_their_names_none():
    parse = some_of(["converted, max", "the authors' loss", "plain"])
    assert parse("plain,converted-max,plain") == ["plain", "converted, max"]
    assert parse("the-authors-loss") == ["the authors' loss"]
    with pytest.raises(argparse.ArgumentTypeError, match="'converted' is none of converted-max, the-authors-loss, pla"):
        parse("plain,converted")
    assert numbers("64,16,64") == [16, 64]
