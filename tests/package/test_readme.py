"""What README shows runs as it stands."""

import csv
import re
from pathlib import Path

import proxykernels as pk

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_examples_run():
    names = {}
    converted, own = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(converted, names)
    assert names["answer"].shape == (8,) and names["result"].spikes.rate() > 0.005
    exec(own, names)
    assert names["result"].count().shape == (8, 10) and names["result"].spikes.rate() > 0.005
    assert names["net"][0].weight.grad.abs().sum() > 0


def test_public_names_are_documented():
    for name in pk.__all__:
        assert getattr(pk, name).__doc__, f"pk.{name} has no docstring"


def test_the_first_screen():
    """Claim, pictures of spikes and of speed, install, example, what is slower and missing, training, guides."""
    first = "\n".join(README.splitlines()[:40])
    for part in ("spikes.gif", "speed.png", "pip install", "pk.convert", "slower", "missing", "Training", "all guides"):
        assert part in first, part


def test_the_surrogate_step_is_in_the_csv():
    """The latest run of each contender."""
    table = Path(__file__).parents[2] / "benchmarks" / "results" / "surrogate_step.csv"
    rows = {row["contender"]: row for row in csv.DictReader(table.open())}
    cost = {name: f"{float(row['wall_s']):.2f} s and {int(row['peak_mb']):,} MB" for name, row in rows.items()}
    ours, rivals = cost["proxykernels"], [f"{name} {{}}{cost[name]}" for name in ("SpikingJelly", "snnTorch")]
    said = " ".join(README.split())
    assert f"64 images, T = 64, takes {ours}, where {rivals[0].format('takes ')}, and {rivals[1].format('')}" in said
    assert all((row["net"], row["batch"], row["T"]) == ("small", "64", "64") for row in rows.values())
    assert float(rows["SpikingJelly"]["gradient_difference"]) < 1e-4
