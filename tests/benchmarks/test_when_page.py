"""docs/when.md says what the tables of against_relu.py hold; where it does not, the failure has the lines to put in.

A table that was not measured leaves its place empty, a comment.
"""

import re
from pathlib import Path

import pytest
from common import subjects
from common.checkout import RESULTS
from common.tables import read_csv
from speed import levels

PAGE = RESULTS.parents[1] / "docs" / "when.md"
FOUND = {net: RESULTS / f"against_relu_{net}.csv" for net in subjects.NAMES}
NUMBERS = "rate", "million_additions", "million_products"


def label(row: dict[str, str]) -> str:
    if row["contender"] in levels.UNTIMED:
        return row["contender"]
    by = "" if row["by"] == "engine" else f"{row['by']}, "
    return f"{row['contender']}, {by}{row['precision']}"


def table(rows: levels.Rows) -> str:
    """Of a network: a line for each contender and number of steps, times by images a call."""
    batches, lines = levels.batches(rows), {}
    marked = [
        level for line in levels.lines(rows) if (level := levels.first_level(levels.of_batch(rows, batches[0]), *line))
    ]
    bold = {(row["contender"], row["precision"], row["T"]) for row in marked}
    for row in rows:
        key = row["contender"], row["precision"], row["T"]
        steps = f"**{levels.steps(row)}**" if key in bold else levels.steps(row)
        told = [label(row), steps, row["right"], *([levels.changed(row)] if rows[0].get("gained") else [])]
        told += (f"{float(row[name]):.3g}" if "million" in name else row[name] for name in NUMBERS)
        first = len(told)
        lines.setdefault((*key, row["by"]), [*told, *[""] * len(batches)])
        if row["batch"]:
            lines[*key, row["by"]][first + batches.index(row["batch"])] = f"{float(row['ms']):.3g}"
    calls = [f"ms, {levels.images(batch)} a call" for batch in batches]
    head = [rows[0]["net"], "T", "right, %", *(["gained, lost"] if rows[0].get("gained") else [])]
    head += ["rate, %", "million additions", "million products", *calls]
    return markdown([head, *sorted(lines.values(), key=lambda line: line[0] in levels.UNTIMED)])


def block(net: str) -> str:
    """A network's part of the page: heading, picture, where the figures are from, table."""
    rows, results = read_csv(FOUND[net]), "../benchmarks/results"
    first = rows[0]
    where = f"{first['images']} test images; {first['device']}, {first['threads']} threads, commit {first['commit']}"
    parts = [
        f"### {net}", f"![accuracy against time, {net}]({results}/against_relu_{net}.png)",
        f"[against_relu_{net}.csv]({results}/against_relu_{net}.csv): {where}.", table(rows),
    ]  # fmt: skip
    return "\n\n".join(parts)


def headline(found: dict[str, Path] = FOUND) -> str:
    """Of all networks that were measured: the first steps that are level, and their times in OpenVINO's passes."""
    lines, batches = [], []
    for net, path in found.items():
        if not path.is_file():
            continue
        rows = read_csv(path)
        batches = batches or levels.batches(rows)
        for contender, precision in levels.lines(rows):
            shares, told = [], []
            for batch in levels.batches(rows):
                part = levels.of_batch(rows, batch)
                level = levels.first_level(part, contender, precision)
                told = (
                    [levels.steps(level), level["right"]]
                    if level
                    else ["-", levels.line(part, contender, precision)[-1]["right"]]
                )
                shares.append(
                    " / ".join(f"{share:.2f}" for share in levels.passes(part, level).values()) if level else ""
                )
            lines.append([net, levels.reference(rows)["right"], f"{contender}, {precision}", *told, *shares])
    calls = [f"passes, {levels.images(batch)} a call" for batch in batches]
    return markdown([["network", "ReLU network, right, %", "", "T", "right, %", *calls], *lines])


def markdown(lines: list[list[str]]) -> str:
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join(f"| {' | '.join(line)} |".replace("| ---", "|---").replace("--- |", "---|") for line in lines)


def shown(wanted: str, name: str) -> None:
    page = PAGE.read_text()
    assert f"<!-- {name} -->" not in page and wanted in page, f"docs/when.md must have, for {name}:\n{wanted}"


@pytest.mark.parametrize("net", FOUND)
def test_table_is_that_of_the_csv(net):
    if not FOUND[net].is_file():
        pytest.skip("not measured")
    shown(block(net), f"table of against_relu_{net}.csv")


def test_headline_is_that_of_the_csvs():
    if not any(path.is_file() for path in FOUND.values()):
        pytest.skip("not measured")
    shown(headline(), "headline of against_relu_*.csv")
    assert not re.search(r"<!-- prose", PAGE.read_text())


@pytest.mark.parametrize("like", ["avx2", "avx512"])
def test_headline_of_another_processor_is_that_of_the_csvs(like):
    found = {net: RESULTS / f"against_relu_{net}_{like}.csv" for net in subjects.NAMES}
    if not any(path.is_file() for path in found.values()):
        pytest.skip("not measured")
    shown(headline(found), f"headline of against_relu_*_{like}.csv")


def test_what_other_pages_cite():
    """Of one image of the paper's network: four steps in float32, and early exit with int8 weights."""
    rows, root = levels.of_batch(read_csv(FOUND["paper"]), "1"), RESULTS.parents[1]
    readme, few_steps = ((root / name).read_text().replace("\n", " ") for name in ("README.md", "docs/few_steps.md"))
    level = levels.first_level(rows, levels.IF, "float32")
    float32, int8 = levels.passes(rows, level).values()
    reference = levels.reference(rows)["right"]
    for text in (
        f"a pass of its ReLU network, whose accuracy on the 10,000 test images is {reference} %:",
        f"| spiking network, {level['T']} steps |",
        f"| float32 | {level['right']} % | {float32:.2f} | {int8:.2f} |",
    ):
        assert text in readme, text
    assert f"{float32:.2f} of the float32 pass and {int8:.1f} of the int8 pass at T = {level['T']}" in few_steps
    level = levels.first_level(rows, levels.EARLY, "int8")
    passes = " | ".join(f"{share:.2f}" for share in levels.passes(rows, level).values())
    assert f"| int8, early exit | {level['right']} % | {passes} |" in readme
