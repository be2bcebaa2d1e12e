"""docs/kernels.md says what gpu_model.csv holds; where it does not, the failure has the lines to put in."""

import pytest
from common.checkout import RESULTS
from common.tables import read_csv
from gpu_times import tables, time_model

PAGE = RESULTS.parents[1] / "docs" / "kernels.md"
ROWS = read_csv(RESULTS / "gpu_model.csv")
RIVALS = "layers-graph-float16", "layers-graph-tf32", "layers-graph-float32"


def figures(card: str, batch: int, T: int) -> list[str]:
    """Milliseconds of ours, by weights, and of the rivals."""
    rows = [row for row in ROWS if (row["card"], row["batch"], row["T"]) == (card, str(batch), str(T))]
    ours = {row["weights"]: row["ms"] for row in rows}
    rivals = {row["rival"]: row["rival_ms"] for row in rows}
    return [f"{float(ms):g}" for ms in [*map(ours.get, time_model.WEIGHTS), *map(rivals.get, RIVALS)]]


def goal_lines() -> list[str]:
    """For each goal: the rival, the wanted speed-up, the modelled one, the limit, and whether it is met."""
    names = {"layers-graph-float32": "IEEE float32", "layers-graph-float16": "float16"}
    lines = []
    for row in ROWS:
        if row["goal"]:
            cells = row["weights"], f"rival, {names[row['rival']]}", f"{float(row['goal']):g} times"
            lines.append(" | ".join(["", *cells, row["ratio"], row["limit"], row["met"], ""]).strip())
    return lines


@pytest.mark.parametrize("card", time_model.CARDS)
def test_times(card):
    page = PAGE.read_text()
    lines = [f"| {card}, {batch} | {' | '.join(figures(card, batch, 64))} |" for batch in (1, 32, 128)]
    lines += [f"| {card}, {T} | {' | '.join(figures(card, 128, T))} |" for T in (4, 16)]
    assert not [line for line in lines if line not in page]


def test_goals():
    assert len(goal_lines()) == len(tables.GOALS)
    assert not [line for line in goal_lines() if line not in PAGE.read_text()]


def test_the_table_is_of_the_kernels_of_few_steps():
    kernels = read_csv(RESULTS / "gpu_model_kernels.csv")
    assert {row["steps"] for row in kernels} == {"4", "16", "32"}
