"""The tuner of block sizes, as far as it can be tested without a GPU: the interpreter runs what it would time."""

import pytest
import torch

pytest.importorskip("triton", reason="the tuner needs Triton: pip install triton")

import gpu_speed
from gpu import tune

import proxykernels as pk
from proxykernels.kernels.gpu import block_sizes
from proxykernels.kernels.gpu.block_sizes import choose_blocks


@pytest.mark.parametrize("neurons, C_out, K", [(100352, 128, 1152), (128, 10, 256), (100352, 16, 9), (128, 1, 1)])
def test_todays_choice_is_a_candidate(neurons, C_out, K):
    found = list(tune.candidates(C_out, K))
    assert choose_blocks(neurons, C_out, K) in found and len(set(found)) == len(found)


@pytest.fixture
def times(tmp_path, monkeypatch):
    """Makes Times of a function, all of one table and one commit."""
    monkeypatch.setattr(tune, "commit", lambda: "abc")
    return lambda time: tune.Times(tmp_path / "tune.csv", "net", 2, 3, time)


BLOCKS = [choose_blocks(8, 5, 27)._replace(PIXELS=pixels) for pixels in (1, 2, 3)]


def test_fastest_leaves_out_what_fails(times):
    def run(choice):
        if choice.PIXELS == 1:
            raise RuntimeError("out of resources")
        return choice.PIXELS

    def time(function):
        return float(function())

    assert tune.fastest([BLOCKS[2], BLOCKS[0], BLOCKS[1]], run, times(time)) == (BLOCKS[1], 2.0)
    with pytest.raises(RuntimeError, match="no block sizes"):
        tune.fastest([BLOCKS[0]], run, times(time))


@pytest.mark.triton
def test_layers_that_take_spikes_are_tuned(triton_kernels, monkeypatch, capsys, times):
    net = torch.nn.Sequential(
        pk.FusedIFConv2d(1, 3, 3), pk.FusedIFConv2d(3, 5, 3), pk.Flatten(), pk.FusedIFLinear(20, 2)
    )
    tried = [choose_blocks(8, 5, 27), choose_blocks(8, 2, 20)._replace(NUM_STAGES=3)]
    monkeypatch.setattr(tune, "candidates", lambda C_out, K: tried)
    given = iter((2.0, 1.0, 3.0) * 2)  # of both candidates and of today's choice

    def time(function):
        function()
        return next(given)

    rows = list(tune.tune(net, (1, 6, 6), batch=2, T=3, times=times(time)))
    assert rows == [("1", 8, 5, 27, tried[1], 1.0, 3.0), ("3", 2, 2, 20, tried[1], 1.0, 3.0)]
    tune.print_table(rows, "a card")
    assert "a card" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_must_be_there():
    with pytest.raises(SystemExit, match="torch finds no CUDA device"):
        gpu_speed.main(["tune"])


def test_there_is_nothing_to_tune_where_torch_convolves(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(block_sizes, "architecture", lambda device: "sm_75")
    with pytest.raises(SystemExit, match="no block sizes to tune on sm_75: torch computes its convolutions"):
        gpu_speed.main(["tune"])
