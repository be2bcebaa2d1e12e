"""What a training run tells: a CSV row at the end of each epoch."""

from pathlib import Path

from common import tables

COLUMNS = ["stage", "epoch", "step", "loss", "snn", "ann", "mean_rate", "cpu_seconds", "seconds", "peak_mb"]


class Log:
    """Appends to ``folder/log.csv``; ``last`` is the last step that the run keeps: rows of later ones are removed."""

    def __init__(self, folder: Path, last: int):
        self.path = folder / "log.csv"
        try:
            self.rows = [row for row in tables.read_csv(self.path) if int(row["step"]) <= last]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path} is not a log of train.py ({error!r}); remove it") from error

    def add(self, row: dict) -> None:
        """Write one epoch's figures; ``step`` counts optimizer steps from the start of the run."""
        self.rows.append({key: row.get(key, "") for key in COLUMNS})
        tables.write_csv(self.path, COLUMNS, self.rows)
