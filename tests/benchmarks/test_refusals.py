"""What all commands refuse before any work: a folder that cannot be written, tables of another version, bad options."""

import csv
import importlib
from pathlib import Path

import pytest
import torch
from common import checkout, weights_file
from training import relu_networks

RESULTS = checkout.RESULTS
TABLES = {  # module of a command: options that make it short, and a table that it adds to
    "evaluate": ("--T 1", "accuracy.csv"),
    "accuracy.anytime": ("--images 1", None),
    "accuracy.energy": ("--images 1", "energy.csv"),
    "accuracy.few_steps": ("--images 1", None),
    "accuracy.sigma_delta": ("--images 1", "few_steps_sigma_delta.csv"),
    "compare_methods": ("--net small --epochs 1", "compare_methods_small_0.25_1_epochs.csv"),
    "methods.recipes": ("--steps 1", "recipes.csv"),
    "train_iteration": ("--batch 1", "train_iteration.csv"),
    "iteration.surrogate_step": ("--batch 1 --T 1", "surrogate_step.csv"),
    "train_events": ("--images 1", "train_events.csv"),
    "training.relu": ("", None),
    "against_relu": ("--quick", None),
    "video": ("x.mp4", "video.csv"),
    "engine_speed": ("--T 1 --fast", "engine_times.csv"),
    "sim_speed": ("--T 1", "sim_speed.csv"),
    "ops_speed": ("--quick", None),
    "imagenet": ("", None),
    "images.torchvision_nets": ("", None),
    "supported_models": ("", "supported_models.csv"),
}


def refused(capsys, module: str, options: str) -> str:
    """The sentence that a command ends with, having printed nothing else."""
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(module).main(options.split())
    said = capsys.readouterr()
    assert stop.value.code not in (0, None) and not said.out
    return f"{said.err.replace(chr(39), '')} {stop.value.code}"


@pytest.mark.parametrize("module", TABLES)
def test_an_out_that_cannot_be_written(tmp_path, capsys, module):
    file = tmp_path / "file"
    file.touch()
    message = refused(capsys, module, f"{TABLES[module][0]} --out {file}")
    assert f"--out {file} cannot be written" in message and "give another --out" in message


@pytest.mark.parametrize("module", [module for module, (_, table) in TABLES.items() if table])
def test_a_table_of_another_version(tmp_path, capsys, module):
    options, table = TABLES[module]
    (tmp_path / table).write_text("a,b\n1,2\n")
    message = refused(capsys, module, f"{options} --out {tmp_path}")
    assert f"{tmp_path / table} has other columns than this version writes" in message
    assert (tmp_path / table).read_text() == "a,b\n1,2\n"


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
        "accuracy.sigma_delta": "accuracy.sigma_delta_table", "methods.recipes": "methods.recipes_table",
        "train_iteration": "iteration.proxy_step", "iteration.surrogate_step": "iteration.surrogate_step_table",
        "train_events": "training.events", "engine_speed": "speed.engine_table", "sim_speed": "speed.report",
        "video": "accuracy.video_table", "supported_models": "zoo.models_table", "compare_methods": "methods.report",
    }  # fmt: skip
    return importlib.import_module(work[module]).COLUMNS


def test_curves_of_another_version_are_refused_before_others_are_replaced(tmp_path, capsys):
    (tmp_path / "accuracy_small_int8.csv").write_text("a,b\n1,2\n")
    message = refused(capsys, "evaluate", f"--weights {checkout.WEIGHTS}/small.safetensors --out {tmp_path}")
    assert "accuracy_small_int8.csv has other columns" in message


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
        ("engine_speed", "--latency -5", "--latency: expected a whole number of at least 0, got -5"),
        ("engine_speed", "--batch 257", "--batch must be at most the 256 images that are shipped, got 257"),
        ("iteration.surrogate_step", "--batch 257", "--batch must be at most the 256 images that are shipped, got 257"),
        ("images.torchvision_nets", "--batch 225", "--batch must be at most 224 of the images that are shipped"),
        ("train_events", "--lr -1", "--lr: expected a number above 0, got -1"),
        ("train_events", "--lr nan", "--lr: expected a number above 0, got nan"),
        ("train_events", "--dropout 2", "--dropout: expected a number within 0 .. 1, without 1, got 2"),
        ("train_events", "--seed -1", "--seed: expected a whole number within 0 .. 4294967295, got -1"),
        ("training.relu", "--lr nan", "--lr: expected a number above 0, got nan"),
        ("accuracy.few_steps", "--lr inf", "--lr: expected a number above 0, got inf"),
        ("train", "--seed 20260101120000", "--seed: expected a whole number within 0 .. 4294967295"),
        ("compare_methods", "--seeds 0,20260101120000", "--seeds: expected a whole number within 0 .. 4294967295"),
        ("compare_methods", "--seeds -1", "expected a whole number within 0 .. 4294967295, got -1"),
        ("compare_methods", "--decay 0.5", "--decay 0.5 has no effect without --neuron lif"),
        ("sim_speed", "--tau 16", "--tau: is of --neuron lif alone, got 16"),
        ("draw", "--results /nowhere", "--results /nowhere is no folder"),
    ],
)  # fmt: skip
def test_bad_options(tmp_path, capsys, module, options, message):
    out = "" if module == "draw" else f" --out {tmp_path}"
    assert message in refused(capsys, module, options + out)


@pytest.mark.parametrize("name", ["recipes", "sim_speed", "ops_speed_rates", "accuracy_small", "anytime_small"])
def test_draw_names_a_table_that_it_cannot_draw(tmp_path, capsys, name):
    path = tmp_path / f"{name}.csv"
    path.write_text("a,b\n1,2\n")
    message = refused(capsys, "draw", f"--results {tmp_path}")
    assert f"{path} has other columns than this version writes" in message and "move it away" in message
    header = (RESULTS / f"{name}.csv").read_text().partition("\n")[0]
    path.write_text(f"{header}\n1\n")
    assert f"{path} is damaged (row 1 has not" in refused(capsys, "draw", f"--results {tmp_path}")
    path.write_text(f"{header}\n")
    assert f"--results {tmp_path} holds no table to draw" in refused(capsys, "draw", f"--results {tmp_path}")


def test_draw_says_which_table_lacks_rows(tmp_path, capsys):
    lines = (RESULTS / "anytime_small.csv").read_text().splitlines(keepends=True)
    (tmp_path / "anytime_small.csv").write_text("".join(line for line in lines if "ReLU" not in line))
    message = refused(capsys, "draw", f"--results {tmp_path}")
    assert "anytime_small.csv cannot be drawn: rows are missing" in message


def test_a_loss_that_is_not_finite_ends_the_training_of_a_relu_network(tmp_path, monkeypatch):
    batch = torch.rand(128, 1, 28, 28) * torch.nan, torch.zeros(128, dtype=torch.long)
    monkeypatch.setattr(relu_networks, "images", lambda *_: batch)
    with pytest.raises(SystemExit, match="train.py relu: the loss became nan in step 1 of resnet20; lower --lr"):
        importlib.import_module("training.relu").main(["--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def compact(monkeypatch, *arguments: str | Path) -> None:
    monkeypatch.setattr("sys.argv", ["weights_file", *map(str, arguments)])
    weights_file.main()


def test_compact_files_have_their_name(tmp_path, monkeypatch, capsys):
    source = checkout.WEIGHTS / "small.safetensors"
    with pytest.raises(SystemExit):
        compact(monkeypatch, source, tmp_path / "x.safetensors")
    assert "the compact form's name must end in .safetensors.gz, got" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="weights_file.py: .*none.safetensors is missing"):
        compact(monkeypatch, tmp_path / "none.safetensors", tmp_path / "x.safetensors.gz")
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="weights_file.py: folder .*file cannot be written"):
        compact(monkeypatch, source, tmp_path / "file" / "x.safetensors.gz")
    compact(monkeypatch, source, tmp_path / "x.safetensors.gz")
    assert weights_file.read(tmp_path / "x.safetensors.gz")[1]["net"] == "small"
