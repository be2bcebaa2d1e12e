"""docs/recurrent.md has the figures of train_vowels.csv."""

from statistics import fmean, median

import pytest
from common.checkout import RESULTS
from common.tables import read_csv

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
