"""What a host of repositories reads: metadata, templates and citation are well formed, and name one repository."""

import re
import tomllib
from pathlib import Path

import pytest

import proxykernels as pk

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [ROOT / name for name in ("README.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "CITATION.cff", "CHANGELOG.md")]
PAGES += [path for path in (ROOT / ".github").rglob("*") if path.is_file()]
pytestmark = pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="sources without the repository's own files")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_one_repository_is_named(path):
    home = PROJECT["urls"]["Repository"]
    for found in re.findall(r"https://github\.com/[\w.-]+/proxykernels", path.read_text()):
        assert found == home


@pytest.mark.parametrize(
    "path", [path for path in PAGES if path.suffix in (".yml", ".cff")], ids=lambda path: path.name
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


def test_the_command_of_the_template_runs(capsys):
    """That which asks for versions and the processor."""
    text = (ROOT / ".github" / "ISSUE_TEMPLATE" / "wrong_result.yml").read_text()
    exec(re.search(r'python -c "(.*)"', text)[1], {})
    assert PROJECT["name"] and len(capsys.readouterr().out.split()) >= 4


def test_classifiers_are_of_tested_pythons():
    """CI tests the ends of the range."""
    versions = [name.split(" :: ")[-1] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]
    ci = (ROOT / ".ci" / "run").read_text()
    assert f"pythons=({versions[0]} {versions[-1]})" in ci
    assert PROJECT["requires-python"] == f">={versions[0]}"
