"""Data shared out among the processes of torchrun: all of it once, put together once; who dies or hangs is named."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import imagenet
import pytest
import torch
from torchvision import models
from torchvision.io import write_png

from proxykernels.running.shards import Shards

RESEARCH = Path(__file__).parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def torchrun(processes: int, *command: str) -> subprocess.CompletedProcess:
    paths = os.pathsep.join([str(RESEARCH), str(RESEARCH.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*TORCHRUN, str(processes), *command], env=environment, capture_output=True, text=True, timeout=300
    )


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


def make_folder(path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    for name in ("cat", "dog", "eel"):
        (path / name).mkdir(parents=True)
        for k in range(3):
            write_png(torch.randint(0, 256, (3, 40, 50), generator=g).byte(), str(path / name / f"{k}.png"))


@pytest.mark.slow
def test_a_folder_of_images(tmp_path, capsys):
    make_folder(tmp_path / "images")
    torch.manual_seed(0)
    torch.save(models.resnet18(num_classes=3).state_dict(), tmp_path / "weights.pt")
    options = ["--model", "resnet18", "--state-dict", str(tmp_path / "weights.pt")]
    options += ["--folder", str(tmp_path / "images")]
    options += "--size 32 --longest 16 --calibration 4 --images 7 --batch 2".split()
    imagenet.main([*options, "--out", str(tmp_path / "one")])
    assert "7 images; the ReLU network has" in capsys.readouterr().out
    done = torchrun(2, str(RESEARCH / "imagenet.py"), *options, "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("7 images; the ReLU network has") == 1
    one, two = ((tmp_path / out / "imagenet_folder.csv").read_text() for out in ("one", "two"))
    assert one == two
    (row,) = csv.DictReader(one.splitlines())
    assert row["images"] == "7" and row["T"] == "16" and float(row["top5"]) == 1.0  # of three classes


def test_bad_options_of_a_model_are_named(tmp_path):
    with pytest.raises(SystemExit, match="torchvision has no network 'resnet17'"):
        imagenet.main(["--model", "resnet17"])
    with pytest.raises(SystemExit, match="--state-dict must be a file"):
        imagenet.main(["--model", "resnet18"])
    torch.save(models.squeezenet1_1(num_classes=3).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(SystemExit, match="holds no weights of resnet18"):
        imagenet.main(["--model", "resnet18", "--state-dict", str(tmp_path / "weights.pt")])


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
