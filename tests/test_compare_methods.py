"""compare_methods.py on the shipped images, and the conversion that it compares with."""

import csv
import shutil
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # its scripts import each other by plain names

import compare_methods  # noqa: E402
import conversion  # noqa: E402
import data  # noqa: E402
import nets  # noqa: E402

import proxykernels as pk  # noqa: E402


def test_a_converted_network_fires_in_proportion_to_the_activations(generator):
    torch.manual_seed(0)
    model = pk.ProxyNet(nets.build("6C3-16", 1.0, 0.0, (1, 8, 8), 4, batch_norm=False), 8).eval()
    images = torch.rand(20, 1, 8, 8, generator=generator)
    net = conversion.convert(model, images)
    activations = model.ann(images).relu()
    rates = pk.simulate(net, images, 2000).count() / 2000
    scale = activations.flatten().kthvalue(int(0.999 * activations.numel())).values
    torch.testing.assert_close(
        rates, (activations / scale).clamp(max=1), rtol=0.05, atol=0.05
    )  # and the few above the percentile
    assert rates.max() > 0.9 and model.net[0].v_threshold == 1.0


def test_all_methods_leave_rows_and_a_plot(tmp_path, monkeypatch):
    for name in data.SAMPLE.glob("*.gz"):
        shutil.copy(name, tmp_path / name.name)
        shutil.copy(name, tmp_path / name.name.replace("t10k", "train"))
    monkeypatch.setattr(compare_methods, "CALIBRATION", 50)
    arguments = f"--minutes 0.01 --T 4 --longest 6 --batch 32 --test 40 --root {tmp_path} --out {tmp_path}".split()
    for name in compare_methods.NAMES:  # in this process: the memory is not looked at
        compare_methods.main([*arguments, "--method", name])
    compare_methods.main([*arguments, "--method", "proxy"])  # again: its rows are replaced
    rows = list(csv.DictReader((tmp_path / "compare_methods.csv").open()))
    assert sorted(row["method"] for row in rows) == sorted(compare_methods.NAMES)
    assert all(int(row["steps"]) > 0 and float(row["seconds_an_epoch"]) > 0 for row in rows)
    assert len(list(csv.DictReader((tmp_path / "compare_methods_curves.csv").open()))) == 4 * 6
    compare_methods.draw(compare_methods.parse_options(arguments))
    assert (tmp_path / "compare_methods.png").stat().st_size > 10_000
