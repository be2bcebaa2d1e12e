"""The names that users see, their docstrings, and what a host of repositories reads."""

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import proxykernels as pk
from proxykernels import _lookup

MODULES = "encode functional layers neurons plot recordings samples stop surrogates"
CONTRACT = """
    FusedIFConv1d FusedIFConv2d FusedIFLinear FusedIFSum FusedLIFConv1d FusedLIFConv2d FusedLIFLinear FusedLIFSum
    FusedLILinear IF LI LIF Delay AvgPool2d AdaptiveAvgPool2d MaxPool2d MaxRatePool2d SumPool2d Flatten
    ProxyNet SurrogateNet Spikes Engine Stream
    compile convert events explain from_nir from_nir_data from_snntorch from_spikingjelly load load_spikingjelly pack
    simulate to_nir to_nir_data use_surrogate
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


FUNCTIONS = {name: getattr(pk, name) for name in pk.__all__ if inspect.isfunction(getattr(pk, name))} | {
    f"{module.__name__.removeprefix('proxykernels.')}.{name}": function
    for module in (pk.plot, pk.encode)
    for name in module.__all__
    if inspect.isfunction(function := getattr(module, name))
}
NO_TENSORS = (
    "plot.rates",
    "plot.conversion",
    "from_nir",
    "from_spikingjelly",
    "from_snntorch",
    "load_spikingjelly",
    "to_nir",
)
CLASSES = {name: getattr(pk, name) for name in pk.__all__ if inspect.isclass(getattr(pk, name))}


@pytest.mark.parametrize("name", pk.__all__)
def test_name_is_listed(name):
    assert name in pk.__doc__


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_is_described(name):
    text = inspect.getdoc(FUNCTIONS[name])
    for parameter in inspect.signature(FUNCTIONS[name]).parameters:
        assert parameter in text, parameter
    assert "Raises:" in text
    assert "[" in text or "(T, N" in text or name in NO_TENSORS


@pytest.mark.parametrize("name", CLASSES)
def test_class_is_described(name):
    cls = CLASSES[name]
    text = inspect.getdoc(cls)
    if issubclass(cls, nn.Module):
        assert "Shapes:" in text or name == "Flatten"
        for parameter in inspect.signature(cls).parameters.values():
            assert parameter.name in text or parameter.kind is not parameter.KEYWORD_ONLY, parameter
    assert "Raises:" in text or name in ("Flatten", "Network", "Spikes")
    for key, member in vars(cls).items():
        if not key.startswith("_") and (callable(member) or isinstance(member, property)):
            assert inspect.getdoc(member), key


ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [ROOT / name for name in ("README.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "CITATION.cff", "CHANGELOG.md")]
PAGES += [ROOT / name for name in (".ci/recipe.yaml", ".zenodo.json")]
PAGES += [path for path in (ROOT / ".github").rglob("*") if path.is_file()]
needs_repository = pytest.mark.skipif(
    not (ROOT / ".github").is_dir(), reason="sources without the repository's own files"
)


@needs_repository
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_one_repository_is_named(path):
    home = PROJECT["urls"]["Repository"]
    for found in re.findall(r"https://github\.com/[\w.-]+/proxykernels", path.read_text()):
        assert found == home


@needs_repository
@pytest.mark.parametrize(
    "path", [path for path in PAGES if path.suffix in (".yml", ".yaml", ".cff", ".json")], ids=lambda path: path.name
)
def test_yaml_is_well_formed(path):
    read = pytest.importorskip("yaml").safe_load(path.read_text())
    if path.parent.name == "ISSUE_TEMPLATE" and path.name != "config.yml":
        assert read["name"] and read["description"] and {part["type"] for part in read["body"]} == {"textarea"}
        assert len({part["id"] for part in read["body"]}) == len(read["body"])
    if path.name == "CITATION.cff":
        assert {"cff-version", "message", "title", "authors"} <= read.keys() and read["license"] == PROJECT["license"]
        assert read["references"][0]["url"] == PROJECT["urls"]["Paper"]
        released = re.search(r"^## ([\d.]+) - ([\d-]+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
        assert (read["version"], read["date-released"]) == released.groups() and read["version"] == pk.__version__
    if path.name == "recipe.yaml":
        assert read["context"]["version"] == pk.__version__ and read["about"]["license"] == PROJECT["license"]
        needs = {name["then"] if isinstance(name, dict) else name for name in read["requirements"]["run"]}
        asked = {
            name.split(";")[0].replace("torch", "pytorch").replace(">", " >", 1) for name in PROJECT["dependencies"]
        }
        assert needs == asked | {f"python {PROJECT['requires-python']}"}


@needs_repository
def test_the_command_of_the_template_runs(capsys):
    """That which asks for versions and the processor."""
    text = (ROOT / ".github" / "ISSUE_TEMPLATE" / "wrong_result.yml").read_text()
    exec(re.search(r'python -c "(.*)"', text)[1], {})
    assert PROJECT["name"] and len(capsys.readouterr().out.split()) >= 4


@needs_repository
def test_classifiers_are_of_tested_pythons():
    """CI tests the ends of the range."""
    versions = [name.split(" :: ")[-1] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]
    ci = (ROOT / ".ci" / "run").read_text()
    assert f"pythons=({versions[0]} {versions[-1]})" in ci
    assert PROJECT["requires-python"] == f">={versions[0]}"
