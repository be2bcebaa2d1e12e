"""The tables of README and docs/speed.md are those of the CSV file."""

import csv
import re
from pathlib import Path

import pytest
from common.figures import LOOKS

CHECKOUT = Path(__file__).parents[2]
RESULTS = CHECKOUT / "benchmarks" / "results"
README = (CHECKOUT / "README.md").read_text()
PAGES = README + (CHECKOUT / "docs" / "speed.md").read_text()
CONTENDERS = {look.label: key for key, look in LOOKS.items()}
SOFT = [("soft", "32", T) for T in ("16", "64", "256")]
MACHINES = {  # device and threads
    "EPYC": ("AMD EPYC", "2"), "EPYC with AVX2": ("AMD EPYC, AVX2", "2"), "Xeon": ("Intel(R) Xeon(R) Processor", "1"),
}  # fmt: skip
TABLES = {"small": SOFT, "paper": [*SOFT, ("soft", "1", "64")]}
OF_ALL, OF_THE_RUN = "right of 10,000 images, %", "right of the "  # how rows of accuracies begin


def accuracy(net: str, T: str) -> str:
    """Of the shipped network, in % of the test images; "" where it is not known."""
    found = {
        row["right"]
        for row in csv.DictReader((RESULTS / "engine_times.csv").open())
        if (row["net"], row["weights"], row["T"], row["precision"]) == (net, "trained", T, "float32")
    }
    (found,) = found or {""}
    return found


def right_of_run(rights: dict[str, float], images: int) -> str:
    """How many images of a run were right, and of int8 where that differs."""
    ours, rounded = (round(images * rights.get(f"proxykernels{name}", -1)) for name in ("", " int8"))
    return f"{ours} (int8: {rounded})" if 0 <= rounded != ours else f"{ours}"


def cells(number: int) -> dict[str, list[str]]:
    """The rows of the table of that number, by their first cell."""
    tables = re.findall(r"^\| ms per image.*\n\|[-|]+\n((?:\|.*\n)+)", PAGES, re.MULTILINE)
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in tables[number].splitlines()]
    return {name: figures for name, *figures in rows}


@pytest.mark.parametrize(("number", "net"), list(enumerate(TABLES)))
def test_table_is_in_the_csv(number, net):
    """Every cell is the time of a row, and its ratio that to proxykernels in the same run."""
    runs: dict[tuple, dict[str, float]] = {}
    rights: dict[tuple, dict[str, float]] = {}
    for row in csv.DictReader((RESULTS / "sim_speed.csv").open()):
        if row["neuron"] != "if":
            continue
        key = row["date"], row["net"], row["reset"], row["batch"], row["T"]
        runs.setdefault(key, {})[row["contender"]] = float(row["median_ms_per_image"])
        rights.setdefault(key, {})[row["contender"]] = float(row["accuracy"])
    checked = 0
    for name, figures in cells(number).items():
        for column, cell in zip(TABLES[net], figures, strict=True):
            if cell == "-":
                continue
            if name == OF_ALL:
                assert cell == accuracy(net, column[2]), column
                continue
            if name.startswith(OF_THE_RUN):
                of_column = {
                    right_of_run(found, int(column[1]))
                    for about, found in rights.items()
                    if about[1:] == (net, *column)
                }
                assert cell in of_column, column
                continue
            found = set()
            for (_, *about), times in runs.items():
                if tuple(about) == (net, *column) and CONTENDERS[name] in times:
                    time = times[CONTENDERS[name]]
                    ratio = "" if name.startswith("proxykernels") else f" ({time / times['proxykernels']:.1f}x)"
                    found.add(f"{time:.3g}{ratio}")
            assert cell in found, (name, column)
            checked += 1
    assert checked >= 21


@pytest.mark.parametrize(
    ("name", "table"),
    [("the paper's, by proxy", "accuracy_paper"), ("its ReLU network, converted", "accuracy_paper_converted")],
)
def test_the_accuracies_are_in_the_csv(name, table):
    path = RESULTS / f"{table}.csv"
    right = {int(row["T"]): f"{100 * float(row['accuracy']):.2f} %" for row in csv.DictReader(path.open())}
    cells = (right[T] for T in (4, 8, 16, 32, 50))
    assert f"| {name} | strict | {' | '.join(cells)} |" in (CHECKOUT / "docs" / "paper.md").read_text()


def test_table_of_three_machines_is_in_the_csv():
    """The latest runs; ratios are of the faster step loop to proxykernels. Right are as many images on all machines."""
    contenders = ["proxykernels", "proxykernels int16", "proxykernels int8", "compiled"]
    runs: dict[tuple[str, ...], dict[str, float]] = {}
    rights: dict[tuple[str, str], set[str]] = {}
    for row in csv.DictReader((RESULTS / "sim_speed.csv").open()):
        if (row["net"], row["batch"], row["T"], row["trained"]) == ("paper", "32", "64", "True"):
            run = runs.setdefault((row["reset"], row["device"], row["threads"], row["date"]), {})
            run[row["contender"]] = float(row["median_ms_per_image"])
            rights.setdefault((row["reset"], row["contender"]), set()).add(f"{32 * float(row['accuracy']):.0f}")
    for name, figures in cells(len(TABLES)).items():
        if name.startswith(OF_THE_RUN):
            reset = name.rpartition(", ")[2].removesuffix(" reset")
            assert [{cell} for cell in figures] == [rights[reset, contender] for contender in contenders], name
            continue
        reset, machine = name.split(" reset, ")
        times = runs[max(key for key in runs if key[:3] == (reset, *MACHINES[machine]))]
        loop = min(times[key] for key in ("plain", "compiled") if key in times)
        expected = [f"{times[key]:.3g} ({loop / times[key]:.1f}x)" for key in contenders[:-1]]
        assert figures == [*expected, f"{times['compiled']:.3g}" if "compiled" in times else "-"], name
