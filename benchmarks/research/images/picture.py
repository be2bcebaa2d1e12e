"""The picture of imagenet.py: photographs, and how sure the spiking network becomes of what the ReLU network sees."""

from pathlib import Path

from common import figures, photographs
from common.tables import read_csv, save_figure

SIZE = 224  # pixels of a photograph
ANSWERS = ("photograph", "T", "relu_probability", "probability_of_it", "relu_class")  # that are drawn
SPEED_COLUMNS = ("contender", "ms_a_step", "times_ours", "peak_mb", "counts_different")
SPEED_HEADINGS = ["", "ms a step\nand image", "times as\nlong", "peak MB", "counts that\ndiffer"]


def draw(folder: Path) -> None:
    """imagenet.png, from the tables in ``folder`` and the photographs."""
    names, images = photographs.photographs(SIZE)
    answers = read_csv(folder / "imagenet_answers.csv", ANSWERS)
    rows = read_csv(folder / "imagenet.csv", ("net", "T", "same_class"))
    figure, panels = figures.new_figure(3.9, len(names), rows=2)
    photos, curves = panels[: len(names)], panels[len(names) :]
    for k, (name, image, photo, panel) in enumerate(zip(names, images, photos, curves, strict=True)):
        of_it = [row for row in answers if row["photograph"] == name]
        steps = [int(row["T"]) for row in of_it]
        relu = 100 * float(of_it[0]["relu_probability"])
        panel.axhline(relu, color=figures.GRAY, linestyle="--", label="ReLU network")
        shares = [100 * float(row["probability_of_it"]) for row in of_it]
        panel.semilogx(steps, shares, color=figures.BLACK, marker="o", markersize=3, label="after T steps")
        panel.set(ylim=(0, 100), xlim=(steps[0] / 1.2, steps[-1] * 1.2))
        figures.ticks(panel.xaxis, [steps[0], steps[-1]])
        panel.set_xlabel("steps T")
        if k:
            panel.set_yticklabels([])
        else:
            panel.set_ylabel("probability, %")
        photo.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy())
        photo.axis("off")
        photo.set_title("\n".join(_lines(of_it[0]["relu_class"])), fontsize=9)
    figures.legend(figure, curves[0])
    last = rows[-1]
    sentence = f"After {last['T']} steps {last['same_class']} photographs have the ReLU network's class"
    figures.title(figure, sentence, f"{last['net']}, probability of that class; logits of the second half of the steps")
    save_figure(folder / "imagenet.png", figure)


def _lines(name: str, width: int = 12) -> list[str]:
    """A class's name in two lines."""
    lines = [""]
    for word in name.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return [*lines[:2], *[""] * (2 - len(lines))]
