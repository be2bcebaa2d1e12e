"""docs/engine.md says what engine_times.csv holds; where it does not, the failure has the lines to put in."""

import pytest
from common.checkout import RESULTS
from common.tables import read_csv
from speed import layer_table, levels

DOCS = RESULTS.parents[1]
PAGE = (DOCS / "docs" / "engine.md").read_text()
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


def shown(ms: float) -> str:
    return f"{ms:.3g}" if ms < 1000 else f"{ms:,.0f}"


def cell(row: dict[str, str]) -> str:
    """Back to back, and after a pause."""
    return " / ".join(shown(float(row[time])) for time in TIMES)


def lines(weights: str) -> list[str]:
    """The page's lines: of trained networks beside the faster loop, of converted ones beside the ReLU network."""
    found = []
    for rows in measurements(weights):
        engine = rows["engine"]
        cells = [NAMES[engine["net"]], engine["batch"], engine["T"], engine["right"], engine["rate"], cell(engine)]
        cells.append(cell(rows["simulate"]))
        if weights == "trained":
            cells.append(" / ".join(shown(loop(rows, time)) for time in TIMES))
            cells.append(" / ".join(f"{loop(rows, time) / float(engine[time]):.1f}" for time in TIMES))
        else:
            cells += [cell(rows[name]) for name in RELU]
        found.append(f"| {' | '.join(cells)} |")
    return found


@pytest.mark.parametrize("weights", ["trained", "converted"])
def test_the_tables_are_those_of_the_csv(weights):
    wanted = "\n".join(lines(weights))
    assert len(lines(weights)) == 16 and wanted in PAGE, f"docs/engine.md must have:\n{wanted}"


def layer_lines() -> str:
    """A line for each layer with weights, of each network and precision; cells by the images of a call."""
    found: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for row in LAYERS:
        if row["level"] or row["layer"] == layer_table.REST:
            found.setdefault((row["net"], row["precision"], row["layer"]), {})[row["batch"]] = row
    batches = sorted({row["batch"] for row in LAYERS}, key=int)
    heads = [f"{told}, {levels.images(batch)}" for told in ("us", "10^9 a second", "share") for batch in batches]
    lines = [["network", "weights", "layer", "kernel", "kB", "level", "limit", *heads]]
    lines.append(["---"] * len(lines[0]))
    for (net, precision, layer), rows in found.items():
        one = rows[batches[0]]
        cells = [NAMES[net], precision, layer, *(one[name] for name in ("kernel", "kilobytes", "level", "limit"))]
        lines.append([*cells, *(rows[batch][name] for name in ("us", "giga_a_second", "share") for batch in batches)])
    return "\n".join(f"| {' | '.join(line)} |".replace("| ---", "|---").replace("--- |", "---|") for line in lines)


def test_the_layers_are_those_of_the_csv():
    assert LAYERS and layer_lines() in PAGE, f"docs/engine.md must have, of layers:\n{layer_lines()}"


def test_the_accuracies_of_the_relu_networks():
    for net, name in NAMES.items():
        right = {row["contender"]: row["right"] for row in ROWS if row["net"] == net and row["contender"] in RELU}
        text = f"{name} {right[RELU[0]]} % ({right[RELU[2]]} in int8)"
        assert text in PAGE.replace("\n", " "), text
