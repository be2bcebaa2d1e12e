"""What a simulation counts of spikes on a GPU: all of a chunk in one launch, read once when somebody asks for it."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import ops, packed
from ..spikes import Spikes
from ..storage import Words


@dataclass
class _Job:
    """Words of a chunk that are read once.

    Attributes:
        reach: how many neurons a spike of a pixel reaches, int32 [P]; None: nobody asks.
        claims: who wants which of both sums, 0 or 1, and how many times.
    """

    words: Tensor
    reach: Tensor | None = None
    claims: list[tuple[Hashable, int, int]] = field(default_factory=list)


class Counters:
    """Counts by whoever asked for them, over all chunks."""

    def __init__(self):
        self._jobs: list[_Job] = []
        self._counts: dict[tuple, Tensor] = {}  # by the claims of a launch
        self._totals: dict[Hashable, int] | None = None  # once they are read

    @staticmethod
    def take(x: Spikes) -> bool:
        """Whether spikes are counted here: those packed over time."""
        return isinstance(x._kept, Words) and packed.over_time(x._kept.words)

    def add(self, x: Spikes, who: Hashable, times: int = 1, reach: Tensor | None = None) -> None:
        """Count the spikes of a chunk for ``who``; with ``reach`` int32 [P] those of each pixel so many times."""
        job = self._job(x._kept.words, reach)
        job.claims.append((who, int(reach is not None), times))

    def _job(self, words: Tensor, reach: Tensor | None) -> _Job:
        for job in self._jobs:
            if job.words is words and (reach is None or job.reach is None or job.reach is reach):
                job.reach = reach if job.reach is None else job.reach
                return job
        self._jobs.append(_Job(words, reach))
        return self._jobs[-1]

    def end_chunk(self) -> None:
        """Count what was added since the last chunk."""
        for first in range(0, len(self._jobs), packed.COUNTED):
            jobs = self._jobs[first : first + packed.COUNTED]
            key = first, *(tuple(job.claims) for job in jobs)
            words = [job.words for job in jobs]
            if key not in self._counts:
                self._counts[key] = packed.new_counts(len(words), words[0].device)
            ops.add_counts(words, [job.reach for job in jobs], self._counts[key])
        self._jobs, self._totals = [], None

    def forget_chunk(self) -> None:
        """Forget what was added since the last chunk."""
        self._jobs = []

    def of(self, who: Hashable) -> int:
        """What was counted for ``who``; a GPU is waited for the first time that anyone asks."""
        if self._totals is None:
            self._totals = {}
            sums = torch.cat([counts.sum(0) for counts in self._counts.values()]).tolist() if self._counts else []
            for claims, found in zip((claims for _, *rows in self._counts for claims in rows), sums, strict=True):
                for name, which, times in claims:
                    self._totals[name] = self._totals.get(name, 0) + times * found[which]
        return self._totals.get(who, 0)
