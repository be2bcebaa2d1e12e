"""Checkpoints that were damaged, or made to do harm: one sentence, before anything is done with them."""

import json

import pytest
import torch
from common import tables
from equality import equal
from torch import nn
from training import checkpoint as train_checkpoint
from training.run import Run
from training_runs import assert_same, run_fixture, tiny  # noqa: F401 - a fixture


def adam(net: nn.Module) -> torch.optim.AdamW:
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    return torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}], 0.01, fused=True)


@pytest.fixture
def saved(tmp_path):
    """A network and its checkpoint after a step: position and tensors."""
    net = tiny()
    optimizer = adam(net)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    position = {"options": {}, "stage": 0, "epoch": 0, "step": 1, "done": 1, "best": -1.0}
    train_checkpoint.save(tmp_path, position, net, optimizer)
    return net, *train_checkpoint.read(tmp_path)


def test_a_whole_checkpoint_goes_on_as_if_nothing_had_happened(saved):
    net, position, tensors = saved
    optimizer = adam(net)
    train_checkpoint.restore_optimizer(optimizer, position, tensors)
    for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        moments = optimizer.state[parameter]
        assert moments["exp_avg"].any() and moments["step"] == 1
        for name, value in moments.items():
            assert equal(value, tensors[f"optimizer.{index}.{name}"])


MOMENT = "optimizer.0.exp_avg"
DAMAGES = {
    "a moment of no dimensions": (MOMENT, lambda m: torch.tensor(1.0), r"exp_avg is torch.float32 \[\]"),
    "a moment that is too short": (MOMENT, lambda m: m[:1].clone(), "needed are real numbers of shape"),
    "one that would be broadcast": (MOMENT, lambda m: torch.ones(1, 1, 1, 1), "needed are real numbers of shape"),
    "a moment of integers": (MOMENT, lambda m: m.int(), "exp_avg is torch.int32"),
    "NaN": (MOMENT, lambda m: m * torch.nan, "exp_avg holds NaN"),
    "a negative square": ("optimizer.0.exp_avg_sq", lambda m: -m - 1, "exp_avg_sq holds NaN, infinite or negative"),
    "steps of a shape": ("optimizer.0.step", lambda m: torch.ones(3), r"step is torch.float32 \[3\]"),
    "an absent moment": (MOMENT, lambda m: None, "optimizer.0.exp_avg is missing"),
    "an absent step": ("optimizer.3.step", lambda m: None, "optimizer.3.step is missing"),
    "a parameter too many": (
        "optimizer.99.exp_avg",
        lambda m: torch.ones(1),
        "optimizer.99.exp_avg is of no parameter",
    ),
    "an unknown moment": ("optimizer.0.max_exp_avg_sq", lambda m: torch.ones(1), "max_exp_avg_sq is of no parameter"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_moments_that_are_not_the_networks(saved, damage):
    net, position, tensors = saved
    key, change, reason = DAMAGES[damage]
    value = change(tensors.get(key))
    tensors = {k: v for k, v in tensors.items() if k != key} | ({} if value is None else {key: value})
    optimizer = adam(net)
    with pytest.raises(ValueError, match=f"the checkpoint's optimizer is of another network, or damaged .*{reason}"):
        train_checkpoint.restore_optimizer(optimizer, position, tensors)
    assert not optimizer.state


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"betas": None}, "its betas is None"),
        ({"amsgrad": True}, "its amsgrad is True, needed is False"),
        ({"eps": "small"}, "its eps is 'small'"),
        ({"params": [0]}, r"its params is \[0\]"),
    ],
)
def test_settings_that_are_not_the_optimizers(saved, setting, reason):
    net, position, tensors = saved
    groups = [position["groups"][0] | setting, *position["groups"][1:]]
    with pytest.raises(ValueError, match=reason):
        train_checkpoint.restore_optimizer(adam(net), position | {"groups": groups}, tensors)
    for groups in ([], [None, None]):
        with pytest.raises(ValueError, match="2 groups of parameters are needed"):
            train_checkpoint.restore_optimizer(adam(net), position | {"groups": groups}, tensors)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"best": float("nan")}, "holds NaN"),
        ({"best": float("-inf")}, "holds -Infinity"),
        ({"shown": {"loss": float("nan")}}, "holds NaN"),
        ({"shown": {"loss": "small"}}, "shown is"),
        ({"done": 0}, "0 steps are done in all, and 1"),
        ({"epoch": -1}, "epoch is -1"),
    ],
)
def test_a_place_that_is_none(saved, tmp_path, change, reason):
    path = tmp_path / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=f"the checkpoint in .* is damaged .*{reason}"):
        train_checkpoint.read(tmp_path)


def test_an_epoch_that_no_run_has_reached(run):
    options = "--init random --epochs 1 --schedule constant"
    out = run(options)
    path, state = out / "checkpoint.json", json.loads((out / "checkpoint.json").read_text())
    for epoch, steps in ((10**9, state["done"]), (10**9, 5 * 10**9), (0, state["done"])):
        path.write_text(json.dumps(state | {"epoch": epoch, "done": steps}))
        with pytest.raises(SystemExit, match=f"is damaged .*epoch {epoch} of stage 0") as stop:
            run(f"{options} --resume")
        assert "\n" not in str(stop.value.code)


@pytest.mark.long
def test_a_run_that_was_killed_while_it_measured_logs_the_loss(run, monkeypatch):
    """The epoch's figures are in the checkpoint that is written before the measurement."""
    options = "--init random --epochs 2 --schedule constant --rate-penalty 0.01"
    whole = run(options, "whole")

    end_epoch = Run.end_epoch

    def killed(self, *arguments):
        if self.place.epoch == 2:
            raise SystemExit("killed")
        end_epoch(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "end_epoch", killed)
        with pytest.raises(SystemExit, match="killed"):
            run(options)
    out = run(f"{options} --resume")
    columns = ("stage", "epoch", "step", "loss", "snn", "ann", "mean_rate")
    ours, theirs = ([[row[key] for key in columns] for row in tables.read_csv(f / "log.csv")] for f in (out, whole))
    assert ours == theirs and len(ours) == 2 and float(ours[1][3]) > 0
    assert_same(out, whole)


def test_equal_runs_write_equal_files(run):
    options = "--init random --epochs 1"
    first, second = run(options, "first"), run(options, "second")
    names = sorted(path.name for path in first.iterdir() if path.suffix in (".safetensors", ".json"))
    assert len(names) == 3
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
