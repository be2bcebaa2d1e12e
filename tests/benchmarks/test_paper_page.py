"""The accuracies on docs/paper.md are those of the CSV files."""

import csv
import re
from pathlib import Path

import pytest
from accuracy import energy_table as energy
from methods import report

PAIR = "proxy", "conversion"
METHODS, LONG = (f"compare_methods_paper_0.25_{epochs}_epochs.csv" for epochs in (3, 20))
LAST = {METHODS: 1740, LONG: 11_600}  # steps
CELLS = "strict", "potential", "relu"
TWIN_FIRST, AUTHORS = "ReLU network, then proxy", "the authors' recipe"
CLOSE = "conversion", "qcfs", "proxy", "tandem", TWIN_FIRST, "bptt", "tet"  # within a point of each other
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


@pytest.mark.parametrize("name", ["METHODS", "LONG"])
def test_the_tables_of_methods_are_those_of_the_csvs(name):
    table = report.markdown(read(globals()[name]))
    assert table in PAGE and table.count("\n") >= 4


def read(name: str) -> list[dict]:
    return list(csv.DictReader((CHECKOUT / "benchmarks" / "results" / name).open()))


def test_energy_in_the_verdict_is_that_of_the_csv():
    shares = re.findall(r": ([\d.]+) times", energy.summary(read("energy.csv")))
    arithmetic, memory = shares[::3], shares[1::3] + shares[2::3]
    arithmetic, memory = (sorted(of, key=float) for of in (arithmetic, memory))
    assert f"arithmetic: yes, {arithmetic[0]} to {arithmetic[-1]} times" in PAGE
    assert f"with memory: hardly or not, {memory[0]} to {memory[-1]} times" in PAGE


def test_held_out_accuracy_before_and_after_proxy_learning_is_in_the_csv():
    *_, last = read("training_paper.csv")
    assert last["stage"].startswith("proxy") and f"images from 94.60 to {100 * float(last['snn']):.2f} %" in PAGE


def methods_mean(method: str, step: int, T: int, column: str, table: str = METHODS) -> float:
    """In %, of the held-out images and all seeds."""
    found = report.at(read(table), method, step, T, column)
    return 100 * sum(found) / len(found)


def test_a_step_of_proxy_learning_beside_one_of_the_relu_network_alone():
    seconds = {}
    for row in read(METHODS) + read(LONG):
        seconds.setdefault(row["method"], []).append(float(row["cpu_seconds"]) / int(row["step"]))
    ours, theirs = (sum(of) / len(of) for of in (seconds["proxy"], seconds["conversion"]))
    assert f"takes {ours / theirs:.1f} times the CPU time" in PAGE
    spent = (report.at(read(LONG), name, 11_600, 16, "cpu_seconds") for name in ("bptt", "tet", AUTHORS))
    slower = sorted(last / first for first, *_, last in spent)
    assert f"took {slower[0]:.1f} to {slower[-1]:.1f} times as long as the first" in PAGE


def test_the_methods_figures_are_those_of_the_csvs():
    page = " ".join(PAGE.split())

    def of(name: str, column: str = "strict", step: int | None = None, T: int = 16, table: str = METHODS) -> str:
        return f"{methods_mean(name, step or LAST[table], T, column, table):.1f}"

    def long(name: str, column: str = "strict", step: int | None = None, T: int = 16) -> str:
        return of(name, column, step, T, LONG)

    for step in (50, 100, 200, 300, 580, 1160, 2320, 4640, 6960, 9280, 11600):
        cells = (", ".join(long(name, read_out, step) for name in PAIR) for read_out in ("strict", "potential"))
        assert f"| {step:,} | {' | '.join(cells)} |" in page
    seeds = [report.at(read(LONG), name, 11_600, 16, "strict") for name in (*PAIR, "qcfs")]
    apart = max(100 * (max(of) - min(of)) for of in seeds)
    strict = [methods_mean(name, 11_600, 16, "strict", LONG) for name in CLOSE]
    test = [report.at(read(LONG), name, 11_600, 16, "strict", "test") for name in CLOSE]
    tested = [100 * sum(found) / len(found) for found in test]
    for sentence in (
        f"all methods but the authors' recipe have {min(strict):.1f} to {max(strict):.1f} % by strict counts, and "
        f"{min(tested):.1f} to {max(tested):.1f} % on the test images. Conversion has {long('conversion')} %, "
        f"proxy learning {long('proxy')} %. The five seeds of one method lie up to {apart:.1f} points apart",
        f"{of('proxy')} %, BPTT {of('bptt')} % and TET {of('tet')} %",
        f"{long('proxy', 'potential', 200)} and {long('conversion', 'potential', 200)} % after 200",
        "| 20 epochs | 5 | {}, {} | {}, {} | {}, {} |".format(*(long(name, cell) for cell in CELLS for name in PAIR)),
        "| 3 epochs | 5 | {}, {} | {}, {} | {}, {} |".format(*(of(name, cell) for cell in CELLS for name in PAIR)),
        f"{long(TWIN_FIRST)} % with half of the steps each; the ReLU network trained on, converted, "
        f"{long('conversion')} %",
        f"{long(AUTHORS)} % after twenty epochs, {long(AUTHORS, 'lenient')} % by lenient counts",
        f"with four steps it has {long('proxy', T=4)} % strict after twenty epochs, conversion "
        f"{long('conversion', T=4)} % and QCFS {long('qcfs', T=4)} %. BPTT and TET were trained with four steps: "
        f"{long('bptt', T=4)} and {long('tet', T=4)} %",
        f"after twenty epochs {long('conversion')} % by conversion, {long('proxy')} by proxy, {long('tandem')} by "
        f"tandem learning, {long('bptt')} by BPTT",
    ):
        assert sentence in page, sentence
    guide = (CHECKOUT / "docs" / "train.md").read_text()
    assert f"has {of('proxy')} % after three epochs" in guide and f"it has {of('proxy, spikes pooled')} %." in guide


def test_the_verdicts_on_the_methods_hold_in_the_csvs():
    for table in (METHODS, LONG):
        for column in CELLS:
            ours, theirs = (methods_mean(name, LAST[table], 16, column, table) for name in PAIR)
            assert theirs - 1 < ours
    strict = [methods_mean(name, 11_600, 16, "strict", LONG) for name in CLOSE]
    assert max(strict) - min(strict) < 1 and methods_mean(AUTHORS, 11_600, 16, "strict", LONG) < min(strict)
    short = {name: methods_mean(name, 1740, 16, "strict") for name in ("proxy", "bptt", "tet")}
    assert short["proxy"] > max(short["bptt"], short["tet"])
    for step in (50, 100, 200, 300, 1160, 2320, 4640, 6960, 9280):
        ours, theirs = (methods_mean(name, step, 16, "potential", LONG) for name in PAIR)
        assert ours > theirs if step <= 300 else abs(ours - theirs) < 1, step
    rows = read(METHODS)
    assert all(len(report.at(rows, name, 1740, 16, "strict")) == 5 for name in PAIR)
    seeds = {name: len(report.at(read(LONG), name, 11_600, 16, "strict")) for name in (*CLOSE, AUTHORS)}
    fewer = [count for count in seeds.values() if count < 5]
    assert all(seeds[name] == 5 for name in PAIR) and (len(fewer), min(fewer), max(fewer)) == (5, 2, 3)
    assert "two or three seeds of five methods over twenty epochs" in PAGE


def test_the_methods_on_cifar10_are_those_of_the_csv():
    rows = read("compare_methods_cifar10_0.0625_3_epochs.csv")
    assert report.markdown(rows) in PAGE
    for step in sorted({int(row["step"]) for row in rows}):
        shares = [[report.at(rows, name, step, 16, column) for name in PAIR] for column in ("strict", "potential")]
        means = [[100 * sum(of) / len(of) for of in pair] for pair in shares]
        cells = (", ".join(f"{mean:.1f}" for mean in pair) for pair in means)
        assert f"| {step:,} | {' | '.join(cells)} |" in PAGE
        (_, _), (proxy, conversion) = means
        assert proxy > conversion or not 100 <= step <= 480  # as the page says
    ends = {name: report.at(rows, name, 1440, 16, "strict") for name in (*PAIR, "qcfs", "tandem")}
    assert all(ours > theirs for ours, theirs in zip(ends["tandem"], ends["conversion"], strict=True))
    means = {name: 100 * sum(of) / len(of) for name, of in ends.items()}
    spent = {name: sum(report.at(rows, name, 1440, 16, "cpu_seconds")) for name in ends}
    proxy, tandem = (f"{spent[name] / spent['conversion']:.1f} times" for name in ("proxy", "tandem"))
    page = " ".join(PAGE.split())
    for sentence in (
        f"from both seeds:** {means['tandem']:.1f} % by strict counts, conversion {means['conversion']:.1f} %",
        f"ahead of QCFS:** {means['proxy']:.1f} and {means['qcfs']:.1f} %",
        f"a step of proxy learning takes {proxy} as long, of tandem learning {tandem}",
    ):
        assert sentence in page, sentence


def test_the_methods_ends_are_those_of_the_csvs():
    found = re.findall(r"^\| strict \| test, T = 16 \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    for table, lines in zip((LONG, METHODS), found, strict=True):
        rows, last = read(table), LAST[table]
        methods = list(dict.fromkeys(row["method"] for row in rows))
        for method, line in zip(methods, lines.splitlines(), strict=True):
            ends = (16, "strict", "test"), (8, "strict"), (4, "strict")
            shares = [report.at(rows, method, last, *where) for where in ends]
            expected = [f"{100 * sum(of) / len(of):.1f}" for of in shares]
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
