"""The C library as it is installed: programs outside the checkout find it, and give what pk.Engine gives."""

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import c_build
import numpy as np
import pytest
import torch
from c_build import sh
from speed import board
from test_engine import image, network

import proxykernels as pk
from proxykernels.kernels import cpu
from proxykernels.kernels.cpu import sources
from proxykernels.samples import cochlea

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not installed (apt-get install cmake)"),
    pytest.mark.skipif(not sources.LIBRARY.joinpath("CMakeLists.txt").is_file(), reason="the sources are not here"),
]
OWN = next(target for target in cpu.TARGETS if cpu.load(target))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The prefix, of a build for one instruction set."""
    return c_build.build(tmp_path_factory.mktemp("c"), targets=";".join(dict.fromkeys((OWN, "portable"))))


def test_examples(installed, tmp_path):
    """Found by find_package, with the shared and the static library."""
    source = shutil.copytree(sources.LIBRARY / "examples", tmp_path / "examples")
    sh("cmake", "-S", source, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={installed}")
    sh("cmake", "--build", tmp_path / "build")
    x = image(3)
    engine = pk.compile(network(), x)
    engine.save(tmp_path / "net.pk")
    (tmp_path / "images").write_bytes(x.numpy().tobytes())
    lines = sh(tmp_path / "build" / "classify", tmp_path / "net.pk", tmp_path / "images", 20).splitlines()
    counts = engine(x, 20).count()
    assert counts.any() and [list(map(int, line.split()[1:])) for line in lines] == counts.tolist()
    assert [int(line.split(":")[0]) for line in lines] == counts.argmax(1).tolist()
    none = subprocess.run(
        [tmp_path / "build" / "classify", "none", tmp_path / "images", "20"], text=True, capture_output=True
    )
    assert none.returncode == 1 and "there is no file none" in none.stderr

    torch.manual_seed(0)
    camera = torch.nn.Sequential(
        pk.FusedIFConv2d(2, 8, 3, padding=1, v_threshold=0.25), pk.Flatten(), pk.FusedIFLinear(8 * 63, 5)
    )
    t = torch.randint(50_000, (3000,)).sort().values
    x, y, p = torch.randint(7, t.shape), torch.randint(9, t.shape), torch.randint(2, t.shape)
    events = pk.events(t, x, y, p, size=(9, 7), dt=10_000, T=5)
    engine = pk.compile(camera.eval(), events)
    engine.save(tmp_path / "camera.pk")
    text = "".join(f"{a} {b} {c} {d}\n" for a, b, c, d in torch.stack([t, x, y, p], 1).tolist())
    printed = sh(tmp_path / "build" / "camera", tmp_path / "camera.pk", input=text).splitlines()
    stream, expected = engine.stream(), []
    for k in range(5):
        stream(events[k : k + 1])
        expected.append(f"{10_000 * k}: class {int(stream.count().argmax())}")
    assert printed == expected and stream.count().any()

    reads = torch.nn.Sequential(*camera[:2], pk.FusedLILinear(8 * 63, 5, decay=0.8)).eval()
    events = pk.events(t, x, y, p, size=(9, 7), dt=20_000, T=3)
    engine = pk.compile(reads, events)
    engine.save(tmp_path / "reads.pk")
    printed = sh(tmp_path / "build" / "camera", tmp_path / "reads.pk", "20", input=text).splitlines()
    potentials = engine(events, 3).potentials[:, 0]
    answers = potentials.argmax(1).tolist()
    assert not torch.equal(potentials, potentials[:1].expand_as(potentials))
    assert printed == [f"{20_000 * k}: class {answer}" for k, answer in enumerate(answers)]
    command = [tmp_path / "build" / "camera", tmp_path / "reads.pk", "0"]
    refused = subprocess.run(command, text=True, capture_output=True)
    assert refused.returncode == 1 and "usage: camera NET [MS]" in refused.stderr


def words(net: torch.nn.Module, sound: torch.Tensor) -> list[str]:
    """What listen prints, by whole arrays: words are louder than what came before, and a quarter of a second apart."""
    spikes = pk.samples.cochlea_spikes(sound)
    levels = cochlea.levels(sound.double().numpy(), 8000).mean(0) - 10 * np.log10(cochlea.SILENCE)
    quiet, found, begin, last = 0.0, [], None, None
    for step, level in enumerate(levels.tolist()):
        above = level - quiet
        quiet += above * (0.1 if above < 0 else 0.002)
        if above > 6:
            begin, last = step if begin is None else begin, step
        elif begin is not None and step == last + 25:
            heard = spikes[max(begin - 9, 0) : last + 11]
            potentials = pk.simulate(net, heard, len(heard), precision="int8").potentials.sum(0)
            found += [f"{(step + 1) / 100:.2f} s: class {int(potentials.argmax())}"] * (step - begin + 10 - 25 >= 15)
            begin = None
    return found


def test_listen(installed, tmp_path):
    """Three words, of which one is a click, in noise."""
    source = shutil.copytree(sources.LIBRARY / "examples", tmp_path / "examples")
    sh("cmake", "-S", source, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={installed}")
    sh("cmake", "--build", tmp_path / "build", "--target", "listen")
    torch.manual_seed(3)
    recurrent = pk.FusedRecurrentLinear(64, 32, neuron=pk.neurons.LIFNeuron(decay=0.9, v_reset=None, v_threshold=0.3))
    net = torch.nn.Sequential(recurrent, pk.FusedLILinear(32, 10, decay=0.97)).eval()
    t = torch.arange(24000) / 8000
    sound = 1e-3 * torch.randn(24000)
    for begin, end, hertz in ((0.5, 0.8, 300), (1.2, 1.21, 1500), (1.7, 2.3, 700)):
        sound += 0.2 * torch.sin(2 * torch.pi * hertz * t * (1 + 0.1 * t)) * ((t >= begin) & (t < end))
    sound = (sound * 32768).short()
    (tmp_path / "sound").write_bytes(sound.numpy().tobytes())
    pk.compile(net, torch.zeros(1, 1, 64, dtype=torch.bool), precision="int8").save(tmp_path / "net.pk")
    command = [tmp_path / "build" / "listen", tmp_path / "net.pk"]
    with (tmp_path / "sound").open() as file:
        printed = sh(*command, stdin=file).splitlines()
    assert len(printed) == 2 and printed == words(net, sound / 32768.0)
    refused = subprocess.run([*command, "44101"], text=True, capture_output=True)
    assert refused.returncode == 1 and "usage: listen NET [RATE]" in refused.stderr
    pk.compile(network(), image(1)).save(tmp_path / "other.pk")
    refused = subprocess.run([command[0], tmp_path / "other.pk"], text=True, capture_output=True)
    assert refused.returncode == 1 and "must take 64 spikes a step and give potentials" in refused.stderr


def test_pkg_config(installed, tmp_path):
    if not shutil.which("pkg-config"):
        pytest.skip("pkg-config is not installed")
    moved = shutil.copytree(installed, tmp_path / "moved", symlinks=True)  # as cmake --install --prefix puts it
    (folder,) = moved.rglob("pkgconfig")
    flags = sh(
        "pkg-config", "--cflags", "--libs", "proxykernels", env=os.environ | {"PKG_CONFIG_PATH": str(folder)}
    ).split()
    assert not any(str(installed) in flag for flag in flags), flags
    sh(
        "cc",
        sources.LIBRARY / "examples" / "classify.c",
        *flags,
        f"-Wl,-rpath,{folder.parent}",
        "-o",
        tmp_path / "classify",
    )
    done = subprocess.run([tmp_path / "classify"], text=True, capture_output=True)
    assert "usage" in done.stderr


def test_header_is_plain_c_and_cpp(tmp_path):
    include = f"-I{sources.LIBRARY / 'include'}"
    for name, compiler in (("a.c", ["cc", "-std=c99", "-pedantic"]), ("a.cpp", ["c++", "-std=c++11"])):
        (tmp_path / name).write_text("#include <proxykernels.h>\nint main(void) { return !*pk_version(); }\n")
        sh(*compiler, "-Wall", "-Wextra", "-Werror", include, "-c", tmp_path / name, "-o", tmp_path / "a.o")


def test_flags_are_those_of_the_package():
    """Products and sums are rounded alike in both builds."""
    text = (sources.LIBRARY / "CMakeLists.txt").read_text()
    setup = (sources.FOLDER.parents[2] / "setup.py").read_text()
    for flag in sources.FLAGS:
        assert flag in text or flag.startswith("-std") or flag == "-g0", flag
    for flag in re.findall(r'"(-m[\w-]+)"', setup):
        assert flag in text, flag


def test_every_layer_and_the_command(installed, tmp_path):
    program = c_build.compile_program(c_build.PROGRAMS / "c_dump.c", installed, tmp_path / "dump")
    told = c_build.compare([str(program)], [str(installed / "bin" / "proxykernels")], tmp_path)
    assert set(told.values()) == {"equal"} and len(told) == 15, told


def test_sizes(installed):
    """The library has two instruction sets and no symbols; with matrix tiles it is the largest."""
    (library,) = (path for path in installed.rglob("libproxykernels.so.*") if not path.is_symlink())
    assert library.stat().st_size < 2_900_000
    symbols = sh("nm", "-D", "--defined-only", library)
    names = {line.split()[-1] for line in symbols.splitlines()}
    header = (sources.LIBRARY / "include" / "proxykernels.h").read_text()
    assert set(re.findall(r"PK_API [\w ]+\*? ?(pk_\w+)\(", header)) <= names


def test_sources_without_exceptions_ask_for_no_memory_that_may_throw(installed):
    """C++ asks for memory in those alone that sources.py names; flags are the same in both builds."""
    objects = sorted(installed.parent.joinpath("build").rglob("*.cpp.o"))
    engine = [path for path in objects if {"engine", "conv2d", "sigma_delta"} & set(path.parts)]
    asks = {path.name[:-6] for path in engine if "operator new" in sh("nm", "-C", "--undefined-only", path)}
    may_throw = {name.split("/")[-1] for name in sources.MAY_THROW}
    assert asks and asks <= may_throw and len(engine) >= len(sources.ENGINE) + len(sources.TASKS)
    text = (sources.LIBRARY / "CMakeLists.txt").read_text()
    for source in map(Path, sources.MAY_THROW):
        assert source == Path("dispatch") or f"${{src}}/{source}.cpp" in text
        assert sources.own_flags(sources.FOLDER / source.with_suffix(".cpp")) == []
    for name in sources.ENGINE + sources.TASKS:
        flags = sources.own_flags(sources.FOLDER / f"{name}.cpp")
        assert name in sources.MAY_THROW or flags == ["-fno-exceptions"]
    assert "".join(f"{name}.cpp " for name in sources.LONG_LOOPS) + "PROPERTIES COMPILE_OPTIONS -O2" in text


def test_what_a_board_runs(tmp_path):
    """The archive's script, without CMake; its library is without sigma-delta neurons, and says so."""
    board.write(tmp_path / "board")
    told = sh("sh", tmp_path / "board" / "board.sh", env=os.environ | {"RUNS": "1"})
    assert told.count("| equal, equal |") == 3 and len(list(tmp_path.glob("board/result*.tar.gz"))) == 1, told
    net, x, _ = c_build.networks()["sigma-delta"]
    pk.compile(net, x).save(tmp_path / "net.pk")
    done = subprocess.run(
        [tmp_path / "board/build/proxykernels", "info", tmp_path / "net.pk"], text=True, capture_output=True
    )
    assert done.returncode == 1 and "built without them" in done.stderr, done


def test_the_command(installed, tmp_path):
    """Events, frames and spikes from files; and what is wrong, in one line."""
    command, x = installed / "bin" / "proxykernels", image(3, 6)
    pk.compile(network(), x).save(tmp_path / "net.pk")
    engine = pk.load(tmp_path / "net.pk")

    def answers(array, *options):
        np.save(tmp_path / "x.npy", array)
        sh(command, "run", tmp_path / "net.pk", tmp_path / "x.npy", "--out", tmp_path / "y.npy", *options)
        return torch.from_numpy(np.load(tmp_path / "y.npy")).flatten(1)

    assert torch.equal(answers(x.numpy()), engine(x, 6).count().float())
    assert torch.equal(answers(x.double().numpy()), engine(x, 6).count().float())
    assert torch.equal(answers((x > 0.5).numpy()), engine(x > 0.5, 6).count().float())
    levels = (255 * x[0]).byte()
    assert torch.equal(answers(levels.numpy(), "-T", 9), engine(levels.float() / 255, 9).count().float())
    n = 400
    fields = [("t", "<i8"), ("x", "<i4"), ("y", "<u2"), ("p", "|i1")]
    events = np.zeros(n, fields)
    draw = np.random.default_rng(0)
    events["t"], events["x"], events["y"] = draw.integers(0, 9000, n), draw.integers(0, 7, n), draw.integers(0, 9, n)
    events["p"] = draw.integers(0, 2, n)
    expected = engine(
        pk.events(events, size=(9, 7), dt=1000), len(pk.events(events, size=(9, 7), dt=1000).dense())
    ).count()
    assert torch.equal(answers(events, "--dt", 1000), expected.float()) and expected.any()
    nine = engine(pk.events(events, size=(9, 7), T=9), 9).count().float()
    assert torch.equal(answers(events, "-T", 9), nine)
    layout = {"names": ["x", "y", "p", "t"], "formats": ["<u2", "<u2", "<i2", "<i8"], "offsets": [0, 2, 4, 8]}
    titled = [("t", "<u8"), ("x", "<u2"), ("y", "<u2"), (("p", "on"), "?")]
    for kind in layout, titled:  # padding, as of Metavision's arrays; a title, as of faery's
        others = np.zeros(n, kind)
        for name in "txyp":
            others[name] = events[name]
        assert torch.equal(answers(others, "-T", 9), nine)
    np.savetxt(
        tmp_path / "x.csv", [list(map(int, event)) for event in events], "%d", ",", header="t,x,y,p", comments=""
    )
    sh(command, "run", tmp_path / "net.pk", tmp_path / "x.csv", "--dt", 1000, "--layers", "--out", tmp_path / "y.npy")
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "y.npy")).flatten(1), expected.float())
    of = tmp_path / "net.pk", tmp_path / "x.npy", "-T", 9, "--runs", 2, "--out", tmp_path / "y.npy"
    assert "kB of a stream" in sh(command, "bench", *of)  # the recording, step by step
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "y.npy")).flatten(1), nine)
    assert "1x1" not in sh(command, "info", tmp_path / "net.pk").splitlines()[0].split(",")[0]
    np.save(tmp_path / "frames.npy", x.numpy())
    for of in (), (tmp_path / "images.npy",):
        np.save(tmp_path / "images.npy", image(3).numpy())
        assert "a step of a stream" in sh(command, "bench", tmp_path / "net.pk", *of, "--runs", 3, "--threads", 1)
    for wrong, sentence in (
        (("info", tmp_path / "none"), "there is no file"),
        (("info", tmp_path / "x.npy"), "no whole safetensors container"),
        (("run", tmp_path / "net.pk", tmp_path / "net.pk", "-T", 3), "is no .npy file"),
        (("run", tmp_path / "net.pk", tmp_path / "x.npy"), "--dt"),
        (("run", tmp_path / "net.pk", tmp_path / "x.npy", "--dt", 1000, "--out", "/dev/full"), "cannot be written"),
        (("run", tmp_path / "net.pk", tmp_path / "x.npy", "-T", "x"), "-T must be a number"),
        (("bench", tmp_path / "net.pk", "--target", "sse"), "target must be"),
        (("bench", tmp_path / "net.pk", tmp_path / "x.csv"), "--dt"),
        (("bench", tmp_path / "net.pk", tmp_path / "frames.npy"), "of one sample"),
        (("info", tmp_path / "net.pk", tmp_path / "x.npy"), "proxykernels run NET INPUT"),
        (("run", tmp_path / "net.pk"), "proxykernels run NET INPUT"),
        (("dance",), "proxykernels run NET INPUT"),
    ):
        done = subprocess.run(list(map(str, (command, *wrong))), text=True, capture_output=True)
        assert done.returncode == 1 and sentence in done.stderr, done
    assert Path("/dev/full").is_char_device()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [command, "run", tmp_path / "net.pk", tmp_path / "x.csv", "--dt", "1000"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1 and "standard output" in done.stderr


def test_the_command_refuses_what_it_would_misread(installed, tmp_path):
    command = installed / "bin" / "proxykernels"
    pk.compile(network(), image(3, 6)).save(tmp_path / "net.pk")

    def refused(sentence, file, *options):
        done = subprocess.run(
            list(map(str, (command, "run", tmp_path / "net.pk", file, *options))), text=True, capture_output=True
        )
        assert done.returncode == 1 and sentence in done.stderr and done.stderr.count("\n") == 1, done

    def refuses_array(sentence, array, *options):
        np.save(tmp_path / "x.npy", array)
        refused(sentence, tmp_path / "x.npy", *options)

    refuses_array("must have the network's shape", image(3).numpy().transpose(0, 2, 3, 1).copy(), "-T", 3)
    fields = [("t", "<f8"), ("x", "<f8"), ("y", "<f8"), ("p", "<f8")]
    for field, value in itertools.product("txyp", (0.5, np.nan, np.inf, 2.0**60)):
        events = np.zeros(3, fields)
        events[field][1] = value
        refuses_array("whole number", events, "-T", 3)
    refuses_array("a field that is not read, ('x'", np.zeros(3, [("t", "<i8"), ("x", "<i2", (2,))]), "-T", 3)
    for options in (("--dt", 2**63 - 1), ("--dt", 2**53, "-T", 9)):
        refuses_array("--dt", np.zeros(3, fields), *options)
    csv = tmp_path / "x.csv"
    for text, sentence in {
        "0.5,1,1,1\n": "times of events must be whole numbers",
        "nan,1,1,1\n": "times of events must be whole numbers",
        "1,2,3\n1,2,3,1\n": "line 1",
    }.items():
        csv.write_text(text)
        refused(sentence, csv, "-T", 3)
    for kind, shape in ("<i2", "2147483648, 2147483648"), ("|u1", "1073741824, 2, 9, 7"):  # of files of a few bytes
        header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}".encode()
        damaged = tmp_path / "damaged.npy"
        damaged.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        refused("too large" if kind == "<i2" else "cut short", damaged, "-T", 3)


def test_ten_threads_are_no_slower_than_ten_processes(installed, tmp_path):
    """And each stream counts what it counts alone. A quarter is left to other programs on the machine."""
    images, _ = pk.samples.fashion_mnist()
    net = pk.convert(pk.samples.relu_network(), images)
    pk.compile(net, images[:1], precision="int8").save(tmp_path / "int8.pk")
    told = c_build.threads(installed, tmp_path)
    threads, of_threads, processes, of_processes, spikes = map(float, re.findall(r"([\d.]+) (?:ms|spikes)", told))
    assert spikes > 0 and threads < 1.25 * processes and of_threads < 1.25 * of_processes, told


@pytest.mark.parametrize("sanitizers", ["address,undefined"])
def test_damaged_files_under_sanitizers(sanitizers, tmp_path):
    """Nothing is read or written elsewhere, and nothing leaks."""
    flags = f"-fsanitize={sanitizers} -fno-sanitize-recover=all -O1 -g1 -DPK_CHECKED"
    prefix = c_build.build(tmp_path, f"-DCMAKE_CXX_FLAGS={flags}", "-DPK_STATIC_COMMAND=OFF", targets="portable")
    source = c_build.PROGRAMS / "c_damaged.cpp"
    program = c_build.compile_program(source, prefix, tmp_path / "damaged", "c++", *flags.split())
    net = torch.nn.Sequential(pk.FusedIFConv2d(2, 3, 3), pk.MaxPool2d(2), pk.Flatten(), pk.FusedIFLinear(3 * 3 * 2, 4))
    pk.compile(net, image()).save(tmp_path / "net.pk")
    told = sh(program, tmp_path / "net.pk", os.environ.get("DAMAGED_FILES", "10000"), 1)
    refused, read = map(int, re.findall(r"\d+", told))
    assert refused > 500 and refused > 50 * read


@pytest.mark.parametrize("compiler", ["--zig aarch64-linux-musl", "--cxx aarch64-linux-gnu-g++"])
def test_aarch64(compiler):
    """The static command and every layer, on NEON, under an emulator; the instruction sets are the compiler's."""
    option, name = compiler.split()
    if option == "--zig":
        pytest.importorskip("ziglang", reason="ziglang is not installed (pip install ziglang)")
    elif not shutil.which(name):
        pytest.skip(f"{name} is not installed (apt-get install g++-aarch64-linux-gnu)")
    emulator = shutil.which("qemu-aarch64") or pytest.skip("qemu-aarch64 is not installed (apt-get install qemu-user)")
    command = [sys.executable, Path(c_build.__file__), option, name, "--emulator", emulator]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0 and done.stdout.count("equal") >= 12, done.stdout + done.stderr
