"""The accuracies on docs/paper.md are those of the CSV files."""

import csv
import re
from pathlib import Path

import compare_methods
import pytest

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs" / "paper.md").read_text()
TABLES = ["paper", "paper_converted", "small", "small_converted"]  # in the page's order
STEPS = (4, 8, 16, 32, 50)


def curve(name: str) -> dict[int, tuple[float, float]]:
    """T -> strict accuracy and ties."""
    path = CHECKOUT / "benchmarks" / "results" / f"accuracy_{name}.csv"
    return {int(row["T"]): (float(row["accuracy"]), float(row["ties"])) for row in csv.DictReader(path.open())}


@pytest.mark.parametrize("number", range(len(TABLES)))
@pytest.mark.parametrize("count", ["strict", "lenient"])
def test_accuracies_are_in_the_csv(number, count):
    line = re.findall(rf"^\|.*\| {count} \|((?: [\d.]+ % \|| \|){{5}})$", PAGE, re.MULTILINE)[number]
    found = curve(TABLES[number])
    expected = []
    for T in STEPS:
        right, ties = found.get(T, (None, None))
        expected.append("" if right is None else f"{100 * (right + ties * (count == 'lenient')):.2f} %")
    assert [cell.strip() for cell in line.strip("|").split("|")] == expected


def test_verdicts_are_in_the_csv():
    proxy, converted = curve("paper")[50], curve("paper_converted")
    assert f"close: {100 * proxy[0]:.2f} % at T = 50; by the paper's count {100 * sum(proxy):.2f} %" in PAGE
    assert f"no: {100 * converted[4][0]:.2f} % at T = 4, {100 * converted[8][0]:.2f} % at T = 8" in PAGE


def test_the_table_of_methods_is_that_of_the_csv():
    path = CHECKOUT / "benchmarks" / "results" / "compare_methods_paper_0.25.csv"
    table = compare_methods.markdown(list(csv.DictReader(path.open())))
    assert table in PAGE and table.count("\n") >= 4
