"""Plans that Python hands to the library: by the reader of files, and without the rules that only files have."""

import pytest
import torch
from equality import equal

import proxykernels as pk
from proxykernels.kernels.table import Kind
from proxykernels.plan import file
from proxykernels.plan.follow import follow
from proxykernels.plan.operations import Operation, Window
from proxykernels.plan.plan import Plan
from proxykernels.running.engine import Engine

IMAGE = (4, 6, 6)


def pool(**fields) -> Operation:
    window = Window(0, kernel=(2, 2), stride=(2, 2))
    return Operation(Kind.MAX_POOL, "pool", (window,), (4, 3, 3), **fields)


def plan_of(layer: torch.nn.Module, shape: tuple[int, ...] = IMAGE) -> Plan:
    return follow(torch.nn.Sequential(layer), shape, False)


def test_a_layer_without_neurons(tmp_path):
    """The engine runs it, and a file that holds it is refused."""
    plan = Plan(IMAGE, False, None, [pool()])
    x = torch.rand(5, 2, *IMAGE) < 0.2
    found = Engine(plan)(pk.pack(x), 5).spikes.dense()
    expected = torch.nn.functional.max_pool2d(x.float().flatten(0, 1), 2).unflatten(0, (5, 2))
    assert equal(found, expected) and expected.any()
    file.save(plan, tmp_path / "pool")
    with pytest.raises(ValueError, match="it has no neurons"):
        file.read(tmp_path / "pool")


def test_weights_that_only_files_refuse(tmp_path):
    """They were looked at when the network was followed."""
    plan = plan_of(pk.FusedIFConv2d(4, 8, 1))
    plan.operations[0].windows[0].weight[3] = torch.nan
    fired = Engine(plan)(pk.pack(torch.ones(3, 1, *IMAGE)), 3).spikes.dense()
    assert not fired[:, :, 3].any() and fired.any()
    file.save(plan, tmp_path / "conv")
    with pytest.raises(ValueError, match="a weight holds NaN"):
        file.read(tmp_path / "conv")


def test_weights_that_do_not_lie_as_a_file_has_them():
    conv = pk.FusedIFConv2d(4, 8, 3)
    x = pk.pack(torch.rand(6, 2, *IMAGE) < 0.3)
    expected = Engine(plan_of(conv))(x, 6).spikes.dense()
    conv.to(memory_format=torch.channels_last)
    assert not conv.weight.is_contiguous()
    assert equal(Engine(plan_of(conv))(x, 6).spikes.dense(), expected) and expected.any()


def test_a_plan_that_reads_other_memory_is_not_made():
    """Its maker is wrong, and no user."""
    with pytest.raises(RuntimeError, match="the plan cannot be made: a pooling changes the channels"):
        Engine(Plan((5, 6, 6), False, None, [pool()]))
    with pytest.raises(RuntimeError, match="the plan cannot be made: an operation gives other values"):
        Engine(Plan(IMAGE, False, None, [pool(real=True)]))
