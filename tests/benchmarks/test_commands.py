"""All commands: help and tables, what is refused before any work, and where tables go."""

import argparse
import csv
import re
import subprocess
from pathlib import Path

import command_checks
import gpu_speed
import pytest
import sim_speed
import test_commands
from command_checks import CHECKOUT, parser_of, ran, refused, writes_to_what_git_ignores
from common import accuracy, checkout, datasets, names, nets, printed, relu_networks, subjects, tables
from common.printed import natural, numbers, positive_number, seed, seeds, share, some_of
from gpu import rivals as gpu_rivals
from rich.console import Console
from speed import engine_table, event_table, report, rivals

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COMMANDS = command_checks.modules_of(BENCHMARKS)


def test_help_imports_nothing_that_takes_time():
    command_checks.imports_nothing_that_takes_time(BENCHMARKS, [f"{name}.py" for name in COMMANDS])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_and_shows_an_example(name, monkeypatch, capsys):
    command_checks.help_fits_and_shows_an_example(BENCHMARKS, name, name, monkeypatch, capsys)


@pytest.mark.parametrize("name", COMMANDS)
def test_options_mean_the_same_in_every_command(name, monkeypatch, capsys):
    command_checks.options_mean_the_same(name, monkeypatch, capsys)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_every_default_and_no_name_broken(name, monkeypatch, capsys):
    command_checks.help_has_every_default_and_no_name_broken(name, monkeypatch, capsys)


def test_commands_are_few_and_in_the_index():
    assert 6 < len(COMMANDS) <= 12
    command_checks.are_in_the_index([f"{name}.py" for name in COMMANDS])


def test_nothing_of_research_is_needed():
    """What is imported in benchmarks/ and tests/ is found without benchmarks/research, which imports from there."""
    research = {path.stem for path in (BENCHMARKS / "research").glob("[a-z]*")} - {"tests"}
    files = [path for folder in ("benchmarks", "tests") for path in (command_checks.CHECKOUT / folder).rglob("*.py")]
    sources = [path for path in files if BENCHMARKS / "research" not in path.parents]
    imported = {
        (path.name, name)
        for path in sources
        for name in re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE)
    }
    assert len(files) > len(sources) > 200 and {"training", "evaluate"} < research
    assert not [pair for pair in imported if pair[1] in research]


@pytest.mark.parametrize(
    ("named", "there"),
    [
        (names.NETS, nets.NETS),
        (names.TRAINABLE, nets.TRAINABLE),
        (names.PRECISIONS, accuracy.PRECISIONS),
        (names.DATA, datasets.LOADERS),
        (names.RIVALS, rivals.RIVALS),
        (names.GPU_RIVALS, gpu_rivals.GPU_RIVALS),
        (names.EVENT_SIZES, event_table.SIZES),
        (names.RELU_NETS, relu_networks.NETS),
        (names.SUBJECTS, subjects.NAMES),
    ],
)
def test_options_name_what_there_is(named, there):
    assert list(named) == list(there)


IN_CHILDREN = ("gpu_speed",)  # where torch is imported when it is known what to do
RUN = [path for path in command_checks.commands_of(BENCHMARKS) if BENCHMARKS / "research" not in path.parents]


def test_every_command_runs_by_it():
    assert {path.stem for path in RUN if path.parent == BENCHMARKS} == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in RUN if path.stem not in IN_CHILDREN], ids=lambda path: path.stem)
def test_ctrl_c_while_a_command_is_imported_is_one_line_too(path, tmp_path):
    command_checks.ctrl_c_while_imported_is_one_line(tmp_path, BENCHMARKS, path)


ROW = {
    "T": 256, "reset": "soft", "neuron": "if", "batch": 32, "counts_total": 320, "median_ms_per_image": 1000.0,
    "min_ms_per_image": 900.0, "max_ms_per_image": 1300.0, "rounds": 12, "counts_different": 111, "accuracy": 1.0,
    "peak_mb": 1234.0,
}  # fmt: skip
ROWS = [{**ROW, "contender": name} for name in ("proxykernels", "proxykernels int16", "spikingjelly-s", "compiled")]


def shown(width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        report.print_table(console, ROWS, {"norse": "absent"}, {"conv1": 0.1})
    return capture.get().splitlines()


@pytest.mark.parametrize(("width", "is_table"), [(200, True), (80, True), (60, False), (50, False), (30, False)])
def test_table_fits_80_columns_and_gives_way_to_plain_lines(width, is_table):
    lines = shown(width)
    assert max(map(len, lines)) <= width
    assert any("──" in line for line in lines) == is_table
    text = " ".join(" ".join(lines).split())
    for part in ("SpikingJelly, single-step", "1234", "±20 %", "Norse", "not run"):
        assert part in text, part
    if not is_table:
        assert "ms an image 1e+03, half range ±20 %, runs 12" in text


def test_types_of_options():
    for parse, good, bad in (
        (natural, {"0": 0, "7": 7}, ("-1", "x", "1.5")),
        (seed, {"0": 0, "4294967295": 2**32 - 1}, ("-1", "4294967296", "x", "")),
        (seeds, {"0,0,3": [0, 3]}, ("0,", "1,x")),
        (positive_number, {"1e-3": 1e-3}, ("0", "-1", "nan", "inf", "x")),
        (share, {"0": 0.0, "0.9": 0.9}, ("1", "-0.1", "nan", "x")),
    ):
        assert {text: parse(text) for text in good} == good
        for text in bad:
            with pytest.raises(argparse.ArgumentTypeError, match="expected a .*, got"):
                parse(text)


def test_lists_have_commas_and_their_names_none():
    parse = some_of(["converted, max", "the authors' loss", "plain"])
    assert parse("plain,converted-max,plain") == ["plain", "converted, max"]
    assert parse("the-authors-loss") == ["the authors' loss"]
    with pytest.raises(argparse.ArgumentTypeError, match="'converted' is none of converted-max, the-authors-loss, pla"):
        parse("plain,converted")
    assert numbers("64,16,64") == [16, 64]


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


@pytest.fixture(scope="module", autouse=True)
def in_a_checkout():
    if ran("git", "rev-parse").returncode:
        pytest.skip("git tracks nothing here")


@pytest.mark.parametrize("name", [name for name in test_commands.COMMANDS if name != "gpu_speed"])
def test_a_command_writes_to_what_git_ignores(monkeypatch, name):
    monkeypatch.chdir(CHECKOUT)
    found = writes_to_what_git_ignores(parser_of(name, monkeypatch))
    assert found or name in ("engine_speed", "ops_speed")  # which write only where --out says


@pytest.mark.parametrize("part", ["", "compile", "operands"])
def test_so_does_a_part_for_gpus(monkeypatch, part):
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setattr("sys.argv", ["gpu_speed.py"])
    found = writes_to_what_git_ignores(parser_of(gpu_speed.__name__, monkeypatch, [part] if part else []))
    assert "out" in found


def test_results_of_a_run(tmp_path, monkeypatch):
    """The main job, without --out."""
    monkeypatch.setattr(printed, "RUNS", tmp_path)
    before = ran("git", "status", "--porcelain").stdout
    sim_speed.main(["--batch", "2", "--T", "3", "--repeats", "1", "--rivals", "none"])
    assert (tmp_path / "sim_speed.csv").is_file()
    assert ran("git", "status", "--porcelain").stdout == before
    assert (checkout.RESULTS / "sim_speed.csv").is_file()


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A checkout of its own, with a file of code, a page, and a table in benchmarks/results."""
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    for name in ("kernel.cpp", "README.md", "benchmarks/results/speed.csv"):
        (tmp_path / name).write_text("ms,commit\n1,abc\n")
    for command in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm first"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    monkeypatch.setattr(checkout, "RESULTS", results)
    monkeypatch.setattr(checkout, "SCRATCH", results / "scratch")
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    checkout.commit.cache_clear()
    checkout.say_scratch.cache_clear()


def add(path, commit: str) -> None:
    tables.write_csv(path, ["ms", "commit"], [*tables.read_csv(path), {"ms": "2", "commit": commit}])


def commits(path) -> list[str]:
    return [row["commit"] for row in tables.read_csv(path)]


def test_a_commit_adds_rows_whatever_tables_and_pages_changed(tree, capsys):
    path = checkout.RESULTS / "speed.csv"
    name = checkout.commit()
    for _ in range(2):  # the second finds the first one's table changed
        add(path, checkout.commit())
        (tree / "README.md").write_text("changed")
        forget()
    assert commits(path) == ["abc", name, name] and "dirty" not in name
    assert not checkout.SCRATCH.exists() and not capsys.readouterr().out


def test_a_changed_tree_adds_its_rows_elsewhere_and_says_so(tree, capsys):
    path, before = checkout.RESULTS / "speed.csv", (checkout.RESULTS / "speed.csv").read_bytes()
    (tree / "kernel.cpp").write_text("faster")
    name = checkout.commit()
    assert name.endswith("-dirty")
    add(path, name)
    add(path, name)
    assert path.read_bytes() == before
    assert commits(path) == ["abc", name, name] == commits(checkout.SCRATCH / "speed.csv")
    said = capsys.readouterr().out
    assert said.count("The code differs from its commit") == 1 and str(checkout.SCRATCH) in said
    elsewhere = tree / "speed.csv"
    add(elsewhere, name)  # a folder of the user's own takes anything
    assert commits(elsewhere) == [name]


def test_what_appends_to_a_table_does_the_same(tree, monkeypatch):
    path = checkout.RESULTS / "sim_speed.csv"
    monkeypatch.setattr(report, "COLUMNS", ["ms", "commit"])
    report.append_csv(path, [{"ms": "1", "commit": "abc"}])
    before = path.read_bytes()
    (tree / "kernel.cpp").write_text("faster")
    forget()
    tables.check_table(path, report.COLUMNS)
    for _ in range(2):
        report.append_csv(path, [{"ms": "2", "commit": checkout.commit()}])
    assert path.read_bytes() == before and len(tables.read_csv(checkout.SCRATCH / "sim_speed.csv")) == 3


SPEED_COLUMNS = ["ms", "commit"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a,b\n1,2\n", "has other columns than this version writes \\(ms is missing\\); move it away"),
        ("ms,commit,more\n1,abc,2\n", "has other columns than this version writes \\(more\\); move it away"),
        ("commit,ms\n", "has other columns than this version writes \\(their order\\); move it away"),
        ("ms,commit\n1\n", "is damaged \\(row 1 has not 2 cells\\); move it away"),
        ("ms,commit\n1,abc\n1,2,3\n", "is damaged \\(row 2 has not 2 cells\\); move it away"),
        ("", "\\(ms is missing\\)"),
    ],
)
def test_a_table_of_another_version_is_refused(tmp_path, content, reason):
    path = tmp_path / "speed.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"speed.csv {reason}" if content else reason):
        tables.check_out(tmp_path, {"speed.csv": SPEED_COLUMNS})
    path.write_text("ms,commit\n1,abc\n")
    tables.check_out(tmp_path, {"speed.csv": SPEED_COLUMNS, "missing.csv": SPEED_COLUMNS})
    path.write_bytes(b"ms,commit\n\xff,1\n")
    with pytest.raises(ValueError, match="is no table"):
        tables.read_csv(path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match=f"--runs {file} cannot be written .*; give another --runs"):
        tables.check_out(file, option="--runs")
    tables.check_out(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())


def test_outside_a_checkout_the_commit_is_unknown(tree, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(checkout, "RESULTS", tmp_path_factory.mktemp("elsewhere") / "benchmarks" / "results")
    checkout.RESULTS.mkdir(parents=True)
    assert checkout.commit() == "unknown"
    assert checkout.place(checkout.RESULTS / "a.csv") == checkout.RESULTS / "a.csv"
