"""The table of docs/recurrent.md: recurrent_speed.csv, a line for each case, times as long as proxykernels takes."""

from pathlib import Path

from common.checkout import RESULTS
from common.pages import markdown, put_table
from common.tables import read_csv

PAGE, TABLE = RESULTS.parents[1] / "docs" / "recurrent.md", "recurrent_speed"
OWN = "proxykernels"


def update(page: Path = PAGE) -> None:
    page.write_text(put_table(page.read_text(), TABLE, table(read_csv(RESULTS / "recurrent_speed.csv"))))


def table(rows: list[dict[str, str]]) -> str:
    others = [name for name in dict.fromkeys(row["contender"] for row in rows) if name != OWN]
    cases: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for row in rows:
        key = row["case"], row["batch"], row["T"], row["work"]
        cases.setdefault(key, {})[row["contender"]] = row
    lines = [
        [*key, f"{float(found[OWN]['ms']):.3g}", *(found[name]["times"] if name in found else "" for name in others)]
        for key, found in cases.items()
    ]
    return markdown([["case", "samples", "steps", "work", f"{OWN}, ms", *others], *lines])
