"""gpu_model.py: the arithmetic of both models by hand, and their tables."""

import csv

import gpu_model
import pytest

pytest.importorskip("triton", reason="the model compiles the Triton kernels: pip install triton")

from gpu.main_loop import MainLoop
from gpu_times import rival_model, tables, time_model
from gpu_times.time_model import BANDWIDTH, CARDS, EFFICIENCY, L2, LAUNCH_S, Compiled, Layer, layer_seconds

from proxykernels.kernels.gpu.block_sizes import Blocks, choose_blocks

LOOP = MainLoop(
    instructions=100, tensor_core=8, barriers=4, async_copies=5, short_stores=0, conversions=0, integer=50,
    shared_bytes=1000, turn=500, once=200,
)  # fmt: skip
BLOCKS = Blocks(PIXELS=8, CHANNELS=64, BLOCK_K=64, NUM_STAGES=3, num_warps=8)
LAYER = Layer("conv", pixels=784, pixels_in=784, C=128, C_out=128, kernel_size=3)
A100, H100, GEFORCE = CARDS["A100 SXM"], CARDS["H100 SXM"], CARDS["RTX 4090"]


def test_seconds_of_a_layer():
    """One image on an A100: 98 x 2 programs in two turns of 108, 18 passes each."""
    kernel = Compiled(BLOCKS, registers=160, programs=1, loop=LOOP)
    units = kernel.cycles("sm_80")
    assert units == {"issue": 200, "integer": 200, "shared": 62.5, "tensor": 2048}
    assert kernel.cycles("sm_90") == units | {"tensor": 1024, "shared": 62.5 + 4 * 64 * 64 * 4 / 128}
    seconds = layer_seconds(LAYER, kernel, 1, 32, A100)
    assert seconds["arithmetic"] == pytest.approx(2 * (18 * (2048 + 200) + 700 * 2) / 1.41e9 / EFFICIENCY)
    assert seconds["L2"] == pytest.approx(18 * 196 * 64 * (256 + 32) / 4.0e12 / L2)
    assert seconds["memory"] == pytest.approx((784 * 128 * (4 + 8 + 4) + 4 * 128 * 1152) / 2.039e12 / BANDWIDTH)
    together = layer_seconds(LAYER, Compiled(BLOCKS, 128, 2, LOOP), 1, 32, A100)
    assert together["arithmetic"] == pytest.approx(2 * (18 * 2048 + 700 * 2) / 1.41e9 / EFFICIENCY)
    assert layer_seconds(LAYER, Compiled(BLOCKS, 128, 2, LOOP), 1, 64, A100)["L2"] == 2 * together["L2"]


def test_few_steps_of_more_pixels():
    """4 steps of 64 pixels are as many rows as 32 of 8: an eighth of the programs, each with as much to multiply."""
    few = Compiled(BLOCKS._replace(PIXELS=64), 128, 2, LOOP, steps=4)
    assert few.cycles("sm_90") == Compiled(BLOCKS, 128, 2, LOOP).cycles("sm_90")
    seconds = layer_seconds(LAYER, few, 1, 4, A100)
    assert seconds["arithmetic"] == pytest.approx((18 * 2048 + 700 * 2) / 1.41e9 / EFFICIENCY)
    assert seconds["L2"] == pytest.approx(18 * 13 * 2 * 64 * (256 + 256) / 4.0e12 / L2)


@pytest.mark.parametrize("target, faster", [("sm_80", 2), ("sm_90", 2), ("sm_89", 4)])
def test_digits_are_multiplied_faster_and_have_half_the_bytes(target, faster):
    floats, digits = (Compiled(BLOCKS, 128, 2, LOOP, 2, kind) for kind in ("fp16", "i8"))
    assert floats.cycles(target)["tensor"] == faster * digits.cycles(target)["tensor"]
    of_floats, of_digits = (layer_seconds(LAYER, kernel, 1, 32, A100)["L2"] for kernel in (floats, digits))
    assert of_floats - of_digits == pytest.approx(18 * 196 * 64 * 128 / 4.0e12 / L2)


def test_three_parts_take_half_as_long_again_as_two():
    two, three = (Compiled(BLOCKS, 128, 2, LOOP, parts, "i8").cycles("sm_80") for parts in (2, 3))
    assert three["tensor"] == 1.5 * two["tensor"]


def test_a_run():
    """Two chunks take the layers twice as long, and the rest less than that."""
    kernels = {(layer.name, 32): Compiled(BLOCKS, 128, 2, LOOP) for layer in time_model.LAYERS}
    one, two = (time_model.run_ms(kernels, 128, T, H100, "float32") for T in (64, 128))
    assert two["layers"] == pytest.approx(2 * one["layers"]) and one["other"] < two["other"] < 2 * one["other"]
    assert one["total"] == pytest.approx(one["layers"] + one["other"])


def test_a_layer_of_the_rival_by_hand():
    """The paper's second convolution, 128 images, 64 steps: 1.894 TFLOP, and 1.64 GB of spikes and of currents."""
    layer, half = time_model.LAYERS[0], "float16"
    product, scan, pool = rival_model.layer_launches(layer, 128, 64, H100, half)
    values = 64 * 128 * 784 * 128
    assert rival_model.flops(H100, half) == pytest.approx(EFFICIENCY * 989e12, rel=1e-3)  # as its data sheet says
    assert product == pytest.approx(2 * values * 1152 / rival_model.flops(H100, half))
    assert scan == pytest.approx((4 * values + 8 * values / 64) / 3.35e12 / BANDWIDTH)
    assert pool == pytest.approx(2.5 * values / 3.35e12 / BANDWIDTH)


def test_the_rival_of_a_geforce_sums_at_a_quarter_of_the_rate_of_digits():
    """float16 with float32 sums, 165 TFLOP/s."""
    assert rival_model.flops(GEFORCE, "float16") == pytest.approx(EFFICIENCY * 165.2e12, rel=1e-3)


def test_tf32_has_half_the_rate_of_float16_and_the_bytes_of_float32():
    assert rival_model.flops(H100, "tf32") == rival_model.flops(H100, "float16") / 2
    times = [rival_model.run_ms(128, 64, H100, precision) for precision in ("float16", "tf32", "float32")]
    assert times == sorted(times) and times[1] > 1.9 * times[0]


def test_the_rival_runs_in_chunks():
    one, two = (rival_model.run_ms(128, T, H100, "float16") for T in (64, 128))
    assert 1.9 * one < two < 2 * one
    launches = 1 + 2 * 6 + 2
    assert rival_model.run_ms(1, 1, H100, "float16") > 1e3 * launches * LAUNCH_S


def test_products_by_hand():
    """The paper's network has 163.8 million multiply-adds a step; an H100 does 1.98 POP/s in int8."""
    assert time_model.products_ms(128, 64, H100, "int8") == pytest.approx(
        1e3 * 128 * 64 * 2 * 163.8e6 / (0.625 * 1.979e15), rel=1e-3
    )
    int8, float16 = (time_model.products_ms(1, 1, GEFORCE, weights) for weights in ("int8", "float16"))
    assert float16 == pytest.approx(4 * int8)


@pytest.mark.parametrize("images", [1, 32, 128])
@pytest.mark.parametrize("weights", time_model.WEIGHTS)
@pytest.mark.parametrize("steps", [1, 4, 16, 32])
def test_kernels_are_compiled_with_the_blocks_that_are_launched(images, weights, steps):
    """Their names choose them for a card of 128 multiprocessors, whatever card is modelled."""
    from gpu import variants

    for card in (A100, H100, GEFORCE):
        for layer in time_model.LAYERS:
            name, blocks = time_model._variant(layer, images, card, weights, steps)
            kernel, target, numbers, products, _, output = name.split("/")
            assert variants.output_and_steps(output) == ("pooled" if layer.pooled else "words", steps)
            there = variants.conv_layer(numbers)
            assert (kernel, target) == ("if_conv2d", card.target) and (there.C, there.C_out) == (layer.C, layer.C_out)
            sizes = there.neurons, there.C_out, layer.K, target, variants.PRODUCTS[products].digits
            assert choose_blocks(*sizes, steps=steps) == blocks


def test_table(monkeypatch, tmp_path, capsys):
    record = {"registers": 128, "programs": 2, "loop": vars(LOOP)}
    compiled = lambda variants: ({"variant": variant, **record} for variant in variants)  # noqa: E731
    monkeypatch.setattr(time_model, "compile_in_child", compiled)
    gpu_model.main(["--batch", "1,128", "--T", "64", "--out", str(tmp_path)])
    with open(tmp_path / "gpu_model.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["card"], row["batch"], row["weights"], row["rival"]) for row in rows] == [
        (card, batch, weights, f"layers-graph-{rival}")
        for card in CARDS
        for batch in ("1", "128")
        for weights in time_model.WEIGHTS
        for rival in tables.RIVALS[weights]
    ]
    with open(tmp_path / "gpu_model_kernels.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3 * 2 * len(time_model.WEIGHTS) * len(time_model.LAYERS)
    assert "modelled, not measured" in " ".join(capsys.readouterr().out.split())
    goals = {row["weights"]: row["met"] for row in rows if row["goal"]}
    assert list(goals) == list(tables.GOALS) and set(goals.values()) <= {"yes", "no"}
    for row in rows:
        assert float(row["ratio"]) == pytest.approx(float(row["rival_ms"]) / float(row["ms"]), rel=0.02)
        assert float(row["limit"]) > float(row["ratio"])
        if row["met"]:
            assert (row["met"] == "yes") == (float(row["ratio"]) >= float(row["goal"]))


def test_a_row_of_a_kernel():
    """500 instructions around the loop, for 8 pixels x 64 channels x 32 steps of 256 threads."""
    row = tables.of_kernel(LAYER, Compiled(BLOCKS, 128, 2, LOOP), 1, A100)
    assert (row["layer"], row["step"], row["tensor"]) == ("conv", round(500 * 256 / (8 * 64 * 32), 1), 2048)
    seconds = layer_seconds(LAYER, Compiled(BLOCKS, 128, 2, LOOP), 1, 32, A100)
    assert [row[f"{by}_us"] for by in ("arithmetic", "L2", "memory")] == pytest.approx(
        [1e6 * seconds[by] for by in ("arithmetic", "L2", "memory")], rel=0.01
    )


def test_a_kernel_that_does_not_compile_is_named(monkeypatch):
    records = lambda variants: ({"variant": variant, "error": "at 3:4"} for variant in variants)  # noqa: E731
    monkeypatch.setattr(time_model, "compile_in_child", records)
    with pytest.raises(RuntimeError, match="if_conv2d/sm_90/.*: at 3:4"):
        list(time_model.compiled([(LAYER, 1, H100, "float32", 32)]))
