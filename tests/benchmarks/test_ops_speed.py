"""The benchmark of the CPU's kernels: its counts by hand, its guards, and small runs from end to end."""

import csv
import itertools

import ops_speed
import pytest
import torch
from equality import equal
from speed import ops_cases, ops_parts, ops_table
from speed.ops_cases import SHAPES, Data, Shape, row_adds

from proxykernels.kernels import cpu

compiled = pytest.mark.skipif(cpu.load() is None, reason="the C++ kernels were not built")
TINY = [
    Shape(3, 2, 20, 6, 40, 3, 0.2, padding=1),
    Shape(2, 2, 8, 6, 8, 3, 0.5, stride=2, padding=2, dilation=2, groups=8),
    Shape(4, 3, 40, 1, 11, 1, 0.1),
]
tiny = pytest.mark.parametrize("shape", TINY, ids=["conv", "depthwise", "linear"])


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# Shapes and counts


def test_multiplications_by_hand():
    assert SHAPES[0].gmac == pytest.approx(32 * 4 * 784 * 128 * 1152 / 1e9)  # the convolution
    strided = Shape(2, 3, 6, 9, 4, 3, 0.1, stride=2, padding=1, groups=2)
    assert strided.out == (5, 5) and strided.gmac == pytest.approx(2 * 3 * 25 * 4 * (3 * 9) / 1e9)
    assert str(strided) == "6->4 3x3 s2 g2 9x9" and str(TINY[2]) == "linear 40->11"


def test_row_adds_are_counted_window_by_window():
    shape = Shape(2, 2, 5, 7, 17, 3, 0.4, stride=2, padding=1, dilation=2)
    dense = Data.of(shape).dense
    adds = 0
    for y, x, dy, dx in itertools.product(range(shape.out[0]), range(shape.out[1]), range(3), range(3)):
        row, column = 2 * y - 1 + 2 * dy, 2 * x - 1 + 2 * dx
        if 0 <= row < 7 and 0 <= column < 7:
            adds += int(dense[:, :, :, row, column].sum())
    assert row_adds(shape, dense, 16) == 2 * adds > 0  # 17 output channels: two rows


def test_dyadic_weights_are_multiples_of_a_sixteenth():
    data = Data.of(TINY[0])
    assert equal(data.dyadic * 16, (data.dyadic * 16).round()) and data.dyadic.std() > 0.3
    assert data.weight.shape == data.dyadic.shape and abs(data.dense.float().mean() - 0.2) < 0.05


# Timing


@compiled
@tiny
def test_ours_and_the_rival_compute_the_same(shape):
    data = Data.of(shape)
    spikes, v = ops_parts.ours(shape, data.dense, data.dyadic)()
    expected, v_expected = ops_parts.rival(shape, data.dense, data.dyadic)()
    assert equal(spikes.dense(), expected.dense()) and equal(v, v_expected)
    assert 0 < spikes.rate() < 1


# Parity


@pytest.mark.parametrize("bits, v, message", [(0b101, 0.0, "2 spikes differ"), (0, 1.0, "0 spikes differ")])
def test_difference_ends_the_program(bits, v, message):
    words = torch.zeros(1, 2, 3, 1, dtype=torch.uint8)
    expected = words.clone(), torch.zeros(1, 3, 8)
    ops_parts.check(TINY[0], "events", (words, torch.zeros(1, 3, 8)), expected)
    words[0, 1, 2, 0] = bits
    with pytest.raises(SystemExit, match=f"events is wrong on 20->40 3x3 6x6.*{message}"):
        ops_parts.check(TINY[0], "events", (words, expected[1] + v), expected)


@compiled
@pytest.mark.parametrize("part, wrong", [("rates", "plan"), ("shapes", None)])
def test_wrong_kernel_is_found_and_nothing_is_written(tmp_path, monkeypatch, part, wrong):
    monkeypatch.setattr(ops_table, "QUICK_SHAPES", TINY[:1])
    run = ops_parts.Kernel.run

    def run_wrongly(self, shape, words, weight):
        spikes, v = run(self, shape, words, weight)
        if self.forced != "dense" and wrong in (None, self.forced):
            spikes[0, 0, 0, 0] ^= 1
        return spikes, v

    monkeypatch.setattr(ops_parts.Kernel, "run", run_wrongly)
    with pytest.raises(SystemExit, match=f"{wrong or ''}.* is wrong on .* 1 spikes differ"):
        ops_speed.main(["--quick", "--parts", part, "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


# From end to end


@pytest.mark.long
@compiled
def test_rates_have_a_row_a_kernel_and_a_plot(tmp_path, capsys):
    ops_speed.main(["--quick", "--parts", "rates", "--out", str(tmp_path)])
    rows, shown = read(tmp_path / "ops_speed_rates.csv"), capsys.readouterr().out
    assert list(rows[0]) == ops_table.COLUMNS["rates"]
    named = {*ops_parts.KERNELS, "chosen", "torch fp32"}
    assert named <= {row["kernel"] for row in rows}
    assert len(rows) == len(ops_cases.QUICK_LAYERS) * len(ops_table.QUICK_RATES) * len({row["kernel"] for row in rows})
    for row in rows:
        assert row["date"] and row["commit"] and row["device"] and int(row["threads"]) > 0 and row["torch"]
        assert float(row["min_ms"]) <= float(row["median_ms"]) <= float(row["max_ms"]) and row["rounds"] == "2"
        assert bool(row["cycles_row_add"]) == (row["kernel"] == "plan")
        assert row["taken"] in ("", row["kernel"]) or row["kernel"] == "chosen"
    event = next(row for row in rows if row["kernel"] == "plan")
    shape = ops_cases.QUICK_LAYERS[0]
    assert float(event["gmac_s"]) == pytest.approx(1000 * shape.gmac / float(event["median_ms"]), rel=0.02, abs=0.01)
    cycles = float(event["median_ms"]) / 1000 * float(event["peak_gmac_s"]) * 1e9 / ops_speed.CORE_MACS
    adds = row_adds(shape, Data.of(shape).dense, 16)
    assert float(event["cycles_row_add"]) == pytest.approx(cycles / adds, rel=0.1)
    assert "fp32 matrix-product peak" in shown
    png = tmp_path / "ops_speed_rates.png"
    assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 10_000
    assert len(list(tmp_path.iterdir())) == 2  # nothing half written


@compiled
def test_shapes_have_their_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(ops_table, "QUICK_SHAPES", TINY)
    ops_speed.main(["--quick", "--rounds", "1", "--parts", "shapes", "--out", str(tmp_path)])
    shapes = read(tmp_path / "ops_speed_shapes.csv")
    assert [row["layer"] for row in shapes] == [str(shape) for shape in TINY]
    assert shapes[1]["kernel"] == "depthwise" and shapes[1]["groups"] == "8"
    for row in shapes:
        ratio = float(row["rival_median_ms"]) / float(row["ours_median_ms"])
        assert float(row["ratio"]) == pytest.approx(ratio, rel=0.05, abs=0.01)
        assert row["lost"] == str(float(row["ratio"]) < 0.9)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--parts", "rates,speed"], "'speed' is none of rates, shapes, drop_in"),
        (["--rounds", "0"], "whole number of at least 1"),
    ],
)
def test_bad_options_end_with_one_sentence(capsys, options, message):
    with pytest.raises(SystemExit):
        ops_speed.main(options)
    assert message in capsys.readouterr().err


def test_absent_library_ends_with_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "load", lambda *target: None)
    with pytest.raises(SystemExit, match="the C\\+\\+ kernels were not built"):
        ops_speed.main(["--out", str(tmp_path)])
