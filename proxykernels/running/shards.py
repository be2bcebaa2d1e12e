"""Splits a data set among the processes that torchrun starts, and collects their results.

    torchrun --nproc-per-node 4 script.py

Each of n processes computes on every n-th sample; they meet once, at the end. A process that dies is named by
torchrun, which ends the others; one that hangs, by the others, which wait for it for PATIENCE_S.
"""

import os
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.utils.data import Dataset, Subset

PATIENCE_S = 1800  # how much longer a process may take than the first one that is done


class Shards:
    """Distributes samples over the processes that torchrun started, and collects results. A context manager.

    Without torchrun there is one process.

    Args:
        patience_s: seconds that :meth:`gather` waits for a process (default half an hour).

    Attributes:
        rank, count: the number of this process, and of all.

    Raises:
        RuntimeError: a process did not come to :meth:`gather`; the message has its rank.
    """

    def __init__(self, patience_s: float = PATIENCE_S):
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.patience = timedelta(seconds=patience_s)

    @property
    def first(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def __enter__(self) -> "Shards":
        if self.count > 1:
            dist.init_process_group("gloo", timeout=self.patience)  # of CPUs, also where each has a GPU
        return self

    def __exit__(self, *exception) -> None:
        if self.count > 1:
            dist.destroy_process_group()

    def of(self, dataset: Dataset) -> Subset:
        """The samples of this process: every ``count``-th, so that no two processes differ by more than one."""
        return Subset(dataset, range(self.rank, len(dataset), self.count))  # type: ignore[arg-type]

    def gather(self, found: Any) -> list[Any] | None:
        """What each process found, in the order of their ranks, in the first one; None in the others.

        Raises:
            RuntimeError: a process did not come; the message has its rank.
        """
        if self.count == 1:
            return [found]
        dist.monitored_barrier(timeout=self.patience, wait_all_ranks=True)
        parts = [None] * self.count if self.first else None
        dist.gather_object(found, parts)
        return parts
