"""A compiled library that was built from other sources is refused, in one sentence, before anything of it is called."""

import ctypes
import subprocess
from types import SimpleNamespace

import pytest
import torch

import proxykernels as pk
from proxykernels.kernels import backends
from proxykernels.kernels.cpu import abi, elf, sources

REFUSED = "does not belong to this version"
ADVICE = "build it again with `pip install (-e|--force-reinstall --no-cache-dir --no-deps) "


@pytest.fixture(autouse=True)
def opened_again():
    """Libraries are compared once a process."""
    yield abi._open.cache_clear()
    abi._open.cache_clear()


def fields():
    for struct in abi.STRUCTS:
        for k in range(len(struct._fields_)):
            yield pytest.param(struct, k, id=f"{struct.__name__}.{struct._fields_[k][0]}")


def refused(monkeypatch, struct, fields):
    """Load the library as if ``struct`` had these fields."""
    other = type(struct.__name__, (ctypes.Structure,), {"_fields_": fields})
    changed = [other if known is struct else known for known in abi.STRUCTS]
    monkeypatch.setattr(abi, "STRUCTS", changed)
    with pytest.raises(RuntimeError, match=REFUSED) as error:
        abi.load(None)
    return str(error.value)


def test_the_structs_are_those_of_the_library():
    assert abi.load(None) is not None
    described = sum(1 + len(struct._fields_) for struct in abi.STRUCTS) + len(abi.MODELS) + len(abi.SHAPES)
    assert len(abi.interface()) == described


@pytest.mark.parametrize("struct, k", list(fields()))
def test_each_field_is_compared(monkeypatch, struct, k):
    """Renamed, of another type, left out, doubled."""
    name, kind = struct._fields_[k]
    other = ctypes.c_void_p if kind is not ctypes.c_void_p else ctypes.c_int64
    for there in ([("other", kind)], [(name, other)], [], [(name, kind), ("other", kind)]):
        with monkeypatch.context() as patch:
            changed = [*struct._fields_[:k], *there, *struct._fields_[k + 1 :]]
            assert f"'{struct.__name__}" in refused(patch, struct, changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda models: models.reverse(),
        lambda models: models.pop(),
        lambda models: models.append(("Other", models[0][1])),
        *(
            lambda models, field=field: models.append((models[-1][0], models.pop()[1]._replace(**field)))
            for field in ({"states": 3}, {"channels": ()}, {"scalars": ()})
        ),
    ],
)
def test_the_list_of_neuron_models_is_compared(monkeypatch, change):
    models = list(abi.MODELS.items())
    change(models)
    monkeypatch.setattr(abi, "MODELS", dict(models))
    with pytest.raises(RuntimeError, match=REFUSED):
        abi.load(None)


def test_the_order_of_functions_and_their_arguments_are_compared(monkeypatch):
    table = list(abi.Kernels._fields_)
    with monkeypatch.context() as patch:
        assert "'Kernels." in refused(patch, abi.Kernels, [*table[:-2], table[-1], table[-2]])
    name, function = table[-1]
    longer = ctypes.CFUNCTYPE(function._restype_, *function._argtypes_, ctypes.c_int64)
    refused(monkeypatch, abi.Kernels, [*table[:-1], (name, longer)])


def test_a_library_of_other_sources_is_refused_at_the_first_use(monkeypatch):
    monkeypatch.setattr(sources, "fingerprint", lambda: "another")
    monkeypatch.setattr(backends, "cpu_backend", backends.cpu_backend.__wrapped__)
    with pytest.raises(RuntimeError, match=f"_cpu.so {REFUSED} .the C\\+\\+ sources have changed.*({ADVICE})"):
        pk.if_hold(torch.full((1, 2), 0.5), 4)


def test_the_fingerprint_sees_names_and_contents(monkeypatch, tmp_path):
    assert len(sources.paths()) > 20
    monkeypatch.setattr(sources, "FOLDER", tmp_path)
    seen = set()
    for name, text in [("a.h", "1"), ("a.h", "2"), ("b.cpp", ""), ("b.cpp", "3"), ("c/b.h", "3")]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        seen.add(sources.fingerprint())
    assert len(seen) == 5


def test_a_library_without_a_description_is_refused(tmp_path):
    """As those of 0.1.0 are."""
    source, library = tmp_path / "old.cpp", tmp_path / "_cpu.so"
    source.write_text('extern "C" const void* proxykernels_cpu(const char*) { return nullptr; }')
    subprocess.run(["c++", "-shared", "-fPIC", source, "-o", library], check=True)
    with pytest.raises(RuntimeError, match=f"{REFUSED} .it was built by an older version.*({ADVICE})"):
        abi.load(None, library)


def test_a_file_that_is_no_library_is_refused(tmp_path):
    (tmp_path / "_cpu.so").write_text("")
    with pytest.raises(RuntimeError, match=f"{REFUSED} .the system does not load it.*({ADVICE})"):
        abi.load(None, tmp_path / "_cpu.so")


@pytest.mark.parametrize("length", [5, 63, 100, 0.5, -1])
def test_a_library_that_is_cut_short_is_refused(tmp_path, length):
    """The system would load it, and end the process at the first access to what is missing."""
    if not elf.needed_bytes(abi.LIBRARY):
        pytest.skip("only the length of ELF files is known")
    whole = abi.LIBRARY.read_bytes()
    assert elf.needed_bytes(abi.LIBRARY) == len(whole)
    (tmp_path / "_cpu.so").write_bytes(whole[: int(length * len(whole)) if length == 0.5 else length])
    with pytest.raises(RuntimeError, match=f"{REFUSED} .it is cut short: .* bytes of .*({ADVICE})"):
        abi.load(None, tmp_path / "_cpu.so")


@pytest.mark.parametrize(
    "noted, source",
    [
        (None, "proxykernels"),
        ('{"url": "file:///home/me/proxykernels", "dir_info": {}}', "file:///home/me/proxykernels"),
        ('{"url": "https://host/pk.git", "vcs_info": {"vcs": "git"}}', "git+https://host/pk.git"),
    ],
    ids=["index", "folder", "repository"],
)
def test_an_installed_package_is_built_again_from_where_it_came(monkeypatch, tmp_path, noted, source):
    """And not from the wheel that pip made of it before."""
    monkeypatch.setattr(abi, "__file__", str(tmp_path / "proxykernels" / "kernels" / "cpu" / "abi.py"))
    monkeypatch.setattr(abi.metadata, "distribution", lambda name: SimpleNamespace(read_text=lambda name: noted))
    assert abi.install_command() == f"pip install --force-reinstall --no-cache-dir --no-deps {source}"


def test_a_library_under_an_older_name_is_ignored_beside_ours_and_refused_without(monkeypatch, tmp_path):
    older = tmp_path / "_cpu.cpython-311-x86_64-linux-gnu.so"
    older.write_text("")
    (tmp_path / "_cpu.so").symlink_to(abi.LIBRARY)
    monkeypatch.setattr(abi, "LIBRARY", tmp_path / "_cpu.so")
    assert abi.load(None) is not None
    (tmp_path / "_cpu.so").unlink()
    with pytest.raises(RuntimeError, match=f"cpython-311.*{REFUSED}"):
        abi.load(None)
    older.unlink()
    assert abi.load(None) is None
