"""What is importable in a checkout, and what a wheel and an sdist hold."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
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


@pytest.fixture(scope="module")
def made(copy, tmp_path_factory):
    """What setup.py puts into a wheel, and an sdist, unpacked."""
    wheel, folder = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("sdist")
    python(["setup.py", "-q", "build_py", "--build-lib", str(wheel), "sdist", "--dist-dir", str(folder)], copy)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    (sdist,) = (path for path in folder.iterdir() if path.is_dir())
    return wheel, sdist


@pytest.mark.long
@checkout
def test_a_wheel_holds_the_package_and_its_sources(copy, made):
    expected = files(copy / "proxykernels", "*.py", "py.typed", "*.safetensors", "*.gz", "ORIGIN.md")
    expected |= {
        f"kernels/{name}" for name in files(copy / "kernels", "*.py", "*.cpp", "*.c", "*.h", "*.hpp", "*.txt", "*.in")
    }
    assert len(expected) > 50
    assert {name for name in files(made[0] / "proxykernels", "*") if "." in Path(name).name} == expected


@pytest.mark.long
@checkout
def test_an_sdist_holds_what_its_tests_need(copy, made):
    folders = ("proxykernels", "kernels", "tests", "benchmarks", "docs")
    expected = {str(path.relative_to(copy)) for name in folders for path in (copy / name).rglob("*") if path.is_file()}
    built = "docs/api/names/", "docs/extra/demo/built/"  # by the site's build, and the browser page's
    expected = {path for path in expected if not path.startswith(built)}
    expected |= {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "setup.py", "MANIFEST.in"}
    assert len(expected) > 150
    assert not expected - files(made[1], "*")


@pytest.mark.long
@checkout
def test_an_index_shows_no_link_that_leads_nowhere(copy, made):
    about, _, page = (made[1] / "PKG-INFO").read_text().partition("\n\n")
    assert {"License-Expression: MIT", "Description-Content-Type: text/markdown"} <= set(about.splitlines())
    assert re.findall(r"\]\((?!https:)", (copy / "README.md").read_text()) and "](https:" in page
    assert not re.findall(r"\]\((?!https:)", page) and "![" not in page
    words = " ".join(page.split())
    assert "all guides (docs/README.md)" in words and "what is supported (docs/supported.md)" in words


NO_COMPILER = {"CC": "none", "CXX": "none"}


def setup_py(copy, *command, **environment):
    done = subprocess.run(
        [sys.executable, "setup.py", *command], cwd=copy, text=True, capture_output=True, env=os.environ | environment
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def broken(tmp_path):
    """A compiler that works, but not on the sources."""
    script = tmp_path / "broken"
    script.write_text('#!/bin/sh\ncase "$*" in *probe.cpp*) exec c++ "$@";; esac\necho it is broken >&2\nexit 1\n')
    script.chmod(0o755)
    return {"CC": str(script), "CXX": str(script)}


@pytest.mark.slow
@checkout
@pytest.mark.parametrize("compiler", ["missing", "broken"])
def test_a_failed_build_ends_with_an_error_and_keeps_the_libraries(copy, tmp_path, broken, compiler):
    libraries = [copy / "kernels" / "cpu" / name for name in ("_kernels.so", "_engine.so", "_cpu.cpython-311.so")]
    for path in libraries:
        path.write_text("former")
    try:
        options = "build_ext", "--inplace", "--build-temp", str(tmp_path), "--build-lib", str(tmp_path / "built")
        environment = broken if compiler == "broken" else NO_COMPILER
        code, said = setup_py(copy, "-q", *options, "--target", "portable", **environment)
        assert code != 0 and ("it is broken" if compiler == "broken" else "were NOT built") in said
        assert [path.read_text() for path in libraries] == ["former"] * 3
    finally:
        for path in libraries:
            path.unlink()


@pytest.mark.slow
@checkout
def test_without_a_compiler_there_is_a_wheel_of_python_alone(copy, tmp_path, broken):
    """Under another name than one with libraries, so that no cache takes one for the other; it says what it lacks."""
    base = tmp_path / "base"
    left = base / "lib" / "proxykernels" / "kernels" / "cpu" / "_kernels.so"
    left.parent.mkdir(parents=True)
    left.write_text("of a former build")
    platlib = f"--build-lib={base / 'lib'}"
    make = "-q", "build", f"--build-base={base}", platlib, "bdist_wheel", "--dist-dir", str(tmp_path / "dist")
    code, said = setup_py(copy, *make, **broken)
    assert code != 0 and "it is broken" in said and not list(tmp_path.glob("dist/*"))
    code, said = setup_py(copy, *make, **NO_COMPILER)
    assert code == 0 and "installed WITHOUT its C++ kernels" in said and "apt-get install g++" in said
    (wheel,) = tmp_path.glob("dist/*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/WHEEL"))
    assert "Root-Is-Purelib: true" in about and "Tag: py3-none-any" in about
    assert "proxykernels/kernels/cpu/abi.py" in names and not [name for name in names if name.endswith(".so")]


COUNTING = """#!/bin/sh
for word in "$@"; do
  case "$word" in --version) echo "compiler $COMPILER_VERSION"; exit;; *.cpp) source=$word;; esac
  [ "$before" = -o ] && made=$word
  before=$word
done
echo "$*" > "$made"
[ "$source" ] && echo "$source" >> "$COMPILED"
case "$source" in */src/engine/*) header=kernels/cpu/src/engine/engine.h;; esac
[ "$source" ] && echo "$made: $source $header" > "${made%.o}.d"
exit 0
"""


@pytest.mark.slow
@checkout
def test_a_second_install_compiles_what_has_changed(tmp_path):
    """Editable or not: objects are kept in build/, for as long as sources, headers, flags and compiler are the same."""
    copy = shutil.copytree(
        ROOT, tmp_path / "checkout", ignore=shutil.ignore_patterns("tests", "docs", ".*", "build", "*.so")
    )
    script, compiled = tmp_path / "compiler", tmp_path / "compiled"
    script.write_text(COUNTING)
    script.chmod(0o755)
    environment = os.environ | {"CC": str(script), "CXX": str(script), "COMPILED": str(compiled), "CCACHE_DISABLE": "1"}

    def install(kind="editable", **changed):
        """The sources that are compiled."""
        compiled.write_text("")
        code = f"from setuptools import build_meta; build_meta.build_{kind}({str(tmp_path)!r})"
        python(["-c", code], copy, env=environment | changed)
        return [path for path in compiled.read_text().split() if path.startswith("kernels")]

    everything = install()
    assert len(everything) > 50 and (copy / "kernels" / "cpu" / "_kernels.so").is_file()
    in_engine = [path for path in everything if "/src/engine/" in path]
    (copy / in_engine[0]).touch()
    assert install() == [] and install("wheel") == []
    header = copy / "kernels" / "cpu" / "src" / "engine" / "engine.h"
    header.write_text(header.read_text() + "\n")
    assert {*in_engine} <= {*install()} <= {*in_engine, "kernels/cpu/src/dispatch.cpp"}  # which holds a hash of all
    assert sorted(install(COMPILER_VERSION="2")) == sorted(everything) and install(COMPILER_VERSION="2") == []
    assert sorted(install("wheel", CXX=f"{script} -m64", CC=f"{script} -m64")) == sorted(everything)
