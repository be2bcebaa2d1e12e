"""The C++ library in a process: other sources refused, instruction sets, OpenMP, huge pages."""

import ctypes
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import proxykernels as pk
from proxykernels.kernels import backends, cpu, heap, table
from proxykernels.kernels.cpu import abi, compiled, declared, headers, sources
from proxykernels.spikes import storage

REFUSED = "does not belong to this version"
ADVICE = "build it again with `pip install (-e|--force-reinstall --no-cache-dir --no-deps) "


@pytest.fixture(autouse=True)
def opened_again():
    """Libraries are compared once a process."""
    yield compiled.opened.cache_clear()
    compiled.opened.cache_clear()


def test_the_structs_are_laid_out_as_the_compiler_has_them(tmp_path):
    """Size and place of each field, and the type of each function of the table."""
    lines = [
        '#include "engine/engine.h"',
        '#include "cost_model.h"',
        "using namespace costs;",
        "using namespace engine;",
    ]
    for name, struct in vars(declared).items():
        if getattr(struct, "__module__", None) != declared.__name__:
            continue
        lines.append(f"static_assert(sizeof(struct {name}) == {ctypes.sizeof(struct)});")
        for field, *_ in struct._fields_:
            place = getattr(struct, field)
            lines.append(f"static_assert(offsetof(struct {name}, {field}) == {place.offset});")
            lines.append(f"static_assert(sizeof({name}::{field}) == {place.size});")
    code = tmp_path / "layout.cpp"
    for change, passes in (("", True), ("static_assert(sizeof(Neuron) == 1);", False)):
        code.write_text("\n".join([*lines, change]))
        command = ["c++", "-std=c++17", f"-I{sources.FOLDER}", "-fsyntax-only", str(code)]
        assert (subprocess.run(command, capture_output=True).returncode == 0) == passes
    assert len(lines) > 200


def test_functions_are_read_with_their_types():
    kernels = dict(abi.Kernels._fields_)
    count = kernels["count_digits"]
    assert count._restype_ is ctypes.c_int64
    assert count._argtypes_ == (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    assert kernels["sample_rates"]._argtypes_ == (ctypes.POINTER(abi.Sample),)
    assert kernels["max_threads"]._argtypes_ == () and kernels["if_scan"]._restype_ is None
    assert len(kernels) == (sources.FOLDER / "kernels.h").read_text().count("\nKERNEL(")


def test_the_declared_structs_are_those_of_the_headers():
    """Who changes a header builds."""
    made = headers.declared(sources.FOLDER)
    assert Path(declared.__file__).read_text() == made, "run: python setup.py build_ext --inplace"


def test_what_is_no_declaration_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(headers, "HEADERS", ("odd.h",))
    for declaration, error in (("short x;", KeyError), ("int64_t x : 3;", ValueError)):
        (tmp_path / "odd.h").write_text(f"struct Odd {{\n    {declaration}\n}};\n")
        with pytest.raises(error, match="short|cannot be read"):
            headers.declared(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'Odd'"):
        _ = abi.Odd


def test_models_and_surrogates_are_those_of_the_sources():
    listed = re.findall(r"MODEL\((\w+), (\d), (\d), (\d)\)", (sources.FOLDER / "models.h").read_text())
    expected = [
        (name, m.states, len(m.channels), len(m.scalars)) for name, m in (table.MODELS | table.COUNTING_MODELS).items()
    ]
    assert [(name, *map(int, numbers)) for name, *numbers in listed] == expected
    shapes = re.findall(r"SURROGATE\((\w+)\)", (sources.FOLDER / "table.h").read_text())
    assert [shape for shape in shapes if shape not in ("SURROGATE", "name")] == list(table.SURROGATES)


def test_the_headers_are_those_that_the_table_makes(tmp_path):
    """Builds without Python read them as they stand here."""
    for name, text in table.headers().items():
        assert (sources.FOLDER / name).read_text() == text, "run: python setup.py build_ext --inplace"
    table.write_headers(tmp_path)
    written = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    table.write_headers(tmp_path)
    assert written == {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} and len(written) == 2


def test_the_hash_is_that_of_all_lists():
    """Names, numbers and order of each; of parameters, too, whose numbers alone C++ has."""
    before = (sources.FOLDER.parents[1] / "table.py").read_text()
    seen = {table.HASH}
    for old, new in (
        (
            '"LeakySoftReset": Model(1, ("theta", "decay"), ("v_rest",))',
            '"LeakySoftReset": Model(1, ("theta", "decay"), ("rest",))',
        ),
        ('"ATan", "FastSigmoid"', '"FastSigmoid", "ATan"'),
        ('SEND = "sigma-delta"', 'SEND = "sends"'),
        ('    TABLES = "tables"\n    TILES = "tiles"\n', '    TILES = "tiles"\n    TABLES = "tables"\n'),
        ("PACKED_SPIKES = 0", "BITS = 0"),
        ("NO_ANSWER = 3", "UNANSWERED = 3"),
        ("DELAY = 1 << 12", "DELAY = 1 << 13"),
        ("TALLIES = 3", "TALLIES = 4"),
    ):
        assert before.count(old) == 1, old
        names = {}
        exec(before.replace(old, new), names)
        seen.add(names["HASH"])
    assert len(seen) == 9


def test_a_library_of_another_table_is_refused(monkeypatch, load, whole):
    """As when a model is added to the table, and nothing is built."""
    assert load(whole) is not None
    compiled.opened.cache_clear()
    monkeypatch.setattr(compiled, "HASH", "another")
    with pytest.raises(RuntimeError, match=f"{whole.name} {REFUSED} .kernels/table.py, which lists.*({ADVICE})"):
        load(whole)


def test_a_library_of_other_sources_is_refused_at_the_first_use(monkeypatch):
    monkeypatch.setattr(sources, "fingerprint", lambda: "another")
    monkeypatch.setattr(backends, "cpu_backend", backends.cpu_backend.__wrapped__)
    with pytest.raises(RuntimeError, match=f"_kernels.so {REFUSED} .the C\\+\\+ sources have changed.*({ADVICE})"):
        pk.if_hold(torch.full((1, 2), 0.5), 4)


def test_the_fingerprint_sees_names_and_contents(monkeypatch, tmp_path):
    assert len(sources.paths()) > 20
    monkeypatch.setattr(sources, "FOLDER", tmp_path)
    monkeypatch.setattr(sources, "interface", lambda: [])
    monkeypatch.setattr(sources, "LIBRARY", tmp_path / "none")
    seen = set()
    for name, text in [("a.h", "1"), ("a.h", "2"), ("b.cpp", ""), ("b.cpp", "3"), ("c/b.h", "3")]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        seen.add(sources.fingerprint())
    assert len(seen) == 5


@pytest.fixture
def whole():
    """The compiled library of this checkout."""
    return abi.LIBRARY


@pytest.fixture(params=["kernels", "engine"])
def load(monkeypatch, request):
    """Loads a file instead of it, for kernels or for an engine."""

    def load(path):
        monkeypatch.setattr(abi, "LIBRARY", path)
        if request.param == "kernels":
            return abi.load(None)
        return pk.compile(torch.nn.Sequential(pk.FusedIFLinear(2, 1)), torch.rand(1, 2))

    return load


def test_a_library_of_other_sources_is_refused(monkeypatch, load, whole):
    assert load(whole) is not None
    compiled.opened.cache_clear()
    monkeypatch.setattr(sources, "fingerprint", lambda: "another")
    with pytest.raises(RuntimeError, match=f"{whole.name} {REFUSED} .the C\\+\\+ sources have changed.*({ADVICE})"):
        load(whole)


def test_a_library_without_a_description_is_refused(tmp_path, load):
    """As those of 0.1.0 are."""
    source, library = tmp_path / "old.cpp", tmp_path / "old.so"
    source.write_text('extern "C" const void* proxykernels_cpu(const char*) { return nullptr; }')
    subprocess.run(["c++", "-shared", "-fPIC", source, "-o", library], check=True)
    with pytest.raises(RuntimeError, match=f"{REFUSED} .it was built by an older version.*({ADVICE})"):
        load(library)


@pytest.mark.parametrize("content", [b"", b"not a library", bytes(1 << 16), b"\x7fELF\x02\x01" + b"\xff" * 4096])
def test_a_file_that_is_no_library_is_refused(tmp_path, load, content):
    (tmp_path / "some.so").write_bytes(content)
    with pytest.raises(RuntimeError, match=f"{REFUSED} .(the system does not load it|it is cut short).*({ADVICE})"):
        load(tmp_path / "some.so")


def test_what_is_no_file_is_refused(tmp_path, load):
    with pytest.raises(RuntimeError, match=f"{REFUSED} .it cannot be read: .*({ADVICE})"):
        load(tmp_path)


@pytest.mark.parametrize("length", [5, 63, 100, 0.5, -1])
def test_a_library_that_is_cut_short_is_refused(tmp_path, load, whole, length):
    """The system would load it, and end the process at the first access to what is missing."""
    if not compiled.needed_bytes(whole):
        pytest.skip("only the length of ELF files is known")
    content = whole.read_bytes()
    assert compiled.needed_bytes(whole) == len(content)
    (tmp_path / "cut.so").write_bytes(content[: int(length * len(content)) if length == 0.5 else length])
    with pytest.raises(RuntimeError, match=f"{REFUSED} .it is cut short: .* bytes of .*({ADVICE})"):
        load(tmp_path / "cut.so")


@pytest.mark.parametrize(
    "noted, source",
    [
        (None, "proxykernels"),
        ('{"url": "file:///home/me/proxykernels", "dir_info": {}}', "file:///home/me/proxykernels"),
        ('{"url": "https://host/pk.git", "vcs_info": {"vcs": "git"}}', "git+https://host/pk.git"),
        ('{"url": "file:///home/me/proxykernels-0.1.0-py3-none-any.whl", "archive_info": {}}', "FOLDER-OF-THE-SOURCES"),
        ('{"url": "file:///home/me/proxykernels-0.1.0.tar.gz"}', "file:///home/me/proxykernels-0.1.0.tar.gz"),
    ],
    ids=["index", "folder", "repository", "wheel", "sources"],
)
def test_an_installed_package_is_built_again_from_where_it_came(monkeypatch, tmp_path, noted, source):
    """And not from the wheel that pip made of it before."""
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "proxykernels" / "kernels" / "cpu" / "abi.py"))
    monkeypatch.setattr(compiled.metadata, "distribution", lambda name: SimpleNamespace(read_text=lambda name: noted))
    assert compiled.install_command() == f"pip install --force-reinstall --no-cache-dir --no-deps {source}"


@pytest.mark.parametrize("name", ["_cpu.cpython-311-x86_64-linux-gnu.so", "_engine.so"])
def test_a_library_under_an_older_name_is_ignored_beside_ours_and_refused_without(monkeypatch, tmp_path, name):
    older = tmp_path / name
    older.write_text("")
    (tmp_path / "_kernels.so").symlink_to(abi.LIBRARY)
    monkeypatch.setattr(abi, "LIBRARY", tmp_path / "_kernels.so")
    assert abi.load(None) is not None
    (tmp_path / "_kernels.so").unlink()
    with pytest.raises(RuntimeError, match=f"{name}.*{REFUSED}"):
        abi.load(None)
    older.unlink()
    assert abi.load(None) is None


@pytest.mark.parametrize("most", compiled.TARGETS)
def test_an_environment_variable_names_the_fastest_that_may_be_taken(monkeypatch, most):
    monkeypatch.delenv("PROXYKERNELS_CPU", raising=False)
    here = {target: abi.load(target) for target in compiled.TARGETS}
    monkeypatch.setenv("PROXYKERNELS_CPU", most)
    allowed = compiled.TARGETS[compiled.TARGETS.index(most) :]
    assert [abi.load(target) is not None for target in allowed] == [here[target] is not None for target in allowed]
    assert not any(map(abi.load, set(compiled.TARGETS) - set(allowed)))
    found = [here[target] for target in allowed if here[target]]
    if not found:  # the library was built for a faster one alone
        assert abi.load(None) is None
        return
    assert ctypes.addressof(abi.load(None)) == ctypes.addressof(found[0])


def test_another_name_is_refused(monkeypatch):
    monkeypatch.setenv("PROXYKERNELS_CPU", "AVX2")
    with pytest.raises(ValueError, match="PROXYKERNELS_CPU must be one of amx, avx512, avx2, portable, got 'AVX2'"):
        abi.load(None)


PROGRAM = """
import warnings, torch, proxykernels as pk
from proxykernels.kernels import backends
torch.set_num_threads(3)
x = torch.rand(8, 4, 32, 24, 24)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    assert pk.FusedIFConv2d(32, 32, 3).eval()(x).any()
torch.nn.functional.conv2d(x[0], torch.rand(32, 32, 3, 3))
print(backends.cpu_backend().max_threads(), *(str(warning.message).split(",")[0] for warning in said), sep="|")
for file in {line.split()[-1] for line in open("/proc/self/maps")}:
    if file.rpartition("/")[2].startswith(("libgomp", "libomp", "libiomp")):
        print(file)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is loaded is read from /proc")
def test_the_process_has_one_openmp_runtime():
    """Clang's own would be a second; see sources.SHARES_TORCH_RUNTIME."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, text=True, capture_output=True)
    said, *runtimes = done.stdout.splitlines()
    serial = b"clang version" in abi.LIBRARY.read_bytes()  # the compiler's signature
    assert said == ("1|proxykernels' C++ kernels run on one thread where torch has 3" if serial else "3")
    assert len(runtimes) == 1, runtimes


def test_kernels_on_one_thread_say_so_where_torch_has_more(monkeypatch):
    monkeypatch.setattr(cpu, "load", lambda: SimpleNamespace(max_threads=lambda: 1))
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        if threads == 1:
            assert backends.cpu_backend.__wrapped__().max_threads() == 1
        else:
            with pytest.warns(RuntimeWarning, match="on one thread where torch has 2.*`CC=gcc CXX=g\\+\\+ pip install"):
                backends.cpu_backend.__wrapped__()


MAPS, OFFERED = Path("/proc/self/smaps"), Path("/sys/kernel/mm/transparent_hugepage/enabled")


def flags_at(address: int) -> list[str]:
    """The kernel's flags of the mapping that an address lies in."""
    inside = False
    for line in MAPS.read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            start, stop = (int(part, 16) for part in first.split("-"))
            inside = start <= address < stop
        elif inside and first == "VmFlags:":
            return rest
    return []


def test_tensors_of_any_size():
    large, small = heap.empty(5, 1 << 20), heap.empty(100, dtype=torch.uint8)
    assert (large.shape, large.dtype) == ((5, 1 << 20), torch.float32)
    assert (small.shape, small.dtype) == ((100,), torch.uint8)
    large.fill_(1.0)
    assert large.sum() == large.numel()


def test_the_system_is_asked_for_huge_pages():
    large = heap.empty(5, 1 << 20)
    if not OFFERED.exists() or not MAPS.exists() or not flags_at(large.data_ptr()) or heap._glibc() is None:
        pytest.skip("this system has no huge pages, or does not say where they are")
    assert "hg" in flags_at(large.data_ptr() + 4 * (large.numel() // 2))  # the kernel's name of the advice


def test_a_start_at_rest_takes_no_memory():
    start = storage.start(None, (4, 8, 32, 32), torch.device("cpu"), pk.neurons.IFNeuron(v_threshold=1.0, v_reset=None))
    assert start.shape == (4, 1024, 8) and start.untyped_storage().nbytes() == 4 * 8
    states = [pk.if_scan(torch.rand(3, 4, 8, 5, 5), v)[1] for v in (None, 0.25)]
    assert all(state.untyped_storage().nbytes() >= 4 * state.numel() for state in states)  # which users may write to
