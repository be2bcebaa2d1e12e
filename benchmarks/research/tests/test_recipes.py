"""compare_methods.py recipes on the shipped images, with a quick network."""

import csv
import shutil

import pytest
from common import data, nets
from methods import recipes, recipes_table
from training import step as train_step


@pytest.fixture
def arguments(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.setattr(nets, "small", lambda v: nets.build("4C3-P4", v, 0.0, (1, 28, 28), 10, batch_norm=False))
    for name in data.SAMPLE.glob("*.gz"):
        shutil.copy(name, tmp_path / name.name.replace("t10k", "train"))
    return ["--steps", "3", "--T", "4", "--batch", "32", "--root", str(tmp_path), "--out", str(tmp_path)]


@pytest.mark.long
def test_every_recipe_leaves_its_curve(arguments, tmp_path):
    recipes.main(arguments)
    recipes.main([*arguments, "--recipes", "cross-entropy"])  # again: its rows are replaced
    rows = list(csv.DictReader((tmp_path / "recipes.csv").open()))
    assert {row["recipe"] for row in rows} == set(recipes_table.RECIPES) and len(rows) == 3 * len(recipes_table.RECIPES)
    assert all(0 <= float(row["snn"]) <= 1 and 0 <= float(row["highest"]) <= 1 for row in rows)
    assert (tmp_path / "recipes.png").stat().st_size > 10_000


def test_a_run_away_is_marked_where_it_stops(arguments, tmp_path, monkeypatch):
    steps, watch = [], train_step.watch

    def break_down(*figures):
        steps.append(1)
        if len(steps) == 3:
            raise train_step.Breakdown("training runs away")
        watch(*figures)

    monkeypatch.setattr(train_step, "watch", break_down)
    recipes.main([*arguments, "--recipes", "cross-entropy"])
    rows = list(csv.DictReader((tmp_path / "recipes.csv").open()))
    assert [(row["step"], row["stopped"]) for row in rows] == [("1", ""), ("2", "yes")]


def test_bad_input_is_named(arguments, capsys):
    with pytest.raises(SystemExit):
        recipes.main([*arguments, "--steps", "0"])
    assert "expected a whole number of at least 1, got '0'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="compare_methods.py recipes: .*is in none of /nowhere"):
        recipes.main([*arguments, "--root", "/nowhere"])
