"""What commands promise, here and in benchmarks/research: help that fits, refusals, no change of what git tracks."""

import argparse
import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
SLOW = ("torch", "numpy", "matplotlib", "proxykernels")
READ = {"root", "weights", "images", "state_dict", "folder", "init", "checkpoint"}  # options of what is read


def modules_of(folder: Path) -> dict[str, str]:
    """The modules of the commands in a folder, by their names."""
    return {path.stem: path.stem for path in sorted(folder.glob("*.py"))}


def imports_nothing_that_takes_time(folder: Path, commands: list[str]) -> None:
    """``--help`` of all commands, in one process, each after the other; alone each takes a third of a second."""
    script = f"""
import runpy, sys
for command in sys.argv[1:]:
    sys.argv = [*command.split(), "--help"]
    sys.path[0] = "."
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        assert stop.code == 0, command
    slow = {set(SLOW)!r} & set(sys.modules)
    assert not slow, (command, slow)
"""
    done = subprocess.run([sys.executable, "-c", script, *commands], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") == len(commands)


def help_fits_and_shows_an_example(folder: Path, name: str, module: str, monkeypatch, capsys) -> None:
    """``name``: of the command, or of its file and a part."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ending:
        importlib.import_module(module).main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert ending.value.code == 0
    assert [line for line in lines if len(line) > 80] == []
    command = name if " " in name else f"{name}.py"
    assert any(line.startswith(f"    python {folder.relative_to(CHECKOUT)}/{command}") for line in lines)


def options_mean_the_same(module: str, monkeypatch, capsys) -> None:
    """--root is the folder of the data, --data its name, --weights files of train.py."""
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        importlib.import_module(module).main(["--help"])
    options = capsys.readouterr().out.partition("\noptions:")[2]
    lines = [" ".join(line.split()) for line in options.splitlines()]
    assert lines
    for option, meaning in (("--root ROOT", "folder of "), ("--data ", "its name"), ("--weights ", "of train.py")):
        for line, following in zip(lines, lines[1:], strict=False):
            if line.startswith(option):
                assert meaning in line + following, line


def help_has_every_default_and_no_name_broken(module: str, monkeypatch, capsys) -> None:
    """Each option has a text, and its default unless it has none; names with hyphens stay whole."""
    monkeypatch.setenv("COLUMNS", "80")
    found = []
    parse = argparse.ArgumentParser.parse_args

    def keep(parser, *arguments):
        found.append(parser)
        return parse(parser, *arguments)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", keep)
    with pytest.raises(SystemExit):
        importlib.import_module(module).main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if re.search(r"[a-z]-$", line)]
    parser = found[-1]
    for action in parser._actions:
        if not isinstance(action.default, bool | None) and action.default != argparse.SUPPRESS:
            assert "default: " in parser._get_formatter()._expand_help(action), action.dest
        assert action.help, action.dest


def are_in_the_index(names: list[str]) -> None:
    index = (CHECKOUT / "docs" / "benchmarks.md").read_text()
    for name in names:
        assert f"| `{name}` |" in index, name


def a_part_is_found_by_its_name(folder: Path, command: str) -> None:
    path, name = command.split()
    arguments = [sys.executable, str(folder / path), name, "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {command} [-h]")


# Where commands write


def ran(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)


def parser_of(module: str, monkeypatch, arguments=()) -> argparse.ArgumentParser:
    """The parser of a command, which is asked for no options."""

    class Seen(Exception):
        pass

    seen = []

    def parse_args(parser, *_):
        seen.append(parser)
        raise Seen

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    with pytest.raises(Seen):
        importlib.import_module(module).main(list(arguments))
    return seen[0]


def writes_to_what_git_ignores(parser: argparse.ArgumentParser) -> list[str]:
    """The names of the options that are written to, whose defaults git must ignore."""
    written = [a for a in parser._actions if isinstance(a.default, Path) and a.dest not in READ]
    tracked = {action.dest: str(action.default) for action in written if not _is_ignored(action.default)}
    assert not tracked, f"{parser.prog} writes to what git tracks by default: {tracked}"
    return [action.dest for action in written]


def _is_ignored(path: Path) -> bool:
    inside = path.absolute().is_relative_to(CHECKOUT)
    return not inside or ran("git", "check-ignore", "-q", str(path.absolute() / "any.csv")).returncode == 0


# What commands refuse


def refused(capsys, module: str, options: str) -> str:
    """The sentence that a command ends with, having printed nothing else."""
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(module).main(options.split())
    said = capsys.readouterr()
    assert stop.value.code not in (0, None) and not said.out
    return f"{said.err.replace(chr(39), '')} {stop.value.code}"


def refuses_an_out_that_cannot_be_written(tmp_path, capsys, module: str, options: str) -> None:
    file = tmp_path / "file"
    file.touch()
    message = refused(capsys, module, f"{options} --out {file}")
    assert f"--out {file} cannot be written" in message and "give another --out" in message


def refuses_a_table_of_another_version(tmp_path, capsys, module: str, options: str, table: str) -> None:
    (tmp_path / table).write_text("a,b\n1,2\n")
    message = refused(capsys, module, f"{options} --out {tmp_path}")
    assert f"{tmp_path / table} has other columns than this version writes" in message
    assert (tmp_path / table).read_text() == "a,b\n1,2\n"


def names_a_table_that_it_cannot_draw(tmp_path, capsys, command: str, table: Path) -> None:
    """``command``: one that draws; ``table``: a good one."""
    path, options = tmp_path / table.name, f"--results {tmp_path}"
    path.write_text("a,b\n1,2\n")
    message = refused(capsys, command, options)
    assert f"{path} has other columns than this version writes" in message and "move it away" in message
    header = table.read_text().partition("\n")[0]
    path.write_text(f"{header}\n1\n")
    assert f"{path} is damaged (row 1 has not" in refused(capsys, command, options)
    path.write_text(f"{header}\n")
    assert f"{options} holds no table to draw" in refused(capsys, command, options)


# Ctrl-C


def commands_of(folder: Path) -> list[Path]:
    """The files in a folder that are run as commands."""
    return sorted(path for path in folder.rglob("*.py") if "\n    command(main" in path.read_text())


def ctrl_c_while_imported_is_one_line(tmp_path, folder: Path, path: Path) -> None:
    """Of the command ``path``, which is in ``folder`` or below; torch's import is where it takes its time."""
    needed = {
        "neurobench_speed": ["--root", "neurobench"],
        "train_digits": ["--root", "recordings"],
        "video": ["clip.mp4"],
    }
    (tmp_path / "torch.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)")
    module = path.relative_to(folder).with_suffix("").parts
    with subprocess.Popen(
        [sys.executable, *(["-m", ".".join(module)] if len(module) > 1 else [str(path)]), *needed.get(path.stem, ())],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(CHECKOUT / "benchmarks")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as child:
        assert child.stdout.readline() == "importing\n"
        child.send_signal(signal.SIGINT)
        _, shown = child.communicate(timeout=30)
    assert shown.strip() == f"{path.name}: interrupted; the results written before are kept"
    # As a shell shows both: torch is imported in the head of the command, or by what it runs.
    assert child.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
