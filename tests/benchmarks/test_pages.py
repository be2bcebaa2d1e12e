"""Pages of the docs say what the tables of results hold; where one does not, the failure has the lines to put in."""

import re
from pathlib import Path
from statistics import fmean, median

import pytest
from common.checkout import RESULTS
from common.figures import LOOKS
from common.pages import has_table
from common.tables import read_csv
from speed import layer_table, levels, recurrent_page, when_page

DOCS = RESULTS.parents[1]
ENGINE_PAGE = (DOCS / "docs" / "engine.md").read_text()
ROWS, LAYERS = read_csv(RESULTS / "engine_times.csv"), read_csv(RESULTS / "engine_layers.csv")
NAMES = {"small": "small", "paper": "the paper's"}
TIMES = "changing_ms", "paused_ms"
RELU = [f"ReLU network, {name}" for name in ("torch", "OpenVINO float32", "OpenVINO int8")]


def measurements(weights: str) -> list[dict[str, dict[str, str]]]:
    """The rows of each measurement, by contender; those of passes belong to the steps above them."""
    found: list[dict[str, dict[str, str]]] = []
    for row in ROWS:
        if row["weights"] == weights:
            if row["contender"] == "engine":
                found.append({})
            found[-1][row["contender"]] = row
    return found


def loop(rows: dict[str, dict[str, str]], time: str) -> float:
    return min(float(row[time]) for name, row in rows.items() if name.startswith("step loop"))


def three_digits(ms: float) -> str:
    return f"{ms:.3g}" if ms < 1000 else f"{ms:,.0f}"


def cell(row: dict[str, str]) -> str:
    """Back to back, and after a pause."""
    return " / ".join(three_digits(float(row[time])) for time in TIMES)


def lines(weights: str) -> list[str]:
    """The page's lines: of trained networks beside the faster loop, of converted ones beside the ReLU network."""
    found = []
    for rows in measurements(weights):
        engine = rows["engine"]
        cells = [NAMES[engine["net"]], engine["batch"], engine["T"], engine["right"], engine["rate"], cell(engine)]
        cells.append(cell(rows["simulate"]))
        if weights == "trained":
            cells.append(" / ".join(three_digits(loop(rows, time)) for time in TIMES))
            cells.append(" / ".join(f"{loop(rows, time) / float(engine[time]):.1f}" for time in TIMES))
        else:
            cells += [cell(rows[name]) for name in RELU]
        found.append(f"| {' | '.join(cells)} |")
    return found


@pytest.mark.parametrize("weights", ["trained", "converted"])
def test_the_tables_are_those_of_the_csv(weights):
    wanted = "\n".join(lines(weights))
    assert len(lines(weights)) == 16 and wanted in ENGINE_PAGE, f"docs/engine.md must have:\n{wanted}"


def layer_lines() -> str:
    """A line for each layer with weights, of each network and precision; cells by the images of a call."""
    found: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for row in LAYERS:
        if row["level"] or row["layer"] == layer_table.REST:
            found.setdefault((row["net"], row["precision"], row["layer"]), {})[row["batch"]] = row
    batches = sorted({row["batch"] for row in LAYERS}, key=int)
    heads = [f"{told}, {levels.images(batch)}" for told in ("us", "10^9 a second", "share") for batch in batches]
    lines = [["network", "weights", "layer", "kernel", "kB", "level", "limit", *heads]]
    for (net, precision, layer), rows in found.items():
        one = rows[batches[0]]
        cells = [NAMES[net], precision, layer, *(one[name] for name in ("kernel", "kilobytes", "level", "limit"))]
        lines.append([*cells, *(rows[batch][name] for name in ("us", "giga_a_second", "share") for batch in batches)])
    return markdown(lines)


def test_the_layers_are_those_of_the_csv():
    assert LAYERS and layer_lines() in ENGINE_PAGE, f"docs/engine.md must have, of layers:\n{layer_lines()}"


def test_the_accuracies_of_the_relu_networks():
    for net, name in NAMES.items():
        right = {row["contender"]: row["right"] for row in ROWS if row["net"] == net and row["contender"] in RELU}
        text = f"{name} {right[RELU[0]]} % ({right[RELU[2]]} in int8)"
        assert text in ENGINE_PAGE.replace("\n", " "), text


EVENTS_PAGE = RESULTS.parents[1] / "docs" / "events.md"
Rows = list[dict[str, str]]
SHOWN = ("none", "edges 0.1", "edges 1", "anywhere 20")  # of event_speed.csv; the others are for its picture


def markdown(lines: list[list[str]]) -> str:
    rule = f"|{'---|' * len(lines[0])}"
    head, *rest = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, rule, *rest])


def number(text: str) -> str:
    return f"{float(text):,.0f}" if float(text) >= 100 else f"{float(text):.3g}"


def where(rows: Rows) -> str:
    first = rows[0]
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    return f"{first['device']}, torch {first['torch']}, commit {commits}"


def of_time(rows: Rows) -> str:
    """Accuracy of each method, the mean of its seeds, a column for each time."""
    times = list(dict.fromkeys(row["ms"] for row in rows))
    lines = [["accuracy, %, so many ms after the first event", *times]]
    for method in dict.fromkeys(row["method"] for row in rows):
        found = [row for row in rows if row["method"] == method]
        seeds = len({row["seed"] for row in found})
        right = ([100 * float(row["strict"]) for row in found if row["ms"] == ms] for ms in times)
        assert len(found) == seeds * len(times)
        lines.append([f"{method}, {seeds} seed{'s' * (seeds > 1)}", *(f"{fmean(each):.1f}" for each in right)])
    about = f"{rows[0]['images']} training images; strict argmax, a tie is wrong."
    return figure("train_events_time", "accuracy against the time after the first event", about, markdown(lines))


def of_steps(rows: Rows) -> str:
    """A line for each size, strides and events; columns by biases and threads."""
    columns = list(dict.fromkeys((row["bias"], row["threads"]) for row in rows))
    heads = [f"{bias} biases, {count} thread{'s' * (count != '1')}" for bias, count in columns]
    lines = {}
    for row in rows:
        events = row["events"] if row["events"] == "none" else f"{row['events']} {row['percent']}"
        if events not in SHOWN:
            continue
        told = (
            events if events == "none" else f"{row['percent']} % {'along edges' if 'edges' in events else 'anywhere'}"
        )
        key = row["size"], row["strides"], told
        line = lines.setdefault(key, [*key, *[""] * len(columns)])
        engine, torch = float(row["engine_ms"]), float(row["torch_ms"])
        cell = f"{engine:.3g}, {torch:.3g}: **{torch / engine:.3g}**"
        line[3 + columns.index((row["bias"], row["threads"]))] = cell
    about = f"ms a step of the engine and of PyTorch, and times as fast; medians; {where(rows)}."
    return figure(
        "event_speed", "cost of a step against its events", about,
        markdown([["sensor", "strides", "pixels with an event", *heads], *lines.values()]),
    )  # fmt: skip


def figure(name: str, picture: str, about: str, table: str) -> str:
    results = "../benchmarks/results"
    return f"![{picture}]({results}/{name}.png)\n\n[{name}.csv]({results}/{name}.csv): {about}\n\n{table}"


TABLES = {"train_events_time": of_time, "event_speed": of_steps}


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_the_table(name):
    rows, place = read_csv(RESULTS / f"{name}.csv"), f"<!-- table of {name}.csv -->"
    page = EVENTS_PAGE.read_text()
    if not rows:
        assert place in page
        pytest.skip("not measured")
    wanted = TABLES[name](rows)
    assert place not in page and wanted in page, f"docs/events.md must have, for {place}:\n{wanted}"


TEXT = when_page.PAGE.read_text()


@pytest.mark.parametrize("name", when_page.tables())
def test_tables_are_those_of_the_csvs(name):
    wanted = when_page.tables()[name]
    assert wanted.count("\n") > 1
    assert has_table(TEXT, name, wanted), f"docs/when.md must have behind its mark:\n{wanted}"


@pytest.mark.parametrize("name", when_page.blocks())
def test_networks_have_the_tables_of_their_csvs(name):
    wanted = when_page.blocks()[name]
    assert f"{wanted}\n" in TEXT, f"docs/when.md must have:\n{wanted}"


def test_tables_are_put_in_their_places(tmp_path, monkeypatch):
    page = tmp_path / "when.md"
    page.write_text("<!-- table: a -->\n\n| old |\n|-|\n\nB\n\n### net, AVX2\n\n### net\n\nold\n\n| old |\n\n## End\n")
    monkeypatch.setattr(when_page, "tables", lambda: {"a": "| new |\n|-|", "elsewhere": "| x |"})
    found = {"net": "### net\n\nnew", "net, AVX2": "### net, AVX2\n\nx", "two": "### two\n\ny"}
    monkeypatch.setattr(when_page, "blocks", lambda: found)
    monkeypatch.setattr(when_page, "NEXT", "## End")
    when_page.update(page)
    assert page.read_text() == (
        "<!-- table: a -->\n\n| new |\n|-|\n\nB\n\n### net, AVX2\n\nx\n\n### net\n\nnew\n\n### two\n\ny\n\n## End\n"
    )


def test_what_other_pages_cite():
    """The figures of one image of the paper's network with int8 weights, and of the cascade that is faster."""
    rows, root = levels.of_batch(read_csv(when_page.table_of("paper")), "1"), RESULTS.parents[1]
    readme, few_steps = ((root / name).read_text().replace("\n", " ") for name in ("README.md", "docs/few_steps.md"))
    found = [levels.first_level(rows, name, "int8") for name in (levels.IF, levels.EARLY, levels.CASCADE)]
    steps, early, cascade = found
    named = (
        f"spiking, int8, {steps['T']} steps",
        f"spiking, int8, early exit, {int(early['T']) // 2} to {early['T']} steps",
        f"cascade of ReLU networks, int8: the small one answers, {cascade['T']} % of the images go on to this one",
    )
    assert f"whose accuracy on the 10,000 test images is {levels.reference(rows)['right']} %:" in readme
    for name, row in zip(named, found, strict=True):
        shares = " | ".join(f"{share:.2f}" for share in passes(rows, row))
        assert f"| {name} | {row['right']} % | {shares} |" in readme, name
    float32, int8 = passes(rows, steps)
    assert f"{float32:.2f} of the float32 pass and {int8:.1f} of the int8 pass at T = {steps['T']}" in few_steps


def passes(rows: levels.Rows, row: dict[str, str]) -> tuple[float, float]:
    found = levels.passes(rows, row)
    return found["float32"], found["int8"]


LIBRARIES = [
    ("proxykernels", "proxykernels"), ("snntorch", "snnTorch"), ("snntorch-at-once", "snnTorch, `reset_delay=False`")
]  # fmt: skip


@pytest.mark.parametrize("library, name", LIBRARIES)
def test_the_recurrent_table_is_that_of_the_csv(library, name):
    rows = [row for row in read_csv(RESULTS / "train_vowels.csv") if row["library"] == library]
    right = [100 * float(row["accuracy"]) for row in rows]
    seconds = (f"{median(float(row[column]) for row in rows):.3f}" for column in ("train_s", "test_s"))
    line = [name, ", ".join(f"{each:.1f}" for each in right), f"{fmean(right):.1f}", *seconds]
    assert f"| {' | '.join(line)} |" in (RESULTS.parents[1] / "docs" / "recurrent.md").read_text()


def test_speeds_are_those_of_the_csv():
    wanted = recurrent_page.table(read_csv(RESULTS / "recurrent_speed.csv"))
    assert wanted.count("\n") > 3
    assert has_table(recurrent_page.PAGE.read_text(), recurrent_page.TABLE, wanted), wanted


CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text()
PAGES = README + (CHECKOUT / "docs" / "speed.md").read_text()
CONTENDERS = {look.label: key for key, look in LOOKS.items()}
SOFT = [("soft", "32", T) for T in ("16", "64", "256")]
MACHINES = {  # device and threads
    "EPYC": ("AMD EPYC", "2"), "EPYC with AVX2": ("AMD EPYC, AVX2", "2"), "Xeon": ("Intel(R) Xeon(R) Processor", "1"),
}  # fmt: skip
SPEEDS = {"small": SOFT, "paper": [*SOFT, ("soft", "1", "64")]}
OF_ALL, OF_THE_RUN = "right of 10,000 images, %", "right of the "  # how rows of accuracies begin


def accuracy(net: str, T: str) -> str:
    """The accuracy of the shipped network, in % of the test images; "" where it is not known."""
    found = {
        row["right"]
        for row in read_csv(RESULTS / "engine_times.csv")
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


@pytest.mark.parametrize(("number", "net"), list(enumerate(SPEEDS)))
def test_speeds_are_in_the_csv(number, net):
    """Every cell is the time of a row, and its ratio that to proxykernels in the same run."""
    runs: dict[tuple, dict[str, float]] = {}
    rights: dict[tuple, dict[str, float]] = {}
    for row in read_csv(RESULTS / "sim_speed.csv"):
        if row["neuron"] != "if":
            continue
        key = row["date"], row["net"], row["reset"], row["batch"], row["T"]
        runs.setdefault(key, {})[row["contender"]] = float(row["median_ms_per_image"])
        rights.setdefault(key, {})[row["contender"]] = float(row["accuracy"])
    checked = 0
    for name, figures in cells(number).items():
        for column, cell in zip(SPEEDS[net], figures, strict=True):
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
    right = {int(row["T"]): f"{100 * float(row['accuracy']):.2f} %" for row in read_csv(path)}
    cells = (right[T] for T in (4, 8, 16, 32, 50))
    assert f"| {name} | strict | {' | '.join(cells)} |" in (CHECKOUT / "docs" / "paper.md").read_text()


def test_table_of_three_machines_is_in_the_csv():
    """The latest runs; ratios are of the faster step loop to proxykernels. Right are as many images on all machines."""
    contenders = ["proxykernels", "proxykernels int16", "proxykernels int8", "compiled"]
    runs: dict[tuple[str, ...], dict[str, float]] = {}
    rights: dict[tuple[str, str], set[str]] = {}
    for row in read_csv(RESULTS / "sim_speed.csv"):
        if (row["net"], row["batch"], row["T"], row["trained"]) == ("paper", "32", "64", "True"):
            run = runs.setdefault((row["reset"], row["device"], row["threads"], row["date"]), {})
            run[row["contender"]] = float(row["median_ms_per_image"])
            rights.setdefault((row["reset"], row["contender"]), set()).add(f"{32 * float(row['accuracy']):.0f}")
    for name, figures in cells(len(SPEEDS)).items():
        if name.startswith(OF_THE_RUN):
            reset = name.rpartition(", ")[2].removesuffix(" reset")
            assert [{cell} for cell in figures] == [rights[reset, contender] for contender in contenders], name
            continue
        reset, machine = name.split(" reset, ")
        times = runs[max(key for key in runs if key[:3] == (reset, *MACHINES[machine]))]
        loop = min(times[key] for key in ("plain", "compiled") if key in times)
        expected = [f"{times[key]:.3g} ({loop / times[key]:.1f}x)" for key in contenders[:-1]]
        assert figures == [*expected, f"{times['compiled']:.3g}" if "compiled" in times else "-"], name
