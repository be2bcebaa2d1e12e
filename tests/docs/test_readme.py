"""What README shows runs as it stands."""

import csv
import re
from pathlib import Path

import pytest

import proxykernels as pk

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
README, SPEED = (ROOT / "README.md").read_text(), (ROOT / "docs" / "speed.md").read_text()


def test_examples_run():
    names = {}
    converted, own = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(converted, names)
    right = names["result"].logits.argmax(1) == names["labels"][128:]
    assert f"tensor({right.float().mean():.4f})" in converted and names["result"].spikes.rate() > 0.005
    exec(own, names)
    assert names["result"].count().shape == (8, 10) and names["result"].spikes.rate() > 0.005
    assert names["net"][0].weight.grad.abs().sum() > 0


def test_public_names_are_documented():
    for name in pk.__all__:
        assert getattr(pk, name).__doc__, f"pk.{name} has no docstring"


def test_the_first_screen():
    """What it is, a picture of spikes, install, example, speeds, what is missing, and where to go next."""
    first = "\n".join(README.splitlines()[:40])
    parts = (
        "*proxy*",
        "spikes.gif",
        "pip install",
        "pk.convert",
        "SpikingJelly",
        "something else",
        "missing",
        "## Where",
    )
    for part in parts:
        assert part in first, part


def row(beginning: str) -> str:
    """The line of the first table that begins so."""
    (line,) = (line for line in README.splitlines() if line.startswith(f"| {beginning}"))
    return line


def test_the_surrogate_step_is_in_the_csv():
    """The latest run of each contender."""
    rows = {row["contender"]: row for row in csv.DictReader((RESULTS / "surrogate_step.csv").open())}
    cost = {name: f"{float(row['wall_s']):.2f} s, {int(row['peak_mb']):,} MB" for name, row in rows.items()}
    best = min((name for name in rows if name != "proxykernels"), key=lambda name: float(rows[name]["wall_s"]))
    assert f"| **{cost['proxykernels']}** | {cost[best]}, {best} |" in row("surrogate training step, small network, 64")
    assert all((row["net"], row["batch"], row["T"]) == ("small", "64", "64") for row in rows.values())
    assert float(rows["SpikingJelly"]["gradient_difference"]) < 1e-4


@pytest.mark.parametrize(("net", "name"), [("small", "small network"), ("paper", "the paper's network")])
def test_the_speeds_of_many_images_are_those_of_the_speed_page(net, name):
    """Of 32 images and 64 steps: our row and that of the faster step loop, and the accuracy above them."""
    tables = re.findall(r"^\| ms per image.*\n\|[-|]+\n((?:\|.*\n)+)", README + SPEED, re.MULTILINE)
    lines = tables[["small", "paper"].index(net)].splitlines()
    cells = {line.split("|")[1].strip(" *"): line.split("|")[3].strip(" *") for line in lines}
    loop = cells["step loop, compiled"].replace(" (", ", compiled step loop (")
    right = cells["right of 10,000 images, %"]
    assert row(f"{name}\u00b9, 32").endswith(f"| **{cells['proxykernels']}** | {loop} | {right} % |")


def test_the_speed_of_one_image_is_in_the_csv():
    rows = [row for row in csv.DictReader((RESULTS / "engine_times.csv").open()) if row["weights"] == "trained"]
    of = {row["contender"]: row for row in rows if (row["net"], row["T"], row["batch"]) == ("paper", "16", "1")}
    times = [float(of[name]["changing_ms"]) for name in ("engine", "step loop, plain", "step loop, compiled")]
    loop = min(times[1:])
    text = f"| **{times[0]:.3g}** | {loop:.3g}, step loop ({loop / times[0]:.1f}x) | {of['engine']['right']} % |"
    assert row("the paper's network, compiled, one image").endswith(text), text
