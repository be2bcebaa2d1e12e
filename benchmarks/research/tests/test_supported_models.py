"""The table of models: its figures, its page, and the reasons of what does not convert."""

import csv
from pathlib import Path

import pytest
import supported_models
import torch
from common.printed import written
from equality import equal
from torch import nn
from zoo import models_table, relu_nets, spiking_nets

import proxykernels as pk

ROOT = Path(__file__).parents[3]
PAGE = f"before\n{models_table.BEGIN}\nold\n{models_table.END}\nafter\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command on a few networks; what it writes: rows by name, and the page."""

    def command(*names: str) -> tuple[dict[str, dict], str]:
        page = tmp_path / "models.md"
        if not page.exists():
            page.write_text(PAGE)
        supported_models.main(
            [
                "--nets",
                ",".join(name.replace(" ", "-") for name in names),
                "--longest",
                "64",
                "--out",
                str(tmp_path),
                "--page",
                str(page),
            ]
        )
        with (tmp_path / "supported_models.csv").open() as file:
            return {row["net"]: row for row in csv.DictReader(file)}, page.read_text()

    return command


@pytest.mark.slow
def test_rows_and_page(run, capsys):
    pytest.importorskip("spikingjelly")
    relu, refused, port = "net of the CIFAR-10 tutorial", "mobilenet_v3_small", "CSNN of the tutorial"
    rows, page = run(relu, refused, port)
    assert list(rows) == [refused, relu, port]
    assert 0 < float(rows[relu]["error_64"]) < 0.1 and not rows[relu]["error_1024"]
    assert 0 < float(rows[relu]["sigma_delta_4"]) < 0.1 and not rows[port]["sigma_delta_4"]
    assert float(rows[port]["differing_spikes"]) < 0.01 and float(rows[port]["rate"]) > 0.05
    assert rows[refused]["converts"] == "no" and "module 'features.0.2' is a Hardswish" in rows[refused]["reason"]
    assert page.startswith("before\n") and page.endswith("\nafter\n") and "old" not in page
    assert (
        f"| {refused} | no |" in page and f"| {port} | yes |" in page and rows[refused]["reason"].split(";")[0] in page
    )
    rows, page = run(relu)  # the others stay
    assert len(rows) == 3 and f"| {port} | yes |" in page
    assert "3 models, of which 2 convert" in capsys.readouterr().out


def test_the_page_holds_the_table():
    rows = models_table.read_csv(ROOT / "benchmarks" / "results" / "supported_models.csv")
    assert models_table.table(rows) in (ROOT / "docs" / "models.md").read_text()
    assert len(rows) >= 40 and len({row["net"] for row in rows}) == len(rows)
    for row in rows:
        figures = [
            float(figure) for figure in (row["error_1024"] or row["error_64"], row["differing_spikes"]) if figure
        ]
        assert (row["converts"] == "yes") == (len(figures) == 1) == (not row["reason"])
        far = bool(row["error_64"]) and figures[0] > 0.1
        assert models_table.verdict(row) == ("far off" if far else row["converts"])
    verdicts = [models_table.verdict(row) for row in rows if row["error_64"]]
    page = " ".join((ROOT / "docs" / "models.md").read_text().split())
    assert f"{verdicts.count('far off')} of {len(verdicts)} ReLU networks that are translated are far off" in page


def test_spikes_that_differ_are_counted(monkeypatch):
    """A network whose first weights are larger than the library's."""
    pytest.importorskip("snntorch")
    net = next(net for net in spiking_nets.spiking_nets() if net.name == "tutorial 6, nn.Sequential")
    assert float(models_table.port_row(net, 64)["differing_spikes"]) < 1e-4

    def port(theirs: nn.Module, sample) -> pk.Network:
        ours = pk.from_snntorch(theirs)
        ours.layers()[0][1].weight.data.mul_(2)
        return ours

    other = spiking_nets.SpikingNet(net.source, net.name, net.make, net.inputs, port)
    assert float(models_table.port_row(other, 64)["differing_spikes"]) > 1e-4


def test_the_error_is_that_of_the_logits_without_the_end():
    ann = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Sigmoid())
    x = torch.randn(2, 1, 2, 2)
    assert equal(models_table.logits_of(ann)(x), ann[:2](x))
    assert models_table.relative(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0])) == 0.5


def test_each_network_can_be_chosen_by_name(capsys):
    names = [net.name for net in relu_nets.ALL]
    assert supported_models.nets("U-Net-bilinear,alexnet,M5-audio-1-d") == [
        "U-Net, bilinear",
        "alexnet",
        "M5, audio (1-d)",
    ]
    assert len({written(name) for name in names}) == len(names)
    with pytest.raises(SystemExit):
        supported_models.main(["--nets", "resnet19"])
    assert "'resnet19' is none of alexnet" in capsys.readouterr().err.replace("\n", " ")


def test_chirps_are_sounds():
    sounds = relu_nets.chirps(800)()
    assert sounds.shape == (relu_nets.STATISTICS, 1, 800) and 0.1 < sounds.std() < 2 and len(sounds.unique()) > 1000
