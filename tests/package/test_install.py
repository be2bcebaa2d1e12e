"""What is importable in a checkout, and what a wheel and an sdist hold."""

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JUNK = shutil.ignore_patterns(".git", "__pycache__", "*.so", "*.egg-info", "build", "dist", ".venv", ".*_cache")
checkout = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="these are the tests of an installed package")


def python(code, folder=ROOT, **options):
    return subprocess.run([sys.executable, *code], cwd=folder, check=True, text=True, capture_output=True, **options)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The checkout without what was built in it."""
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("install") / "checkout", ignore=JUNK)


def files(folder, *patterns):
    return {str(path.relative_to(folder)) for pattern in patterns for path in folder.rglob(pattern)}


@pytest.mark.slow
@checkout
def test_nothing_else_of_the_checkout_is_importable():
    code = """
from importlib.util import find_spec
import proxykernels, proxykernels.kernels.reference
assert find_spec("proxykernels.kernels.cpu").submodule_search_locations
found = [name for name in ("setup", "tests", "benchmarks", "docs", "proxykernels") if find_spec(f"proxykernels.{name}")]
assert not found and len(proxykernels.__path__) == 1, found
"""
    python(["-c", code])


@pytest.mark.slow
@checkout
def test_an_installed_package_named_kernels_is_not_hidden(tmp_path):
    """PyPI has one; the checkout's folder comes first on the path."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("theirs = True")
    code = f"import sys; sys.path.append({str(tmp_path)!r}); import kernels, proxykernels; assert kernels.theirs"
    python(["-c", code + "; assert not hasattr(proxykernels.kernels, 'theirs')"])


@pytest.mark.long
@checkout
def test_a_wheel_holds_the_package_and_its_sources(copy, tmp_path):
    python(["setup.py", "-q", "build_py", "--build-lib", str(tmp_path)], copy)
    expected = files(copy / "proxykernels", "*.py", "py.typed", "*.safetensors", "*.gz", "ORIGIN.md")
    expected |= {f"kernels/{name}" for name in files(copy / "kernels", "*.py", "*.cpp", "*.h")}
    assert len(expected) > 50
    assert {name for name in files(tmp_path / "proxykernels", "*") if "." in Path(name).name} == expected


@pytest.mark.long
@checkout
def test_an_sdist_holds_what_its_tests_need(copy, tmp_path):
    python(["setup.py", "-q", "sdist", "--dist-dir", str(tmp_path)], copy)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    folders = ("proxykernels", "kernels", "tests", "benchmarks", "docs")
    expected = {str(path.relative_to(copy)) for name in folders for path in (copy / name).rglob("*") if path.is_file()}
    expected |= {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "setup.py", "MANIFEST.in"}
    assert len(expected) > 150
    assert not expected - files(unpacked, "*")


@checkout
def test_an_index_shows_no_link_that_leads_nowhere(copy, tmp_path):
    python(["setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)], copy)
    (information,) = tmp_path.rglob("PKG-INFO")
    about, _, page = information.read_text().partition("\n\n")
    assert {"License-Expression: MIT", "Description-Content-Type: text/markdown"} <= set(about.splitlines())
    assert re.findall(r"\]\((?!https:)", (copy / "README.md").read_text()) and "](https:" in page
    assert not re.findall(r"\]\((?!https:)", page) and "![" not in page
    words = " ".join(page.split())
    assert "all guides (docs/README.md), what is supported (docs/supported.md)" in words


@checkout
def test_a_failed_build_leaves_no_library_of_a_former_one(copy, tmp_path):
    """And says so, where the compiler's own words are easily missed."""
    left = [tmp_path / "proxykernels" / "kernels" / "cpu" / name for name in ("_cpu.so", "_cpu.cpython-311.so")]
    left[0].parent.mkdir(parents=True)
    for path in left:
        path.write_text("")
    options = ["--build-lib", str(tmp_path), "--build-temp", str(tmp_path / "objects")]
    done = python(["setup.py", "-q", "build_ext", *options], copy, env={"PATH": "", "CC": "none", "CXX": "none"})
    assert "installed WITHOUT its C++ kernels" in done.stderr and "apt-get install g++" in done.stderr
    assert not any(path.exists() for path in left)
