"""docs/few_steps.md says what video.csv holds; where it does not, the failure has the lines to put in."""

import re

import pytest
from common.checkout import RESULTS
from common.tables import read_csv

PAGE, TABLE = RESULTS.parents[1] / "docs" / "few_steps.md", RESULTS / "video.csv"
HEAD = "| network | clip | | same class, % | million additions | million products | µJ | ms |\n" + 8 * "|---" + "|"


def lines(rows: list[dict[str, str]]) -> str:
    """A line for each contender; energy of arithmetic and neurons, a frame."""
    found = []
    for row in rows:
        counts = [row["same_class"], row["million_additions"], row["million_products"]]
        energy = f"{float(row['arithmetic_uj']) + float(row['neurons_uj']):,.0f}" if row["arithmetic_uj"] else ""
        clip = f"{row['clip'].partition('.')[0]}, {row['kind']}"
        ms = f"{float(row['ms']):.3g}" if row["ms"] else ""
        found.append(f"| {' | '.join([row['net'], clip, row['contender'], *counts, energy, ms])} |")
    return "\n".join([HEAD, *found])


def test_the_table_is_that_of_the_csv():
    if not TABLE.is_file():
        pytest.skip("not measured")
    wanted, page = lines(read_csv(TABLE)), PAGE.read_text()
    assert wanted in page, f"docs/few_steps.md must have, for video.csv:\n{wanted}"
    assert not re.search(r"<!-- (table|prose)", page)


def test_lines_are_made_of_rows():
    row = {
        "net": "resnet20", "clip": "bikes.mp4", "kind": "as it is", "contender": "sigma-delta", "same_class": "85.7",
        "million_additions": "193.771", "million_products": "3.775", "arithmetic_uj": "1291.4", "neurons_uj": "4.8",
        "ms": "26.2934",
    }  # fmt: skip
    wanted = "| resnet20 | bikes, as it is | sigma-delta | 85.7 | 193.771 | 3.775 | 1,296 | 26.3 |"
    assert lines([row]).splitlines()[2] == wanted
    assert lines([row | {"arithmetic_uj": "", "ms": ""}]).endswith("3.775 |  |  |")
