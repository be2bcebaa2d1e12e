"""A raster of the output: what the definition fires, and each simulator, whose first difference is marked."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from torch import Tensor

from .verdict import Verdict

MOST = 12  # neurons that are drawn


def draw(path: Path, verdicts: list[Verdict], expected: Tensor, folder: Path) -> Path:
    drawn = [("definition", expected, -1)]
    drawn += [(v.simulator, v.output, v.step) for v in verdicts if v.output is not None]
    figure, axes = plt.subplots(len(drawn), 1, figsize=(8, 1 + 0.9 * len(drawn)), sharex=True, squeeze=False)
    for axis, (name, output, step) in zip(axes[:, 0], drawn, strict=True):
        t, neuron = output[:, 0, :MOST].nonzero(as_tuple=True)
        axis.scatter(t, neuron, marker="|", s=20, linewidths=1, color="black" if name == "definition" else "tab:blue")
        if step >= 0:
            axis.axvline(step, color="tab:red", linewidth=0.8)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axis.set_yticks([])
    axes[-1, 0].set_xlabel("step; red: the first that differs")
    figure.suptitle(path.name)
    figure.tight_layout()
    place = folder / f"nir_referee_{path.stem}.png"
    figure.savefig(place, dpi=100)
    plt.close(figure)
    return place
