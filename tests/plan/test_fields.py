"""The fields of a plan's description: kernels/table.py lists them for the file, for Python and for C++."""

import dataclasses
import json
import shutil
import subprocess

import pytest
import torch

from proxykernels.kernels import table
from proxykernels.kernels.cpu import sources
from proxykernels.kernels.table import NEURONS, OPERATION, WINDOW, Kind
from proxykernels.plan.description import described
from proxykernels.plan.file_reader import plan_of
from proxykernels.plan.operations import Operation, PlannedNeurons, Window
from proxykernels.plan.plan import Plan


@pytest.mark.parametrize("of, fields", [(Window, WINDOW), (PlannedNeurons, NEURONS), (Operation, OPERATION)])
def test_python_has_them(of, fields):
    names = {field.name for field in dataclasses.fields(of)}
    others = {"model", "scalars"}, {"kind", "name", "shape", "windows", "neurons", "senders"}
    assert names - {field.name for field in fields} in (set(), *others)
    assert {field.name for field in fields} <= names


def changed_table() -> dict:
    """The table with two more fields: a gain of each channel of DELAY, and a number of each window."""
    text = (sources.FOLDER.parents[1] / "table.py").read_text()
    for place, field in {
        "OPERATION = (\n": 'Field("gain", "floats", "[C]", kinds=(Kind.DELAY,), size="C"),',
        "WINDOW = (\n": 'Field("offset", "whole", least=2, default="5"),',
    }.items():
        assert text.count(place) == 1
        text = text.replace(place, f"{place}    {field}\n")
    names: dict = {}
    exec(text, names)
    return names


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
def test_a_field_that_is_added_to_the_table_alone(tmp_path):
    """C++ has it, and the reader of plans reads it: whatever uses it need not be told."""
    folder = tmp_path / "cpu"
    shutil.copytree(sources.LIBRARY, folder / "c")
    shutil.copytree(sources.FOLDER, folder / "src")
    changed = changed_table()
    changed["write_headers"](folder / "src")
    assert changed["HASH"] != table.HASH
    text = (folder / "src" / "table.h").read_text()
    assert f"FLOATS(gain, 0, 0, 0, {1 << list(Kind).index(Kind.DELAY)})" in text and "WHOLE(offset, 2, 0, 0, 0)" in text
    assert "FLOATS(gain, C)" in text  # its size is checked, and a plan has a copy
    uses = "static_assert(engine::Window{}.offset == 5 && !engine::Operation{}.gain);\n"
    command = ["g++", "-std=c++17", "-fsyntax-only", "-Wall", "-Werror", "-Wno-unused-function", "-DPK_TARGET=any"]
    for line, compiles in ((uses, True), (uses.replace("5", "6"), False)):
        with (folder / "c" / "read_plan.cpp").open("a") as file:
            file.write(line)
        done = subprocess.run([*command, folder / "c" / "read_plan.cpp"], capture_output=True, text=True)
        assert (done.returncode == 0) == compiles, done.stderr


def test_what_is_written_is_read():
    window = Window(0, (2, 3), (2, 1), (1, 0), (1, 2), torch.rand(4, 2, 2, 3), averages=7)
    neurons = PlannedNeurons(
        "SoftReset", torch.rand(1, 4), (), torch.rand(4), torch.rand(1, 4), limit=0.5, rectifies=True
    )
    fire = Operation(Kind.FIRE, "fire", (window,), (4, 5, 5), neurons=neurons)
    delay = Operation(Kind.DELAY, "delay", (Window(1),), (4, 5, 5), delays=torch.tensor([0, 3, 1, 2]))
    plan = Plan((2, 9, 9), False, "int8", [fire, delay], (0.0, 1.0))
    text, tensors = described(plan)
    again = plan_of(json.loads(text), tensors)
    assert described(again)[0] == text
    assert again.operations[0].windows[0].averages == 7 and again.operations[0].neurons.limit == 0.5
    assert again.operations[1].delays.tolist() == [0, 3, 1, 2]
