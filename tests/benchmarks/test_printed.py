"""What commands print: tables that fit the terminal, and help with an example."""

import argparse

import pytest
from common.printed import natural, numbers, positive_number, seed, seeds, share, some_of
from rich.console import Console
from speed import report

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
