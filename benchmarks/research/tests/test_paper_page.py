"""The accuracies on docs/paper.md are those of the CSV files."""

import csv
import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from accuracy import energy_table as energy
from methods import report
from methods.ways import WAYS, settings_of

PAIR = "proxy", "conversion"
METHODS, LONG = (f"compare_methods_paper_0.25_{epochs}_epochs.csv" for epochs in (3, 20))
LAST = {METHODS: 1740, LONG: 11_600}  # steps
CELLS = "strict", "potential", "relu"
TWIN_FIRST, AUTHORS = "ReLU network, then proxy", "the authors' recipe"
CLOSE = "conversion", "qcfs", "proxy", "tandem", TWIN_FIRST, "bptt", "tet"  # within a point of each other
CHECKOUT = Path(__file__).parents[3]
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
    assert f"clipped ReLUs: {100 * converted[4][0]:.2f} % at T = 4, {100 * converted[8][0]:.2f} % at T = 8" in PAGE


CIFAR = "compare_methods_cifar10_0.0625_3_epochs.csv"


@pytest.mark.parametrize("name", [METHODS, LONG, CIFAR])
def test_the_tables_of_methods_are_those_of_the_csvs(name):
    rows = read(name)
    for table in (report.markdown(rows), report.differences(rows), *[report.other_steps(rows)] * (name != CIFAR)):
        assert table in PAGE and table.count("\n") >= 4
    assert {row["images"] for row in rows if row["split"] == "test"} == {"10000"}
    assert {row["images"] for row in rows if row["split"] == "held-out"} == {"1000"}


def test_methods_are_read_at_the_steps_that_they_were_trained_for():
    options = Namespace(net="paper", T=16, batch=100)
    for name, way in WAYS.items():
        assert settings_of(way, options, 0).T == report.trained_for(name), name
    assert report.readings(read(LONG))[-5:] == [("bptt", 4), ("bptt", 16), ("tet", 4), ("tet", 16), (AUTHORS, 15)]


def test_a_difference_is_paired_by_seed_and_decided_by_three_seeds():
    def row(method: str, seed: int, strict: float, split: str = "test") -> dict:
        return {"method": method, "seed": str(seed), "step": "9", "T": "16", "split": split, "strict": str(strict)}

    ours = [row("a", 0, 0.91), row("a", 1, 0.83), row("a", 2, 0.99), row("a", 2, 0.1, "held-out")]
    theirs = [row("b", 2, 0.98), row("b", 0, 0.90), row("b", 1, 0.80), row("b", 7, 0.1)]
    found = report.difference(ours + theirs, ("a", 16), ("b", 16), "strict")
    assert found.points == pytest.approx([1.0, 3.0, 1.0])
    assert found.t == pytest.approx(2.5) and not found.decided and found.verdict == "undecided"
    assert str(found) == "+1.67, 3 of 3, t = 2.5"
    assert (
        report.Difference([1.0, 1.1, 0.9]).verdict == "ahead"
        and report.Difference([-1.0, -1.1, -0.9]).verdict == "behind"
    )
    assert report.Difference([1.0, 1.1]).verdict == "undecided"
    probability = torch.tensor(4.303).pow(2)  # P(|t| > x) with 2 degrees of freedom is 1 - x / sqrt(x^2 + 2)
    assert (1 - (probability / (probability + 2)).sqrt()).item() == pytest.approx(0.05, abs=1e-4)


def test_what_is_said_of_the_choice_of_settings():
    rows = read("compare_methods_paper_0.25_settings.csv")
    leads = []
    for method in {row["method"] for row in rows}:
        first, second, *_ = sorted((float(row["strict"]) for row in rows if row["method"] == method), reverse=True)
        leads.append(100 * (first - second))
    assert {row["images"] for row in rows} == {"1000"} and {row["steps"] for row in rows} == {"150"}
    assert f"What was chosen is {min(leads):.1f} to {max(leads):.1f} points ahead of the second" in PAGE
    error = 100 * (0.8 * 0.2 / 1000) ** 0.5
    assert f"whose standard error is {error:.1f} points" in " ".join(PAGE.split()) and max(leads) < 2 * error
    shares = {}
    for row in rows:
        if row["method"] in ("bptt", "tet") and (row["threshold"], row["start"], row["T"]) == ("1.0", "0.0", "4"):
            found = tuple(f"{100 * float(row[column]):.1f}" for column in report.SHARES)
            shares[row["method"], row["lr"]] = found
    (strict, lenient, slow), (ties, fewer, fast) = shares["bptt", "0.001"], shares["bptt", "0.003"]
    (*_, slow_tet), (*_, fast_tet) = shares["tet", "0.001"], shares["tet", "0.003"]
    assert (
        f"BPTT has {strict} % strict and {lenient} % lenient with 0.001, the one chosen, and {ties} and {fewer} % with "
        f"0.003. By potential 0.003 is ahead, {fast} to {slow} %; of TET {fast_tet} to {slow_tet} %."
    ) in " ".join(PAGE.split())
    assert float(fast) > float(slow) and float(fast_tet) > float(slow_tet)
    chosen = {row["method"]: row["lr"] for row in read(LONG)}
    assert chosen["bptt"] == chosen["tet"] == "0.001"


def read(name: str) -> list[dict]:
    return list(csv.DictReader((CHECKOUT / "benchmarks" / "results" / name).open()))


def test_energy_in_the_verdict_is_that_of_the_csv():
    shares = re.findall(r": ([\d.]+) times", energy.summary(read("energy.csv")))
    arithmetic, memory = shares[::3], shares[1::3] + shares[2::3]
    arithmetic, memory = (sorted(of, key=float) for of in (arithmetic, memory))
    assert f"arithmetic: yes, {arithmetic[0]} to {arithmetic[-1]} times" in PAGE
    assert f"with memory: hardly or not, {memory[0]} to {memory[-1]} times" in PAGE
    beside = re.findall(r": ([\d.]+) times", energy.summary(read("energy.csv"), energy.CASCADE))
    floats, bytes_, on_chip = (sorted(of, key=float) for of in (beside[::6], beside[3::6], beside[1::3]))
    told = f"{floats[0]} to {floats[-1]} times in float32, {bytes_[0]} to {bytes_[-1]} in int8, and with memory "
    told += f"{on_chip[0]} to {on_chip[-1]}"
    assert f"Beside a cascade of two ReLU networks: {told}" in PAGE


def test_held_out_accuracy_before_and_after_proxy_learning_is_in_the_csv():
    *_, last = read("training_paper.csv")
    assert last["stage"].startswith("proxy") and f"images from 94.60 to {100 * float(last['snn']):.2f} %" in PAGE


def methods_mean(method: str, step: int, T: int, column: str, table: str = METHODS, split: str = "held-out") -> float:
    """In %, of all seeds."""
    found = report.at(read(table), method, step, T, column, split)
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

    def held_out(name: str, column: str, step: int) -> str:
        return f"{methods_mean(name, step, 16, column, LONG):.1f}"

    def of(name: str, column: str = "strict", T: int = 16, table: str = METHODS) -> str:
        return f"{methods_mean(name, LAST[table], T, column, table, 'test'):.1f}"

    def long(name: str, column: str = "strict", T: int = 16) -> str:
        return of(name, column, T, LONG)

    def over(ours: str, theirs: str, column: str = "strict", table: str = LONG) -> report.Difference:
        return report.difference(read(table), (ours, 16), (theirs, 16), column)

    for step in (50, 100, 200, 300, 580, 1160, 2320, 4640, 6960, 9280, 11600):
        cells = (", ".join(held_out(name, read_out, step) for name in PAIR) for read_out in ("strict", "potential"))
        assert f"| {step:,} | {' | '.join(cells)} |" in page
    ahead, after = over("conversion", "proxy"), over("conversion", TWIN_FIRST)
    early = over("proxy", "conversion", "potential", METHODS)
    assert all(min(each.points) > 0 for each in (ahead, after, early)) and len(early.points) == 5
    tested = [methods_mean(name, 11_600, 16, "strict", LONG, "test") for name in CLOSE]
    for sentence in (
        f"conversion is ahead of proxy learning by {ahead.mean:.2f} points (5 of 5 seeds, t = {ahead.t:.1f})",
        f"conversion is ahead of proxy learning by {ahead.mean:.2f} points of strict counts (5 of 5 seeds, t = "
        f"{ahead.t:.1f}), and by {over('conversion', 'proxy', 'potential').mean:.2f} by potential",
        f"all methods but the authors' recipe have {min(tested):.1f} to {max(tested):.1f} %",
        f"by potential at T = 4, they have {long('bptt', 'potential', 4)} and {long('tet', 'potential', 4)} %; proxy "
        f"learning at T = 16 {long('proxy', 'potential')} %",
        f"proxy learning is ahead by {early.mean:.2f} points by potential (5 of 5 seeds, t = {early.t:.1f})",
        f"{held_out('proxy', 'potential', 200)} and {held_out('conversion', 'potential', 200)} % after 200",
        "| 20 epochs | 5 | {}, {} | {}, {} | {}, {} |".format(*(long(name, cell) for cell in CELLS for name in PAIR)),
        "| 3 epochs | 5 | {}, {} | {}, {} | {}, {} |".format(*(of(name, cell) for cell in CELLS for name in PAIR)),
        f"{long(TWIN_FIRST)} % with half of the steps each; the ReLU network trained on, converted, is ahead by "
        f"{after.mean:.2f} points (3 of 3 seeds, t = {after.t:.1f})",
        f"{long(AUTHORS, T=15)} % after twenty epochs at T = 15, for which it is trained, and "
        f"{long(AUTHORS, 'lenient', 15)} % by lenient counts. A step later it has {long(AUTHORS)} %, at T = 32 "
        f"{long(AUTHORS, T=32)} %",
        f"with four steps it has {long('proxy', T=4)} % strict after twenty epochs, conversion "
        f"{long('conversion', T=4)} % and QCFS {long('qcfs', T=4)} %. BPTT and TET were trained with four steps: "
        f"{long('bptt', T=4)} and {long('tet', T=4)} %",
    ):
        assert sentence in page, sentence
    guide = " ".join((CHECKOUT / "docs" / "train.md").read_text().split())
    assert f"has {of('proxy')} % of the test images after three epochs" in guide
    assert f"it has {of('proxy, spikes pooled')} %." in guide


def test_the_verdicts_on_the_methods_hold_in_the_csvs():
    for table in (METHODS, LONG):
        for column in CELLS:
            ours, theirs = (methods_mean(name, LAST[table], 16, column, table, "test") for name in PAIR)
            assert theirs - 1 < ours
    rows, short = read(LONG), read(METHODS)
    proxy = "proxy", 16

    def verdict(rows: list[dict], ours: tuple[str, int], column: str) -> str:
        return report.difference(rows, ours, proxy, column).verdict

    assert verdict(rows, ("conversion", 16), "strict") == verdict(rows, ("conversion", 16), "potential") == "ahead"
    for column in ("strict", "potential"):
        assert verdict(rows, ("tandem", 16), column) == verdict(rows, ("bptt", 16), column) == "undecided"
        assert verdict(rows, (TWIN_FIRST, 16), column) == "undecided"
    assert verdict(rows, ("bptt", 4), "potential") == "undecided"
    assert verdict(short, ("conversion", 16), "strict") == "undecided"
    assert verdict(short, ("conversion", 16), "potential") == "behind"
    tested = {name: methods_mean(name, 11_600, 16, "strict", LONG, "test") for name in (*CLOSE, AUTHORS)}
    assert min(tested, key=tested.__getitem__) == AUTHORS
    for step in (50, 100, 200, 300, 1160, 2320, 4640, 6960, 9280):
        ours, theirs = (methods_mean(name, step, 16, "potential", LONG) for name in PAIR)
        assert ours > theirs if step <= 300 else abs(ours - theirs) < 1, step
    seeds = {name: len(report.at(rows, name, 11_600, 16, "strict")) for name in (*CLOSE, AUTHORS)}
    assert seeds["tandem"] == seeds["bptt"] == 3
    assert all(len(report.at(short, name, 1740, 16, "strict")) == 2 for name in ("bptt", "tet"))
    fewer = [count for count in seeds.values() if count < 5]
    assert all(seeds[name] == 5 for name in PAIR) and (len(fewer), min(fewer), max(fewer)) == (5, 2, 3)
    assert "two or three seeds of five methods over twenty epochs" in PAGE


def test_the_methods_on_cifar10_are_those_of_the_csv():
    rows = read(CIFAR)
    for step in sorted({int(row["step"]) for row in rows}):
        shares = [[report.at(rows, name, step, 16, column) for name in PAIR] for column in ("strict", "potential")]
        means = [[100 * sum(of) / len(of) for of in pair] for pair in shares]
        cells = (", ".join(f"{mean:.1f}" for mean in pair) for pair in means)
        assert f"| {step:,} | {' | '.join(cells)} |" in PAGE
        (_, _), (proxy, conversion) = means
        assert proxy > conversion or not 100 <= step <= 480  # as the page says
    ends = {name: report.at(rows, name, 1440, 16, "strict", "test") for name in (*PAIR, "qcfs", "tandem")}
    for name, lower in (("tandem", "conversion"), ("conversion", "proxy")):
        assert len(ends[name]) == 2 and all(more > less for more, less in zip(ends[name], ends[lower], strict=True))
    means = {name: 100 * sum(of) / len(of) for name, of in ends.items()}
    spent = {name: sum(report.at(rows, name, 1440, 16, "cpu_seconds")) for name in ends}
    proxy, tandem = (f"{spent[name] / spent['conversion']:.1f} times" for name in ("proxy", "tandem"))
    page = " ".join(PAGE.split())
    for sentence in (
        f"with both seeds:** {means['tandem']:.1f} % by strict counts, conversion {means['conversion']:.1f} %",
        f"with both seeds:** {means['proxy']:.1f} %; QCFS {means['qcfs']:.1f} %",
        f"a step of proxy learning takes {proxy} as long, of tandem learning {tandem}",
    ):
        assert sentence in page, sentence


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


def test_half_the_width_is_that_of_the_csv():
    quarter, half = (read(f"authors_fashion_{width}_training.csv") for width in (0.25, 0.5))
    epochs = len(half)
    assert f"{epochs} of 100 epochs" in PAGE
    assert f"{sum(float(row['cpu_seconds']) for row in half) / 3600:.1f} hours of CPU time\n" in PAGE
    for column, label in (("snn", "strict, held out, T = 15"), ("ann", "its ReLU network")):
        for rows, name in ((half, f"half the width: {label}"), (quarter, "a quarter, the same")):
            cells = " | ".join(f"{100 * float(row[column]):.2f} %" for row in rows[:epochs])
            assert f"| {name} | {cells} |" in PAGE
    leads = [100 * (float(a["snn"]) - float(b["snn"])) for a, b in zip(half, quarter, strict=False)]
    assert f"{min(leads):.1f} to {max(leads):.1f} points" in PAGE
