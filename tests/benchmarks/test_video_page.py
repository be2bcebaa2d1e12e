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
