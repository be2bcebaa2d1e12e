"""What all commands refuse before any work: a folder that cannot be written, tables of another version, bad options."""

import csv

import command_checks
import pytest
from command_checks import refused
from common import checkout
from speed import engine_table, report

RESULTS = checkout.RESULTS
TABLES = {  # a command: options that make it short, and a table that it adds to
    "against_relu": ("--quick", None),
    "engine_speed": ("--T 1 --fast", "engine_times.csv"),
    "sim_speed": ("--T 1", "sim_speed.csv"),
    "ops_speed": ("--quick", None),
}
COLUMNS = {"engine_speed": engine_table.COLUMNS, "sim_speed": report.COLUMNS}


@pytest.mark.parametrize("module", TABLES)
def test_an_out_that_cannot_be_written(tmp_path, capsys, module):
    command_checks.refuses_an_out_that_cannot_be_written(tmp_path, capsys, module, TABLES[module][0])


@pytest.mark.parametrize("module", [module for module, (_, table) in TABLES.items() if table])
def test_a_table_of_another_version(tmp_path, capsys, module):
    command_checks.refuses_a_table_of_another_version(tmp_path, capsys, module, *TABLES[module])


@pytest.mark.parametrize("module", COLUMNS)
def test_the_tables_in_results_have_the_columns_of_this_version(module):
    with (RESULTS / TABLES[module][1]).open() as file:
        assert next(csv.reader(file)) == list(COLUMNS[module])


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        ("engine_speed", "--latency -5", "--latency: expected a whole number of at least 0, got -5"),
        ("engine_speed", "--batch 257", "--batch must be at most the 256 images that are shipped, got 257"),
        ("sim_speed", "--tau 16", "--tau: is of --neuron lif alone, got 16"),
        ("draw", "--results /nowhere", "--results /nowhere is no folder"),
    ],
)
def test_bad_options(tmp_path, capsys, module, options, message):
    out = "" if module == "draw" else f" --out {tmp_path}"
    assert message in refused(capsys, module, options + out)


@pytest.mark.parametrize("name", ["sim_speed", "ops_speed_rates"])
def test_draw_names_a_table_that_it_cannot_draw(tmp_path, capsys, name):
    command_checks.names_a_table_that_it_cannot_draw(tmp_path, capsys, "draw", RESULTS / f"{name}.csv")
