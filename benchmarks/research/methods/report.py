"""The tables and the picture of compare_methods.py, from its CSV file."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from common import figures, tables
from common.printed import print_table
from rich.console import Console

MARKS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 60, 70, 80, 100)  # of errors, in %
SHARES = ("strict", "lenient", "potential")  # how an output is read
STEPS = {  # of training, where they are not 16
    "the authors' recipe": 15, "the authors' recipe with statistics of each step": 15, "bptt": 4, "tet": 4,
}  # fmt: skip
FEW = 4
STUDENT = {3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
# of n differences, |t| that 5 % exceed with n - 1 degrees of freedom; two decide nothing

COLUMNS = [
    "training", "method", "seed", "lr", "threshold", "start", "output_threshold", "step", "epoch", "cpu_seconds",
    "split", "images", "T", *SHARES, "relu", "threads", "torch", "commit",
]  # fmt: skip


def at(rows: list[dict], method: str, step: int, T: int, column: str, split: str = "held-out") -> list[float]:
    """A column of all seeds of a method after a number of training steps, read at T."""
    wanted = method, str(step), str(T), split
    found = [row for row in rows if (row["method"], row["step"], row["T"], row["split"]) == wanted]
    return [float(row[column]) for row in found if row[column]]


def trained_for(method: str) -> int:
    """The steps that a method's networks are trained for."""
    return STEPS.get(method, 16)


def readings(rows: list[dict]) -> list[tuple[str, int]]:
    """(method, T): each at the steps that it was trained for, and where its spikes are counted."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    return [(method, T) for method in methods for T in sorted({trained_for(method), read_at(method)})]


def read_at(method: str) -> int:
    """The steps at which spikes are counted: after FEW most outputs tie."""
    trained = trained_for(method)
    return trained if trained > FEW else 16


def spread(values: list[float], scale: float = 100) -> str:
    """The mean; and the standard deviation, of three and more."""
    if not values:
        return ""
    deviation = f" ±{scale * statistics.stdev(values):.1f}" if len(values) > 2 else ""
    return f"{scale * statistics.mean(values):.1f}{deviation}"


def last_step(rows: list[dict], method: str) -> int:
    """The last measured step that all seeds of a method have reached."""
    of_seed: dict[str, int] = {}
    for row in rows:
        if row["method"] == method:
            of_seed[row["seed"]] = max(of_seed.get(row["seed"], 0), int(row["step"]))
    return min(of_seed.values())


HEADINGS = ["", "read at T", "seeds", "lr", "threshold", "start", "steps", "epochs", "CPU s", *SHARES, "ReLU"]


def lines(rows: list[dict], split: str) -> list[list[str]]:
    """A reading's accuracies after as many steps as all methods have done, and after as many as it has; in %."""
    common = min((last_step(rows, method) for method, _ in readings(rows)), default=0)
    found = []
    for method, T in readings(rows):
        for step in sorted({common, last_step(rows, method)}):
            seconds = at(rows, method, step, T, "cpu_seconds", split)
            if not seconds:  # test images are read only after the last step
                continue
            shares = [spread(at(rows, method, step, T, column, split)) for column in (*SHARES, "relu")]
            about = next(row for row in rows if (row["method"], row["step"]) == (method, str(step)))
            settings = about["lr"], about["threshold"], about["start"], str(step), about["epoch"], spread(seconds, 1)
            found.append([figures.look(method).label, str(T), str(len(seconds)), *settings, *shares])
    return found


def markdown(rows: list[dict]) -> str:
    """The table of docs/paper.md: test images."""
    return _markdown([HEADINGS, *lines(rows, "test")])


OTHERS = (4, 8, 16, 32)


def other_steps(rows: list[dict]) -> str:
    """Strict accuracy on the test images, read at other steps, for docs/paper.md."""
    table = [["strict, test images", *(f"T = {T}" for T in OTHERS)]]
    for method in dict.fromkeys(row["method"] for row in rows):
        last = last_step(rows, method)
        shares = [statistics.mean(at(rows, method, last, T, "strict", "test")) for T in OTHERS]
        table.append([figures.look(method).label, *(f"{100 * share:.1f}" for share in shares)])
    return _markdown(table)


@dataclass(frozen=True)
class Difference:
    """The difference of two methods on the test images, per seed, with the same initial weights and batches.

    Attributes:
        points: for each seed, in percentage points.
    """

    points: list[float]

    @property
    def mean(self) -> float:
        return statistics.mean(self.points)

    @property
    def t(self) -> float:
        """The mean divided by its standard error."""
        return self.mean / (statistics.stdev(self.points) / len(self.points) ** 0.5)

    @property
    def decided(self) -> bool:
        """Whether there are three seeds and more, and the 95 % interval of Student's t leaves out 0."""
        return abs(self.t) > STUDENT.get(len(self.points), float("inf"))

    def __str__(self) -> str:
        ahead = sum(point > 0 for point in self.points)
        return f"{self.mean:+.2f}, {ahead} of {len(self.points)}, t = {self.t:.1f}"

    @property
    def verdict(self) -> str:
        return ("ahead" if self.mean > 0 else "behind") if self.decided else "undecided"


def difference(rows: list[dict], ours: tuple[str, int], theirs: tuple[str, int], column: str) -> Difference:
    """The difference of two readings (method, T), over the seeds that both have."""
    (first, second) = (_of_seeds(rows, *reading, column) for reading in (ours, theirs))
    return Difference([100 * (first[seed] - second[seed]) for seed in sorted(first.keys() & second.keys())])


def _of_seeds(rows: list[dict], method: str, T: int, column: str) -> dict[str, float]:
    wanted = method, str(last_step(rows, method)), str(T), "test"
    return {
        row["seed"]: float(row[column])
        for row in rows
        if (row["method"], row["step"], row["T"], row["split"]) == wanted
    }


def differences(rows: list[dict], method: str = "proxy") -> str:
    """All readings against one method's, for docs/paper.md."""
    theirs = method, trained_for(method)
    table = [["over proxy", "read at T", "strict", "", "potential", ""]]
    for ours in readings(rows):
        if ours == theirs:
            continue
        found = [difference(rows, ours, theirs, column) for column in ("strict", "potential")]
        if len(found[0].points) > 1:
            cells = [cell for of in found for cell in (str(of), of.verdict)]
            table.append([figures.look(ours[0]).label, str(ours[1]), *cells])
    return _markdown(table)


def _markdown(table: list[list[str]]) -> str:
    table = [table[0], ["---"] * len(table[0]), *table[1:]]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in table)
    return text.replace("|  |", "| |").replace("|  |", "| |").replace("| --- ", "|---")


def show(folder: Path, stem: str) -> None:
    """Print the accuracies of the table."""
    rows = tables.read_csv(folder / f"{stem}.csv")
    if rows:
        print_table(Console(), "Right, held-out images, %", HEADINGS, lines(rows, "held-out"))


def draw(folder: Path, stem: str) -> None:
    """Errors against training steps and CPU seconds, the mean of the seeds."""
    rows = [row for row in tables.read_csv(folder / f"{stem}.csv", COLUMNS) if row["split"] == "held-out"]
    if not rows:
        return
    figure, panels = figures.new_figure(4.8, 2, sharey=True)
    for method in dict.fromkeys(row["method"] for row in rows):
        T = read_at(method)
        steps = sorted({int(row["step"]) for row in rows if row["method"] == method and row["T"] == str(T)})
        means = [100 * (1 - statistics.mean(at(rows, method, step, T, "strict"))) for step in steps]
        seconds = [max(0.1, statistics.mean(at(rows, method, step, T, "cpu_seconds"))) for step in steps]
        for axes, x in zip(panels, (steps, seconds), strict=True):
            axes.plot(x, means, marker="o", markersize=3, **figures.line(method))
    for axes, label in zip(panels, ("training steps", "CPU seconds"), strict=True):
        axes.set_xscale("log")
        axes.set_xlabel(label)
    panels[0].set(yscale="log", ylabel="wrong or tied, %")
    low, high = panels[0].get_ylim()
    figures.ticks(panels[0].yaxis, [mark for mark in MARKS if low <= mark <= high])
    figures.legend(figure, panels[0], columns=2)
    _, net, width, *_ = stem.removeprefix("compare_").split("_")
    steps = sorted({read_at(row["method"]) for row in rows})
    where = f"{net} network, width {width}, {rows[0]['images']} held-out images, T = {' or '.join(map(str, steps))}"
    figures.title(figure, sentence(rows), where)
    tables.save_figure(folder / f"{stem}.png", figure)


def sentence(rows: list[dict]) -> str:
    """The title: what is right after as many steps as all have done."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    step = min(last_step(rows, method) for method in methods)
    found = {method: at(rows, method, step, read_at(method), "strict") for method in methods}
    means = {method: statistics.mean(values) for method, values in found.items() if values}
    least, most = (100 * choice(means.values()) for choice in (min, max))
    return f"After {step} training steps {least:.1f} to {most:.1f} % are right, by method"
