"""The accuracies on docs/paper.md are those of the CSV files."""

import csv
import re
from pathlib import Path

import pytest
from accuracy import energy_table as energy
from methods import report

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
    table = report.markdown(list(csv.DictReader(path.open())))
    assert table in PAGE and table.count("\n") >= 4


def read(name: str) -> list[dict]:
    return list(csv.DictReader((CHECKOUT / "benchmarks" / "results" / name).open()))


def test_energy_in_the_verdict_is_that_of_the_csv():
    shares = re.findall(r": ([\d.]+) times", energy.summary(read("energy.csv")))
    arithmetic, memory = shares[::3], shares[1::3] + shares[2::3]
    arithmetic, memory = (sorted(of, key=float) for of in (arithmetic, memory))
    assert f"arithmetic: yes, {arithmetic[0]} to {arithmetic[-1]} times" in PAGE
    assert f"with memory: no, {memory[0]} to {memory[-1]} times" in PAGE


def test_held_out_accuracy_before_and_after_proxy_learning_is_in_the_csv():
    *_, last = read("training_paper.csv")
    assert last["stage"].startswith("proxy") and f"images from 94.60 to {100 * float(last['snn']):.2f} %" in PAGE


def test_a_step_of_proxy_learning_takes_ten_times_that_of_the_relu_network():
    rows = read("compare_methods_paper_0.25.csv")
    seconds = {}
    for row in rows:
        seconds.setdefault(row["method"], []).append(float(row["cpu_seconds"]) / int(row["step"]))
    ours, theirs = (sum(of) / len(of) for of in (seconds["proxy"], seconds["conversion"]))
    assert "takes ten times the CPU time" in PAGE and round(ours / theirs) == 10
    assert "takes 1.2 s of CPU time" in " ".join(PAGE.split()) and 1.1 < ours < 1.35  # its T is 15, not 16


def test_proxy_learning_beside_the_relu_network_alone_is_that_of_the_csv():
    rows = read("compare_methods_paper_0.25.csv")

    def mean(method: str, column: str) -> float:
        found = report.at(rows, method, 50, 16, column)
        assert len(found) == 5
        return 100 * sum(found) / len(found)

    lacks = mean("conversion", "relu") - mean("proxy", "strict")
    ties = mean("proxy", "lenient") - mean("proxy", "strict")
    assert mean("proxy", "potential") > mean("conversion", "relu")
    assert f"it lacks {lacks:.1f} points after 50 steps: {ties:.1f} % of the outputs tie" in " ".join(PAGE.split())
