"""docs/events.md says what the tables of event_speed.py and train_events.py hold; where it does not, the
failure has the lines to put in. A table that was not measured leaves its place empty, a comment."""

from statistics import fmean

import pytest
from common.checkout import RESULTS
from common.tables import read_csv

PAGE = RESULTS.parents[1] / "docs" / "events.md"
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
    return block("train_events_time", "accuracy against the time after the first event", about, markdown(lines))


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
    return block(
        "event_speed", "cost of a step against its events", about,
        markdown([["sensor", "strides", "pixels with an event", *heads], *lines.values()]),
    )  # fmt: skip


def block(name: str, picture: str, about: str, table: str) -> str:
    results = "../benchmarks/results"
    return f"![{picture}]({results}/{name}.png)\n\n[{name}.csv]({results}/{name}.csv): {about}\n\n{table}"


TABLES = {"train_events_time": of_time, "event_speed": of_steps}


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_the_table(name):
    rows, place = read_csv(RESULTS / f"{name}.csv"), f"<!-- table of {name}.csv -->"
    page = PAGE.read_text()
    if not rows:
        assert place in page
        pytest.skip("not measured")
    wanted = TABLES[name](rows)
    assert place not in page and wanted in page, f"docs/events.md must have, for {place}:\n{wanted}"
