"""The names that users see: what ``dir`` lists, where else a name is found, and which names have moved."""

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import proxykernels as pk
from proxykernels import _lookup

MODULES = "encode functional layers neurons plot samples stop surrogates"
CONTRACT = """
    FusedIFConv1d FusedIFConv2d FusedIFLinear FusedIFSum FusedLIFConv1d FusedLIFConv2d FusedLIFLinear FusedLIFSum
    FusedLILinear IF LI LIF Delay AvgPool2d AdaptiveAvgPool2d MaxPool2d MaxRatePool2d SumPool2d Flatten
    ProxyNet SurrogateNet Spikes Engine Stream
    compile convert events explain from_nir from_nir_data from_snntorch from_spikingjelly load pack simulate to_nir
    to_nir_data use_surrogate
    if_conv2d if_hold if_linear if_scan max_pool2d"""
OTHERS = """
    ATan FastSigmoid Sigmoid Triangle Channels Concatenate Dropout FusedConv2d FusedLinear FusedRecurrentLinear FusedSum
    Network Population RunningMaxPool2d Shards Unflatten Upsample Voting ZeroPad2d conversion_report model_card
    from_lava learn_neurons time_first use_reference"""
SURFACE = f"{MODULES} {CONTRACT} {OTHERS}".split()
MOVED = [(home, name) for home, names in _lookup.MOVED.items() for name in names]


def test_surface():
    """A name is added or leaves on purpose: here, and in the changelog."""
    assert sorted(pk.__all__) == sorted(SURFACE)
    assert [name for name in dir(pk) if not name.startswith("__")] == sorted(SURFACE)
    modules = [name for name in pk.__all__ if isinstance(getattr(pk, name), ModuleType)]
    assert sorted(modules) == MODULES.split()


def test_what_comes_when_it_is_first_used():
    """Names of conversion and training; type checkers find them by an import of their own."""
    code = "import sys, proxykernels as pk; before = {*sys.modules}; pk.convert; print(*before); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = (set(line.split()) for line in done.stdout.splitlines())
    late = "proxykernels.conversion", "proxykernels.training", "proxykernels.plot", "matplotlib", "faery", "nir"
    assert "proxykernels.conversion.relu.convert" in after and not {*late} & before
    tree = ast.parse(Path(pk.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    checked = {node.module or "plot": tuple(alias.name for alias in node.names) for node in block.body}
    assert checked == _lookup.LATER and len(checked) > 5


def test_star_import_takes_the_surface():
    names = {}
    exec("from proxykernels import *", names)
    assert names.keys() - {"__builtins__"} == set(SURFACE)


def test_names_do_not_differ_by_case_alone():
    assert len({name.lower() for name in SURFACE}) == len(SURFACE)


@pytest.mark.parametrize(("home", "name"), MOVED)
def test_a_moved_name_warns_once(home, name):
    with pytest.warns(
        DeprecationWarning, match=rf"proxykernels.{name} has moved: use proxykernels.{home}.{name}"
    ) as told:
        old = getattr(pk, name)
    assert old is getattr(getattr(pk, home), name) and len(told) == 1 and told[0].filename == __file__
    assert name in getattr(pk, home).__all__ and name not in dir(pk)


@pytest.mark.slow
def test_an_imported_moved_name_is_told_once():
    script = "from proxykernels import margin, AvgPool1d\nAvgPool1d(2), margin(3)"
    told = subprocess.run([sys.executable, "-W", "default", "-c", script], capture_output=True, text=True, check=True)
    assert told.stderr.count("DeprecationWarning") == 2, told.stderr


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'proxykernels' has no attribute 'simulat'"):
        pk.__getattr__("simulat")
    assert not hasattr(pk, "sys") and not hasattr(pk, "Path")


@pytest.mark.parametrize("module", MODULES.split())
def test_modules_say_what_is_theirs(module):
    module = importlib.import_module(f"proxykernels.{module}")
    assert module.__all__ and all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("name", ["integrate_and_fire", "leaky"])
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(f"proxykernels.layers.{name}")
    tests = doctest.DocTestFinder().find(module, extraglobs={"pk": pk, "torch": torch})
    results = [doctest.DocTestRunner().run(test) for test in tests if test.examples]
    assert len(results) >= 5 and not any(result.failed for result in results)


def test_the_reference_has_every_name():
    """Of the surface, and of its modules: each has a page of the site."""
    pages = (Path(__file__).parents[2] / "docs" / "api").glob("*.rst")
    listed = {line.strip().rpartition(".")[2] for page in pages for line in page.read_text().splitlines()}
    of_modules = {name for module in MODULES.split() for name in getattr(pk, module).__all__}
    internal = {"Stop", "Surrogate", "Value", "each_step"}
    assert set(SURFACE) - set(MODULES.split()) <= listed and of_modules - internal <= listed
