"""Data shared out among the processes of torchrun: all of it once, put together once; who dies or hangs is named."""

import os
import subprocess
import sys
import time

import pytest

from proxykernels.running.shards import Shards

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def torchrun(processes: int, *command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    given = [*TORCHRUN, str(processes), *command]
    return subprocess.run(given, env=environment, capture_output=True, text=True, timeout=300)


def test_alone():
    with Shards() as shards:
        assert shards.first and list(shards.of(range(5))) == [0, 1, 2, 3, 4] and shards.gather("found") == ["found"]


@pytest.mark.slow
def test_two_processes():
    done = torchrun(2, __file__, "found")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "[[0, 2, 4], [1, 3]]"  # once, by the first


@pytest.mark.slow
def test_who_dies_is_named():
    begin = time.perf_counter()
    done = torchrun(2, __file__, "die")
    assert done.returncode and "rank      : 1 (local_rank: 1)" in done.stderr and "exitcode  : 7" in done.stderr
    assert time.perf_counter() - begin < 120  # and nobody waits for it


@pytest.mark.slow
def test_who_hangs_is_named():
    done = torchrun(2, __file__, "hang")
    assert done.returncode and "Ranks 1 failed to pass monitoredBarrier" in done.stderr


def main(what: str) -> None:
    """What each process of the tests above does."""
    with Shards(patience_s=10) as shards:
        if what == "die" and shards.rank == 1:
            os._exit(7)
        if what == "hang" and shards.rank == 1:
            time.sleep(60)
        parts = shards.gather(list(shards.of(range(5))))
        if parts is not None:
            print(parts)


if __name__ == "__main__":
    main(sys.argv[1])
