"""The tables of docs/when.md, from those of against_relu.py, and their places in the page.

A network's part is its heading, picture and table, up to the next heading.
"""

import re
from pathlib import Path
from statistics import fmean

from common import names
from common.checkout import RESULTS
from common.pages import markdown, put_table
from common.tables import read_csv

from speed import levels

PAGE = RESULTS.parents[1] / "docs" / "when.md"
NEXT = "## In operations and energy"  # the heading behind the networks' parts
LIKE = {"avx512": "AVX-512", "avx2": "AVX2"}
NUMBERS = "rate", "million_additions", "million_products"
KINDS = {
    "a pass": (levels.RELU,),
    "smaller ReLU networks, cascades": (levels.CASCADE, *levels.SMALLER),
    "spiking": (levels.IF, levels.EARLY, levels.SIGMA_DELTA, levels.GRADED, levels.GRADED_CASCADE),
}
FOR_SPIKES = "small", "paper"  # networks that were trained for spikes
HEAD = "network", "ReLU network, right, %"


def table_of(net: str, like: str = "") -> Path:
    return RESULTS / f"against_relu_{net}{like and '_'}{like}.csv"


def measured(like: str = "") -> dict[str, levels.Rows]:
    """The tables that there are, by their networks."""
    return {net: read_csv(table_of(net, like)) for net in names.SUBJECTS if table_of(net, like).is_file()}


def update(page: Path = PAGE) -> None:
    """Put all tables into the page; networks that it has no part of come last."""
    text = page.read_text()
    for name, table in tables().items():
        text = put_table(text, name, table)
    for name, block in blocks().items():
        if f"### {name}\n" not in text:
            text = text.replace(f"\n{NEXT}", f"\n{block}\n\n{NEXT}")
        text = re.sub(rf"### {re.escape(name)}(?=\n).*?(?=\n\n##)", lambda _, block=block: block, text, flags=re.DOTALL)
    page.write_text(text)


def tables() -> dict[str, str]:
    """Those that compare networks, by the names of their places."""
    found = {"headline": headline(measured()), "plain": plain(measured()), "against int8": against_int8()}
    found |= {f"headline {like}": headline(measured(like)) for like in LIKE} | {"fastest": fastest(measured("avx2"))}
    widths = read_csv(RESULTS / "train_relu.csv")
    return found | ({"narrower": narrower(widths)} if widths else {})


def blocks() -> dict[str, str]:
    """A part of the page for each network, and for some of them on other processors, by their headings."""
    found = {net: block(net, rows) for net, rows in measured().items()}
    return found | {f"{net}, AVX2": block(net, rows, "avx2") for net, rows in measured("avx2").items()}


def block(net: str, rows: levels.Rows, like: str = "") -> str:
    """A network's part of the page: heading, picture, where the figures are from, table."""
    first, file = rows[0], f"../benchmarks/results/{table_of(net, like).stem}"
    where = f"{first['images']} test images; {first['device']}, {first['threads']} threads, commit {first['commit']}"
    parts = [
        f"### {net}{', AVX2' if like else ''}", f"![accuracy against time, {net}]({file}.png)",
        f"[{table_of(net, like).name}]({file}.csv): {where}.", table(rows),
    ]  # fmt: skip
    return "\n\n".join(parts)


def table(rows: levels.Rows) -> str:
    """A line for each contender and number of steps, times by images a call."""
    batches, lines = levels.batches(rows), {}
    marked = [
        level for line in levels.lines(rows) if (level := levels.first_level(levels.of_batch(rows, batches[0]), *line))
    ]
    bold = {(row["contender"], row["precision"], row["T"]) for row in marked}
    for row in rows:
        key = row["contender"], row["precision"], row["T"]
        steps = f"**{levels.steps(row)}**" if key in bold else levels.steps(row)
        told = [label(row), steps, levels.accuracy(row), *([levels.changed(row)] if rows[0].get("gained") else [])]
        told += (f"{float(row[name]):.3g}" if "million" in name else row[name] for name in NUMBERS)
        first = len(told)
        lines.setdefault((*key, row["by"]), [*told, *[""] * len(batches)])
        if row["batch"]:
            lines[*key, row["by"]][first + batches.index(row["batch"])] = f"{float(row['ms']):.3g}"
    calls = [f"ms, {levels.images(batch)} a call" for batch in batches]
    head = [rows[0]["net"], "T", "right, %", *(["gained, lost"] if rows[0].get("gained") else [])]
    head += ["rate, %", "million additions", "million products", *calls]
    return markdown([head, *sorted(lines.values(), key=lambda line: line[0] in levels.UNTIMED)])


def label(row: dict[str, str]) -> str:
    if row["contender"] in levels.UNTIMED:
        return row["contender"]
    by = "" if row["by"] == "engine" else f"{row['by']}, "
    return f"{row['contender']}, {by}{row['precision']}"


def headline(found: dict[str, levels.Rows]) -> str:
    """The first steps that are level, of each line of each network, and their times in the fastest passes."""
    lines, batches, precisions = [], [], []
    for rows in found.values():
        batches = batches or levels.batches(rows)
        precisions = precisions or list(levels.fastest(levels.of_batch(rows, batches[0])))
        for contender, precision in levels.lines(rows):
            shares, told = [], []
            for batch in levels.batches(rows):
                part = levels.of_batch(rows, batch)
                level = levels.first_level(part, contender, precision)
                last = levels.line(part, contender, precision)[-1]
                told = [levels.steps(level), level["right"]] if level else ["-", last["right"]]
                of_each = levels.passes(part, level).values() if level else []
                shares.append(" / ".join(f"{share:.2f}" for share in of_each))
            lines.append([rows[0]["net"], levels.reference(rows)["right"], f"{contender}, {precision}", *told, *shares])
    calls = [f"{' / '.join(precisions)} passes, {levels.images(batch)} a call" for batch in batches]
    return markdown([[*HEAD, "", "T", "right, %", *calls], *lines])


def fastest(found: dict[str, levels.Rows]) -> str:
    """The fastest of each of KINDS that is level, for each number of images a call."""
    head = [cell for kind in KINDS for cell in (kind, "ms", "right, %")]
    lines = [["network", "a call", *head]]
    for net, rows in found.items():
        for batch in levels.batches(rows):
            timed = [row for row in levels.of_batch(rows, batch) if row["ms"]]
            cells = [net, levels.images(batch)]
            for names_of_kind in KINDS.values():
                of_kind = [row for row in timed if row["contender"] in names_of_kind]
                level = [row for row in of_kind if levels.is_level(row, levels.reference(rows))]
                if level:
                    cells += named(min(level, key=lambda row: float(row["ms"])))
                else:
                    cells += ["none is level" if of_kind else "not timed", "", ""]
            lines.append(cells)
    return markdown(lines)


def named(row: dict[str, str]) -> tuple[str, str, str]:
    """A row's name with its steps, the milliseconds an image and the accuracy."""
    steps = levels.steps(row)
    return f"{label(row)}{steps and ', '}{steps}", f"{float(row['ms']):.3g}", row["right"]


def plain(found: dict[str, levels.Rows]) -> str:
    """How many steps networks need by logits, whether they were trained for spikes or not."""
    lines, steps = [], {levels.IF: ("4", "8", "16"), levels.SIGMA_DELTA: ("2", "4")}
    for net, rows in found.items():
        part, reference = levels.of_batch(rows, levels.batches(rows)[0]), levels.reference(rows)
        by_steps = {
            name: {row["T"]: row for row in levels.line(part, name, "float32") if row["T"] in of_name}
            for name, of_name in steps.items()
        }
        right = [row["right"] for of_name in by_steps.values() for row in of_name.values()]
        work = [by_steps[levels.IF]["8"]["million_additions"], by_steps[levels.SIGMA_DELTA]["4"]["million_additions"]]
        trained = "for spikes" if net in FOR_SPIKES else "as usual"
        figures = (f"{float(count):.3g}" for count in (*work, reference["million_products"]))
        lines.append([net, trained, levels.accuracy(reference), *right, *figures])
    head = ["IF, T = 4", "8", "16", "sigma-delta, T = 2", "4", "million additions, IF, T = 8", "sigma-delta, T = 4"]
    return markdown([["network", "trained", "ReLU network, right, %", *head, "million products of a pass"], *lines])


def against_int8() -> str:
    """The paper's network with early exit and int8 weights, and cascades, in passes of the int8 network."""
    lines = []
    for like, processor in {"": "AMX", **LIKE}.items():
        rows = read_csv(table_of("paper", like))
        parts = [levels.of_batch(rows, batch) for batch in levels.batches(rows)]
        for name in (levels.EARLY, levels.CASCADE):
            for of_each in zip(*(levels.line(part, name, "int8") for part in parts), strict=True):
                row = of_each[0]
                shares = [f"{levels.passes(*pair)['int8']:.2f}" for pair in zip(parts, of_each, strict=True)]
                what = f"up to {row['T']} steps" if name == levels.EARLY else f"cascade, {levels.steps(row)} go on"
                lines.append([f"{processor}, {what}", *shares, levels.accuracy(row)])
    calls = [levels.images(batch) for batch in levels.batches(rows)]
    return markdown([["", *calls, "right, %"], *lines])


def narrower(rows: levels.Rows) -> str:
    """The ReLU networks of train_relu.csv: a line for each network, of all its seeds."""
    lines = []
    for net in dict.fromkeys(row["net"] for row in rows):
        found = [row for row in rows if row["net"] == net]
        right = [float(row["right"]) for row in found]
        spread = f"{fmean(right):.2f} ({min(right):.2f} to {max(right):.2f})"
        lines.append([net, str(len(found)), found[0]["epochs"], spread, f"{float(found[0]['million_products']):.3g}"])
    return markdown([["network", "seeds", "epochs", "right, % (least to most)", "million products"], *lines])
