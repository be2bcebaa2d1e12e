"""What README shows runs as it stands."""

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
