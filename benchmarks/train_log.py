"""What a training run tells: a CSV row and, if asked for, TensorBoard scalars at the end of each epoch."""

import csv
from pathlib import Path

COLUMNS = ["stage", "epoch", "step", "loss", "snn", "ann", "mean_rate", "cpu_seconds", "seconds", "peak_mb"]


class Log:
    """Appends to ``folder/log.csv``; rows after the place that a run resumes from are removed."""

    def __init__(self, folder: Path, done_steps: int, tensorboard: bool):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.csv"
        rows = list(csv.DictReader(self.path.open())) if self.path.is_file() else []
        self.rows = [row for row in rows if int(row["step"]) <= done_steps]
        self.writer = _tensorboard(folder, done_steps) if tensorboard else None

    def add(self, row: dict) -> None:
        """Write one epoch's figures; ``step`` counts optimizer steps from the start of the run."""
        self.rows.append({key: row.get(key, "") for key in COLUMNS})
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        temporary.replace(self.path)
        if self.writer is not None:
            for key, value in row.items():
                if isinstance(value, float):
                    self.writer.add_scalar(key, value, row["step"])
            for name, rate in row["rates"].items():
                self.writer.add_scalar(f"rate/{name}", rate, row["step"])
            self.writer.flush()


def _tensorboard(folder: Path, done_steps: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SystemExit(f"--tensorboard needs the package tensorboard: pip install tensorboard ({error})") from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=done_steps + 1)
