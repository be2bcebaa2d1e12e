"""Two processes that share a batch have the gradient of one process with the whole batch."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train
from common import data, names, nets
from safetensors.torch import load_file
from training import checkpoint as train_checkpoint
from training import run as train_run
from training import step as train_step

RESEARCH = Path(__file__).parents[1]


def net(v_threshold=1.0, v_reset=0.0, **options):
    return nets.build("4C3-P4-8C3-P2-24", v_threshold, v_reset, batch_norm=False, **options)


def main(arguments: list[str], gradients: Path) -> None:
    """Train one step, and have every process save the gradients that it stepped by."""
    nets.TRAINABLE["net"] = net
    names.TRAINABLE = list(nets.TRAINABLE)
    kept = {}

    def watch(*_):
        kept.update({name: p.grad.clone() for name, p in runs[0].model.named_parameters()})

    runs, start = [], train_run.Run.go

    def go(self):
        runs.append(self)
        start(self)
        train_checkpoint.write_tensors(gradients / f"{self.workers.rank}.safetensors", kept, {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_step, "watch", watch)
        patch.setattr(train_run.Run, "go", go)
        train.main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["proxy"])  # the others share the path
def test_gradients_of_two_processes(tmp_path, method):
    for name in data.SAMPLE.glob("*.gz"):
        shutil.copy(name, tmp_path / name.name)
        shutil.copy(name, tmp_path / name.name.replace("t10k", "train"))
    options = [
        "--preset",
        "plain",
        "--net",
        "net",
        "--method",
        method,
        *"--T 8 --init random --epochs 1 --augment shift-mirror".split(),
    ]
    options += ["--batch", "200", "--validation", "56", "--root", str(tmp_path)]
    main([*options, "--out", str(tmp_path / "one")], tmp_path / "alone")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    paths = os.pathsep.join([str(RESEARCH), str(RESEARCH.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(
        [*torchrun, str(tmp_path / "both"), *options, "--out", str(tmp_path / "two")],
        env={**os.environ, "PYTHONPATH": paths},
        check=True,
        timeout=300,
    )
    (alone,) = (load_file(path) for path in (tmp_path / "alone").iterdir())
    both = [load_file(path) for path in sorted((tmp_path / "both").iterdir())]
    assert len(both) == 2 and max(g.abs().max() for g in alone.values()) > 1e-4
    for name, gradient in alone.items():
        for other in both:
            torch.testing.assert_close(other[name], gradient, rtol=1e-5, atol=1e-5 * gradient.abs().max().item())
    weights = [train_checkpoint.read(tmp_path / out)[1] for out in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()


if __name__ == "__main__":
    main(sys.argv[2:], Path(sys.argv[1]))
