"""docs/recurrent.md has the figures of train_vowels.csv and recurrent_speed.csv."""

from statistics import fmean, median

import pytest
from common.checkout import RESULTS
from common.pages import has_table
from common.tables import read_csv
from speed import recurrent_page

NAMES = [
    ("proxykernels", "proxykernels"), ("snntorch", "snnTorch"), ("snntorch-at-once", "snnTorch, `reset_delay=False`")
]  # fmt: skip


@pytest.mark.parametrize("library, name", NAMES)
def test_table_is_that_of_the_csv(library, name):
    rows = [row for row in read_csv(RESULTS / "train_vowels.csv") if row["library"] == library]
    right = [100 * float(row["accuracy"]) for row in rows]
    seconds = (f"{median(float(row[column]) for row in rows):.3f}" for column in ("train_s", "test_s"))
    line = [name, ", ".join(f"{each:.1f}" for each in right), f"{fmean(right):.1f}", *seconds]
    assert f"| {' | '.join(line)} |" in (RESULTS.parents[1] / "docs" / "recurrent.md").read_text()


def test_speeds_are_those_of_the_csv():
    wanted = recurrent_page.table(read_csv(RESULTS / "recurrent_speed.csv"))
    assert wanted.count("\n") > 3
    assert has_table(recurrent_page.PAGE.read_text(), recurrent_page.TABLE, wanted), wanted
