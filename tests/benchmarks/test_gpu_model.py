"""gpu_model.py: the model's arithmetic by hand, and its tables."""

import csv

import gpu_model
import pytest

pytest.importorskip("triton", reason="the model compiles the Triton kernels: pip install triton")

from gpu import time_model
from gpu.main_loop import MainLoop
from gpu.time_model import CARDS, HOST, Compiled, Layer, layer_seconds

from proxykernels.kernels.gpu.block_sizes import Blocks

LOOP = MainLoop(
    instructions=100, tensor_core=8, barriers=4, async_copies=5, short_stores=0, conversions=0, integer=50,
    shared_bytes=1000,
)  # fmt: skip
BLOCKS = Blocks(PIXELS=8, CHANNELS=64, BLOCK_K=64, NUM_STAGES=3, num_warps=8)
LAYER = Layer("conv", pixels=784, pixels_in=784, C=128, C_out=128, kernel_size=3)


def test_seconds_of_a_layer():
    """One image on an A100: 98 x 2 programs in two turns of 108, 18 passes each."""
    kernel = Compiled(BLOCKS, registers=160, programs=1, outside=500, loop=LOOP)
    units = kernel.cycles("sm_80")
    assert units == {"issue": 200, "integer": 200, "shared": 62.5, "tensor": 2048}
    assert kernel.cycles("sm_90") == units | {"tensor": 1024, "shared": 62.5 + 4 * 64 * 64 * 4 / 128}
    seconds = layer_seconds(LAYER, kernel, 1, 32, CARDS["A100"])
    assert seconds["arithmetic"] == pytest.approx(2 * (18 * (2048 + 200) + 500 * 2) / 1.41e9)
    assert seconds["L2"] == pytest.approx(18 * 196 * 64 * (256 + 32) / 4.0e12)
    assert seconds["memory"] == pytest.approx((784 * 128 * (4 + 8 + 4) + 4 * 128 * 1152) / 2.039e12)
    together = layer_seconds(LAYER, Compiled(BLOCKS, 128, 2, 500, LOOP), 1, 32, CARDS["A100"])
    assert together["arithmetic"] == pytest.approx(2 * (18 * 2048 + 500 * 2) / 1.41e9)
    short = layer_seconds(LAYER, Compiled(BLOCKS, 128, 2, 500, LOOP), 1, 16, CARDS["A100"])
    assert short["arithmetic"] == pytest.approx(together["arithmetic"] / 2) and short["L2"] == together["L2"]


def test_digits_take_half_the_time_and_bytes():
    floats, digits = (Compiled(BLOCKS, 128, 2, 500, LOOP, part_bytes) for part_bytes in (2, 1))
    assert floats.cycles("sm_80")["tensor"] == 2 * digits.cycles("sm_80")["tensor"]
    of_floats, of_digits = (layer_seconds(LAYER, kernel, 1, 32, CARDS["A100"])["L2"] for kernel in (floats, digits))
    assert of_floats - of_digits == pytest.approx(18 * 196 * 64 * 128 / 4.0e12)


def test_waits_keep_host_and_gpu_apart():
    kernels = {layer.name: Compiled(BLOCKS, 128, 2, 500, LOOP) for layer in time_model.LAYERS}
    now = time_model.run_ms(kernels, 128, 128, CARDS["H100"], HOST)
    assert now["total"] == pytest.approx(now["layers"] + now["other"]) and now["host"] < now["total"]
    waiting = HOST._replace(launches=464, waits=21)
    before = time_model.run_ms(kernels, 128, 128, CARDS["H100"], waiting)
    assert before["total"] == pytest.approx(before["layers"] + before["other"] + before["host"])
    assert before["layers"] == now["layers"] and before["total"] > now["total"]
    small = time_model.run_ms(kernels, 1, 64, CARDS["H100"], HOST)
    assert small["total"] == small["host"]


def test_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(time_model, "compiled", lambda *_: Compiled(BLOCKS, 128, 2, 500, LOOP))
    gpu_model.main(["--batch", "1,2", "--T", "64", "--out", str(tmp_path)])
    with open(tmp_path / "gpu_model.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["card"], row["batch"], row["weights"]) for row in rows] == [
        (card, batch, weights) for card in CARDS for batch in "12" for weights in ("float32", "int16")
    ]
    with open(tmp_path / "gpu_model_kernels.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(CARDS) * 2 * 2 * len(time_model.LAYERS)
    assert "modelled, not measured" in " ".join(capsys.readouterr().out.split())
