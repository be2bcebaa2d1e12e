"""transformer_speed.py on small networks."""

import csv

import pytest
import torch
import transformer_speed
from zoo import transformers


def test_a_small_network(tmp_path, monkeypatch):
    spikformer = pytest.importorskip("spikingjelly.activation_based.model.spikformer")

    def small():
        options = {"img_size_h": 32, "img_size_w": 32, "embed_dims": 32, "num_heads": 4, "depths": 1}
        return spikformer.Spikformer(T=transformers.T, patch_size=4, num_classes=10, **options)

    monkeypatch.setattr(transformers, "made", lambda: {"Spikformer": ("small", small)})
    monkeypatch.setattr("speed.turns.BUDGET_S", 0.1)
    threads = torch.get_num_threads()
    try:
        transformer_speed.main(["--nets", "Spikformer", "--images", "2", "--threads", "1", "--out", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    with (tmp_path / "transformer_speed.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["net"] == "small" and row["images"] == "2" and float(row["rate"]) > 0.01
    assert float(row["differing"]) < 0.2 and float(row["times"]) > 0


def test_the_table_of_the_page():
    rows = [
        {
            "net": "a",
            "images": "1",
            "rate": "0.2",
            "least_rate": "0.1",
            "ms": "3",
            "spikingjelly_ms": "9",
            "times": "3.00",
        }
    ]
    assert "| a | 1 | 0.2 | 0.1 | 3 | 9 | 3.00 |" in transformers.table(rows)
