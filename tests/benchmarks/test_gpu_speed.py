"""gpu_speed.py, as far as it can be tested without a GPU: what it counts, and that it refuses to go on without one."""

import gpu_speed
import pytest
import torch
from speed import options


def one_ms(function):
    """Runs what would be timed, once."""
    function()
    return 1.0


def figures(device: str) -> dict[str, dict]:
    small = {"copy_bytes": 5_000_000, "matrix": 100, "scan": (64, 2, 1000), "conv": (32, 2, 16, 5)}
    return {row["figure"]: row for row in gpu_speed.kernels(torch.device(device), **small, time=one_ms)}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_bytes_and_flops(device):
    """In a millisecond each, by hand: the copy reads and writes, a step's current is 4 bytes and its spike a bit."""
    rows = figures(device)
    assert rows["copy"]["value"] == 10.0 and rows["copy"]["unit"] == "GB/s"
    scan = rows["IF scan"]
    assert scan["value"] == round(2000 * (64 * 4 + 8 + 8) / 1e6, 1) and scan["limit"] == 10.0
    assert rows["matrix product, bfloat16"]["value"] == round(2 * 100**3 / 1e9, 1)
    products = {name: row["value"] for name, row in rows.items() if "weights" in name}
    assert len(products) == 2 and all(row["unit"] == "TFLOP/s" for name, row in rows.items() if name in products)


def test_a_convolution_of_two_products_counts_twice():
    shape = 32, 2, 16, 5
    half = gpu_speed.convolution_speed(torch.device("cpu"), shape, torch.bfloat16, 1, one_ms)
    full = gpu_speed.convolution_speed(torch.device("cpu"), shape, torch.float32, 2, one_ms)
    assert half == pytest.approx(2 * 32 * 2 * 25 * 16 * 9 * 16 / 1e9) and full == 2 * half


def test_effective_work_is_that_of_the_dense_convolution():
    rows = figures("cpu")
    values = {name: (row["value"], row["effective"]) for name, row in rows.items() if "weights" in name}
    (half, half_effective), (full, full_effective) = values.values()
    assert half == half_effective and full_effective == pytest.approx(full / 2, abs=0.1)
    assert all(row["predicted"] == "" for row in rows.values())  # no model of a CPU


def test_a_known_card_is_predicted(monkeypatch):
    pytest.importorskip("triton")
    from gpu import time_model
    from gpu.main_loop import MainLoop

    from proxykernels.kernels.gpu.block_sizes import Blocks

    kernel = time_model.Compiled(Blocks(8, 64, 64, 3, 8), 128, 2, 500, MainLoop(300, 8, 4, 5, 0, 0, 100, 1000))
    monkeypatch.setattr(time_model, "compiled", lambda *_: kernel)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    device = torch.device("cuda")
    assert gpu_speed.predicted_bandwidth(device) == 3350
    peak = 2 * 2048 * 132 * 1.755e9 / 1e12
    assert 0.3 * peak < gpu_speed.predicted_convolution(device, gpu_speed.CONV) < peak
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA T4")
    assert gpu_speed.predicted_convolution(device, gpu_speed.CONV) == ""


def test_tests_that_take_too_long_end_it(monkeypatch):
    def run(command, cwd, timeout):
        raise gpu_speed.subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(gpu_speed.subprocess, "run", run)
    with pytest.raises(SystemExit, match="took more than 240 s: run `-m pytest -q -m gpu --quick`"):
        gpu_speed.run_tests()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so():
    with pytest.raises(SystemExit) as error:
        gpu_speed.main([])
    assert "no CUDA device" in str(error.value)


def test_a_bad_option_ends_before_any_work(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(options, "set_float32_precision", lambda precision: None)
    monkeypatch.setattr(gpu_speed.subprocess, "run", lambda *_, **__: pytest.fail("the tests were started"))
    with pytest.raises(SystemExit):
        gpu_speed.main(["--weights", str(tmp_path / "nowhere.safetensors"), "--out", str(tmp_path)])
    assert "nowhere.safetensors is missing" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
