"""The picture of evaluate.py sigma-delta: agreement with the ReLU network against steps, and against energy."""

from pathlib import Path

from common import figures
from common.tables import read_csv, save_figure

NETS = {"resnet20": "ResNet-20, Fashion-MNIST", "lite0": "EfficientNet-Lite0, photographs"}
NEURONS = ("sigma-delta, K = 9", "sigma-delta, K = 9, signed", "IF")
COLUMNS = ("net", "neurons", "T", "same_class", "arithmetic_uj", "neurons_uj")  # that are drawn
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)


def draw(folder: Path) -> None:
    """few_steps.png, of the networks of NETS that few_steps_sigma_delta.csv has."""
    table = read_csv(folder / "few_steps_sigma_delta.csv", COLUMNS)
    nets = [net for net in NETS if any(row["net"] == net for row in table)]
    if not nets:
        return
    figure, panels = figures.new_figure(6.2, len(nets), rows=2)
    for net, above, below in zip(nets, panels, panels[len(nets) :], strict=False):
        rows = [row for row in table if row["net"] == net]
        relu = {row["neurons"]: _energy(row) for row in rows if row["neurons"].startswith("ReLU")}
        for name in NEURONS:
            of_it = [row for row in rows if row["neurons"] == name]
            same = [100 * float(row["same_class"]) for row in of_it]
            above.semilogx([int(row["T"]) for row in of_it], same, marker="o", markersize=3, **figures.line(name))
            shares = [_energy(row) / relu["ReLU"] for row in of_it]
            below.semilogx(shares, same, marker="o", markersize=3, **figures.line(name))
        for share, label in ((1.0, "dense"), (relu["ReLU, zeros skipped"] / relu["ReLU"], "zeros skipped")):
            below.axvline(share, color=figures.GRAY, linestyle=":" if share == 1 else "--")
            below.text(share, 3, f" {label}", color="#444444", fontsize=8, rotation=90, va="bottom", ha="right")
        for panel in (above, below):
            panel.set(ylim=(0, 102), ylabel="same class, %")
        figures.ticks(above.xaxis, STEPS)
        low, high = below.get_xlim()
        figures.plain_numbers(below.xaxis, low, high)
        above.set(title=NETS[net], xlabel="steps T")
        below.set(xlabel="energy, passes of the ReLU network")
    figures.legend(figure, panels[0])
    sentence = "Sigma-delta neurons give the ReLU network's class after two to six steps"
    figures.title(figure, sentence, "energy of additions, products and neurons, 45 nm, memory not counted")
    save_figure(folder / "few_steps.png", figure)


def _energy(row: dict[str, str]) -> float:
    return float(row["arithmetic_uj"]) + float(row["neurons_uj"])
