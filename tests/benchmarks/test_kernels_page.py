"""docs/kernels.md says what the tables of ops_speed.py hold; where it does not, the failure has the words to put in."""

from statistics import median

import pytest
from common.checkout import RESULTS
from common.tables import read_csv

PAGE = (RESULTS.parents[1] / "docs" / "kernels.md").read_text()
RATES = [row for row in read_csv(RESULTS / "ops_speed_rates.csv") if row["layer"] == "128->128 3x3 28x28"]
SHAPES = read_csv(RESULTS / "ops_speed_shapes.csv")
NAMES = {"events": "| [events]", "shorts": "| events with [short rows]", "bytes": "| events with [byte rows]"}


def speeds(kernel: str) -> dict[str, int]:
    """Rate -> dense-equivalent GMAC/s."""
    return {row["rate"]: round(float(row["gmac_s"])) for row in RATES if row["kernel"] == kernel}


def span(kernel: str) -> str:
    return f"{min(speeds(kernel).values())} to {max(speeds(kernel).values())}"


def in_a_row(beginning: str, words: str) -> None:
    (row,) = (line for line in PAGE.splitlines() if line.startswith(beginning))
    assert words in row, f"docs/kernels.md must have, in the row {beginning}: {words}"


@pytest.mark.parametrize("kernel", NAMES)
def test_speeds_of_rows_are_in_the_csv(kernel):
    at = speeds(kernel)
    in_a_row(NAMES[kernel], f"{at['0.05']} at 5 %, {at['0.2']} at 20 %, {at['0.6']} at 60 %")


def test_speeds_at_any_rate_are_in_the_csv():
    in_a_row("| [lookup]", f"{span('lookup')} at 1 to 60 %")
    in_a_row("| dense |", span("dense"))
    said = f"torch's own float32 convolution reaches {span('torch fp32')} GMAC/s"
    assert said in PAGE.replace("\n", " "), said


def test_the_machine_is_that_of_the_csv():
    (machine,) = {(row["device"], row["threads"]) for row in RATES + SHAPES}
    assert machine == ("Intel(R) Xeon(R) Processor @ 2.50GHz", "2")
    assert "on 2 cores of an Intel Xeon at 2.5 GHz" in PAGE.replace("\n", " ")


def test_slower_shapes_are_told():
    ratios = sorted(float(row["ratio"]) for row in SHAPES)
    slower = [ratio for ratio in ratios if ratio < 1]
    faster = f"Of {len(ratios)} shapes {len(ratios) - len(slower)} are faster than torch's convolution and a scan"
    said = f"{faster}, {median(ratios):.1f} times in the median of all; {len(slower)} are slower, at {slower[0]:.2f} to"
    assert f"{said} {slower[-1]:.2f} of its speed" in PAGE.replace("\n", " "), f"{said} {slower[-1]:.2f} of its speed"
