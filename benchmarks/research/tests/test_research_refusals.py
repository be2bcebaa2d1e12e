"""What commands refuse before any work: a folder that cannot be written, tables of another version, bad options."""

import csv
import importlib

import command_checks
import pytest
import torch
from command_checks import refused
from common import checkout, relu_networks
from training import relu

RESULTS = checkout.RESULTS
TABLES = {  # module of a command: options that make it short, and a table that it adds to
    "evaluate": ("--T 1", "accuracy_small.csv"),
    "accuracy.energy": ("--images 1", "energy.csv"),
    "accuracy.sigma_delta": ("--images 1", "few_steps_sigma_delta.csv"),
    "compare_methods": ("--net small --epochs 1", "compare_methods_small_0.25_1_epochs.csv"),
    "train_iteration": ("--batch 1", "train_iteration.csv"),
    "iteration.surrogate_step": ("--batch 1 --T 1", "surrogate_step.csv"),
    "train_events": ("--images 1", "train_events.csv"),
    "training.relu": ("", None),
    "video": ("x.mp4", "video.csv"),
    "imagenet": ("", None),
    "supported_models": ("", "supported_models.csv"),
}


@pytest.mark.parametrize("module", TABLES)
def test_an_out_that_cannot_be_written(tmp_path, capsys, module):
    command_checks.refuses_an_out_that_cannot_be_written(tmp_path, capsys, module, TABLES[module][0])


@pytest.mark.parametrize("module", [module for module, (_, table) in TABLES.items() if table])
def test_a_table_of_another_version(tmp_path, capsys, module):
    command_checks.refuses_a_table_of_another_version(tmp_path, capsys, module, *TABLES[module])


def test_the_tables_in_results_have_the_columns_of_this_version():
    for options, table in TABLES.values():
        path = RESULTS / str(table)
        if table and path.is_file():
            module = next(module for module, found in TABLES.items() if found == (options, table))
            with path.open() as file:
                assert next(csv.reader(file)) == list(columns_of(module)), table


def columns_of(module: str) -> list[str]:
    work = {
        "evaluate": "accuracy.every_step", "accuracy.energy": "accuracy.energy_table",
        "accuracy.sigma_delta": "accuracy.sigma_delta_table",
        "train_iteration": "iteration.proxy_step", "iteration.surrogate_step": "iteration.surrogate_step_table",
        "train_events": "training.events",
        "video": "accuracy.video_table", "supported_models": "zoo.models_table", "compare_methods": "methods.report",
    }  # fmt: skip
    return importlib.import_module(work[module]).COLUMNS


def test_curves_of_another_version_are_refused_before_others_are_replaced(tmp_path, capsys):
    (tmp_path / "accuracy_small_converted.csv").write_text("a,b\n1,2\n")
    message = refused(capsys, "evaluate", f"--weights {checkout.WEIGHTS}/small.safetensors --out {tmp_path}")
    assert "accuracy_small_converted.csv has other columns" in message


def test_the_folder_of_checkpoints(tmp_path, capsys):
    (tmp_path / "file").touch()
    options = f"--net small --epochs 1 --out {tmp_path} --runs {tmp_path}/file"
    assert f"--runs {tmp_path}/file cannot be written" in refused(capsys, "compare_methods", options)
    (tmp_path / "compare_methods_small_0.25_settings.csv").write_text("a,b\n1,2\n")
    options = f"--net small --epochs 1 --out {tmp_path} --runs {tmp_path}"
    assert "_settings.csv has other columns" in refused(capsys, "compare_methods", options)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        ("evaluate", "--device nonsense", "--device nonsense does not work here"),
        pytest.param(
            "evaluate", "--device cuda", "--device cuda does not work here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
        ("evaluate", "--weights /tmp", "/tmp is a folder; give the file in it"),
        ("iteration.surrogate_step", "--batch 257", "--batch must be at most the 256 images that are shipped, got 257"),
        ("train_events", "--lr -1", "--lr: expected a number above 0, got -1"),
        ("train_events", "--lr nan", "--lr: expected a number above 0, got nan"),
        ("train_events", "--dropout 2", "--dropout: expected a number within 0 .. 1, without 1, got 2"),
        ("train_events", "--seed -1", "--seed: expected a whole number within 0 .. 4294967295, got -1"),
        ("training.relu", "--lr nan", "--lr: expected a number above 0, got nan"),
        ("train", "--seed 20260101120000", "--seed: expected a whole number within 0 .. 4294967295"),
        ("compare_methods", "--seeds 0,20260101120000", "--seeds: expected a whole number within 0 .. 4294967295"),
        ("compare_methods", "--seeds -1", "expected a whole number within 0 .. 4294967295, got -1"),
        ("redraw", "--results /nowhere", "--results /nowhere is no folder"),
    ],
)  # fmt: skip
def test_bad_options(tmp_path, capsys, module, options, message):
    out = "" if module == "redraw" else f" --out {tmp_path}"
    assert message in refused(capsys, module, options + out)


@pytest.mark.parametrize("name", ["few_steps_sigma_delta", "accuracy_small"])
def test_redraw_names_a_table_that_it_cannot_draw(tmp_path, capsys, name):
    command_checks.names_a_table_that_it_cannot_draw(tmp_path, capsys, "redraw", RESULTS / f"{name}.csv")


def test_a_loss_that_is_not_finite_ends_the_training_of_a_relu_network(tmp_path, monkeypatch):
    batch = torch.rand(256, 1, 28, 28) * torch.nan, torch.zeros(256, dtype=torch.long)  # half of them are held out
    monkeypatch.setattr(relu_networks, "images", lambda *_: batch)
    with pytest.raises(SystemExit, match="train.py relu: the loss became nan in step 1 of resnet20; lower --lr"):
        relu.main(["--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())
