"""The accuracies on docs/paper.md are those of the CSV files."""

import csv
import re
from pathlib import Path

import pytest
from accuracy import energy_table as energy
from methods import report

PAIR = "proxy", "conversion"
METHODS = "compare_methods_paper_0.25_3_epochs.csv"
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
    table = report.markdown(read(METHODS))
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


def methods_mean(method: str, step: int, T: int, column: str, table: str = METHODS) -> float:
    """In %, of the held-out images and all seeds."""
    found = report.at(read(table), method, step, T, column)
    return 100 * sum(found) / len(found)


def test_a_step_of_proxy_learning_beside_one_of_the_relu_network_alone():
    rows = read(METHODS)
    seconds = {}
    for row in rows:
        seconds.setdefault(row["method"], []).append(float(row["cpu_seconds"]) / int(row["step"]))
    ours, theirs = (sum(of) / len(of) for of in (seconds["proxy"], seconds["conversion"]))
    assert f"takes {ours / theirs:.1f} times the CPU time" in PAGE


def test_the_methods_figures_are_those_of_the_csv():
    page = " ".join(PAGE.split())

    def of(name: str, column: str = "strict", step: int = 1740, T: int = 16) -> str:
        return f"{methods_mean(name, step, T, column):.1f}"

    for step in (50, 100, 200, 300, 580, 1160, 1740):
        cells = (", ".join(of(name, read_out, step) for name in PAIR) for read_out in ("strict", "potential"))
        assert f"| {step:,} | {' | '.join(cells)} |" in page
    for sentence in (
        f"By strict counts conversion ({of('conversion')} %) and QCFS ({of('qcfs')} %) are ahead of tandem learning "
        f"({of('tandem')} %) and of proxy learning ({of('proxy')} %)",
        f"ahead of BPTT ({of('bptt')} %) and TET ({of('tet')} %)",
        f"leads by potential:** {of('proxy', 'potential', 200)} % after 200 steps, conversion "
        f"{of('conversion', 'potential', 200)} %",
        "strict {} and {} %, by potential {} and {} %, its ReLU network {} and {} %".format(
            *(of(name, column) for column in ("strict", "potential", "relu") for name in PAIR)
        ),
        f"Without them (spikes pooled) it has {of('proxy, spikes pooled')} % strict and its ReLU network "
        f"{of('proxy, spikes pooled', 'relu')} %",
        f"in the place of means it has {of('proxy, statistics of steps')} %",
        f"{of('ReLU network, then proxy')} % after 870 steps of each",
        f"{of('qcfs', T=4)}, {of('bptt', T=4)} and {of('tet', T=4)} % strict, conversion {of('conversion', T=4)} %. "
        f"Proxy learning has {of('proxy', T=4)} %",
        f"after three epochs {of('conversion')} % by conversion, {of('tandem')} by tandem, {of('proxy')} by proxy, "
        f"{of('bptt')} by BPTT",
    ):
        assert sentence in page, sentence
    guide = (CHECKOUT / "docs" / "train.md").read_text()
    assert f"has {of('proxy, spikes pooled')} % in the place of {of('proxy')} %" in guide


def test_the_verdicts_on_the_methods_hold_in_the_csv():
    strict = {
        name: methods_mean(name, 1740, 16, "strict")
        for name in ("conversion", "qcfs", "tandem", "proxy", "bptt", "tet")
    }
    assert (
        min(strict["conversion"], strict["qcfs"])
        > strict["tandem"]
        > strict["proxy"]
        > max(strict["bptt"], strict["tet"])
    )
    for column in ("strict", "potential", "relu"):
        ours, theirs = (methods_mean(name, 1740, 16, column) for name in PAIR)
        assert theirs - 1 < ours < theirs
    assert all(
        methods_mean("proxy", step, 16, "potential") > methods_mean("conversion", step, 16, "potential")
        for step in (50, 100, 200, 300)
    )
    rows = read(METHODS)
    assert (
        len(report.at(rows, "proxy", 1740, 16, "strict")) == len(report.at(rows, "conversion", 1740, 16, "strict")) == 5
    )


def test_the_methods_on_cifar10_are_those_of_the_csv():
    rows = read("compare_methods_cifar10_0.0625_3_epochs.csv")
    assert report.markdown(rows) in PAGE
    for step in sorted({int(row["step"]) for row in rows}):
        shares = [[report.at(rows, name, step, 16, column) for name in PAIR] for column in ("strict", "potential")]
        means = [[100 * sum(of) / len(of) for of in pair] for pair in shares]
        cells = (", ".join(f"{mean:.1f}" for mean in pair) for pair in means)
        assert f"| {step:,} | {' | '.join(cells)} |" in PAGE
        (_, _), (proxy, conversion) = means
        assert proxy > conversion or step > 480  # as the page says


def test_the_methods_ends_are_those_of_the_csv():
    rows = read(METHODS)
    ends = re.search(r"^\| strict \| test, T = 16 \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)[1].splitlines()
    methods = list(dict.fromkeys(row["method"] for row in rows if row["step"] == "1740"))
    for method, line in zip(methods, ends, strict=True):
        found = [
            report.at(rows, method, 1740, *where) for where in ((16, "strict", "test"), (8, "strict"), (4, "strict"))
        ]
        expected = [f"{100 * sum(of) / len(of):.1f}" for of in found]
        assert [cell.strip() for cell in line.strip("|").split("|")][1:] == expected


def test_statistics_of_each_step_are_those_of_the_csv():
    names = "the authors' recipe", "the authors' recipe with statistics of each step"
    tables = "compare_methods_half_epoch.csv", "compare_methods_each_step.csv"
    for name, table, label in zip(names, tables, ("all steps", "each step"), strict=True):
        shares = (report.at(read(table), name, 200, 15, column)[:2] for column in ("strict", "potential", "relu"))
        cells = " | ".join(", ".join(f"{100 * share:.1f}" for share in of) for of in shares)
        assert f"| {label} | {cells} |" in PAGE


def test_the_papers_own_settings_are_those_of_the_csv():
    found = {int(row["T"]): (float(row["accuracy"]), float(row["ties"])) for row in read("authors_fashion_0.25.csv")}
    strict = " | ".join(f"{100 * found[T][0]:.2f} %" for T in (8, 15, 32, 50))
    lenient = " | ".join(f"{100 * sum(found[T]):.2f} %" for T in (8, 15, 32, 50))
    assert f"| strict | {strict} |" in PAGE and f"| lenient | {lenient} |" in PAGE
    assert f"width: {100 * found[15][0]:.2f} %; by the paper's count {100 * sum(found[15]):.2f} %" in PAGE
    rows = read("authors_fashion_0.25_training.csv")
    for label, column in (("strict, held out, T = 15", "snn"), ("its ReLU network", "ann")):
        cells = " | ".join(f"{100 * float(rows[epoch - 1][column]):.2f} %" for epoch in (1, 3, 10, 20, 50, 71, 100))
        assert f"| {label} | {cells} |" in PAGE
    assert max(rows, key=lambda row: float(row["snn"]))["epoch"] == "71"
    assert f"{sum(float(row['cpu_seconds']) for row in rows) / 3600:.1f} hours of CPU time" in PAGE
