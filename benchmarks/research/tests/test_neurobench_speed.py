"""neurobench_speed.py on a small network in a folder like a clone of NeuroBench's repository."""

import csv

import neurobench_speed
import pytest
import torch
from common.checkout import RESULTS
from common.pages import has_table
from common.tables import read_csv
from zoo import neurobench_nets

MODULE = """
from torch import nn
import snntorch as snn

net = nn.Sequential(
    nn.Flatten(), nn.Linear(20, 8), snn.Leaky(beta=0.9, threshold=0.2, init_hidden=True),
    nn.Linear(8, 5), snn.Leaky(beta=0.9, threshold=0.2, init_hidden=True, output=True),
)
"""


def run(*arguments: object) -> None:
    threads = torch.get_num_threads()
    try:
        neurobench_speed.main([*map(str, arguments), "--nets", "speech", "--samples", "2", "--threads", "1"])
    finally:
        torch.set_num_threads(threads)


def test_a_small_network(tmp_path, monkeypatch):
    pytest.importorskip("snntorch")
    module, weights = (tmp_path / file for file in neurobench_nets.FILES["speech"])
    weights.parent.mkdir(parents=True)
    module.write_text(MODULE)
    torch.manual_seed(0)
    made = {"__name__": "small"}
    exec(MODULE, made)
    torch.save(made["net"].state_dict(), weights)
    monkeypatch.setattr("speed.turns.BUDGET_S", 0.1)
    monkeypatch.setattr(neurobench_nets, "STEPS", {"speech": 12})
    run("--root", tmp_path, "--out", tmp_path)
    with (tmp_path / "neurobench_speed.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["samples"], row["steps"], row["differing"], row["other_answers"]) == ("2", "12", "0", "0")
    assert int(row["output_spikes"]) > 0 and float(row["times"]) > 0 and float(row["rate"]) > 0


def test_a_folder_that_is_no_clone(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("--root", tmp_path, "--out", tmp_path)
    assert "--root must be a clone of NeuroBench's repository" in str(stopped.value) + capsys.readouterr().err


def test_gestures_count_as_in_frames_of_a_larger_camera(monkeypatch):
    monkeypatch.setattr(neurobench_nets, "STEPS", {"gestures": 5})
    x = next(neurobench_nets.batches("gestures", 3, 0.1))
    assert x.shape == (5, 3, 2, 32, 32) and {0, 16} <= {*x.unique().tolist()} <= {0, 16, 32}


def test_the_page_has_the_table_of_the_csv():
    rows = read_csv(RESULTS / "neurobench_speed.csv")
    wanted = neurobench_nets.table(rows)
    text = neurobench_nets.PAGE.read_text()
    assert rows and has_table(text, neurobench_nets.TABLE, wanted), f"docs/neurobench.md must have:\n{wanted}"
    first = rows[0]
    where = f"{first['device']}, threads: {first['threads']}, snnTorch {first['snntorch']}, commit {first['commit']}"
    assert where in text.replace("\n", " "), where
