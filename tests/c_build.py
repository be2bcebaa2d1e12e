"""The C library as users build it: by CMake, from the sources, for this machine or another, and programs against it.

python tests/c_build.py                               here: the command and every layer against pk.Engine
python tests/c_build.py --zig aarch64-linux-musl --emulator qemu-aarch64
python tests/c_build.py --zig x86_64-windows-gnu --emulator wine --targets portable
python tests/c_build.py --cxx aarch64-linux-gnu-g++ --emulator qemu-aarch64
python tests/c_build.py --bench                       also milliseconds; of others by PROXYKERNELS_CPU=avx2
"""

import argparse
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import proxykernels as pk
from proxykernels.kernels.cpu import sources

PROGRAMS = Path(__file__).parent / "cpu"


def sh(*command, **options) -> str:
    """What a command prints; where it fails, both outputs and an error."""
    done = subprocess.run(list(map(str, command)), text=True, capture_output=True, **options)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(map(str, command))} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def zig_compilers(folder: Path, target: str) -> dict[str, str]:
    """Environment in which CC and CXX are zig's, for a target."""
    environment = dict(os.environ)
    for name, mode in (("CC", "cc"), ("CXX", "c++")):
        script = folder / f"zig-{mode}"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m ziglang {mode} -target {target} "$@"\n')
        script.chmod(0o755)
        environment[name] = str(script)
    for name in ("ar", "ranlib"):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m ziglang {name} "$@"\n')
        script.chmod(0o755)
    return environment


def build(
    folder: Path,
    *options: str,
    targets: str | None = None,
    cxx: str | None = None,
    zig: str | None = None,
    install: bool = True,
) -> Path:
    """Builds and installs the library; returns the prefix. ``targets``: instruction sets, as PK_TARGETS; ``cxx``: a
    compiler, which may compile for another machine."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix, environment = folder / "prefix", dict(os.environ)
    command = ["cmake", "-S", sources.LIBRARY, "-B", folder / "build", f"-DCMAKE_INSTALL_PREFIX={prefix}", *options]
    if targets:
        command.append(f"-DPK_TARGETS={targets}")
    if cxx:
        environment["CXX"] = cxx
    if zig:
        environment, (machine, system, *_) = zig_compilers(folder, zig), zig.split("-")
        names = {"linux": "Linux", "macos": "Darwin", "windows": "Windows"}
        command += [f"-DCMAKE_SYSTEM_NAME={names[system]}", f"-DCMAKE_SYSTEM_PROCESSOR={machine}"]
        command += [f"-DCMAKE_AR={folder / 'ar'}", f"-DCMAKE_RANLIB={folder / 'ranlib'}"]
        command += [f"-DCMAKE_{kind}_LINKER_FLAGS=-s" for kind in ("EXE", "SHARED")]
    sh(*command, env=environment)
    sh(
        "cmake",
        "--build",
        folder / "build",
        "--parallel",
        os.environ.get("MAX_JOBS", str(os.cpu_count())),
        env=environment,
    )
    if install:
        sh("cmake", "--install", folder / "build", *([] if zig else ["--strip"]), env=environment)
    return prefix


def compile_program(source: Path, prefix: Path, to: Path, compiler: str = "c++", *flags: str) -> Path:
    """A program of the installed header and the static library; C is compiled as C."""
    (archive,) = prefix.rglob("libproxykernels.a")
    language = ["-x", "c" if source.suffix == ".c" else "c++", source, "-x", "none"]
    runtime = [] if "zig" in compiler else ["-lstdc++", "-lm"]
    include = f"-I{prefix / 'include'}"
    sh(*shlex.split(compiler), "-O1", include, *language, archive, *runtime, "-pthread", *flags, "-o", to)
    return to


def networks() -> dict[str, tuple]:
    """Name -> network, sample [N, ...] and precision: of dyadic weights, of rounded ones, of sigma-delta neurons."""
    images, _ = pk.samples.fashion_mnist()
    converted = pk.convert(pk.samples.relu_network(), images)
    changes = pk.convert(pk.samples.relu_network(), images, neuron="sigma-delta")
    torch.manual_seed(0)
    dyadic = torch.nn.Sequential(
        pk.FusedIFConv2d(2, 20, 3, padding=1, v_threshold=0.5), pk.MaxPool2d(2), pk.FusedIFConv2d(20, 33, 3, groups=1),
        pk.AvgPool2d(2), pk.Flatten(), pk.FusedLIFLinear(33 * 2, 10, decay=0.5, v_threshold=0.25),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in dyadic.parameters():
            parameter.copy_((parameter * 64).round() / 64)
    x = (torch.rand(3, 2, 12, 9) * 4).round() / 4
    return {
        "dyadic": (dyadic.eval(), x, None),
        "int8": (converted, images[:2], "int8"),
        "int16": (converted, images[:2], "int16"),
        "sigma-delta": (changes, images[:2], None),
        "float": (converted, images[:2], None),
    }


def expected(engine: pk.Engine, x: torch.Tensor, T: int) -> bytes:
    """What the end of a dump holds: counts, and logits."""
    result = engine(x, T)
    parts = [] if engine.plan.last.real else [result.count().numpy()]
    if engine.plan.changes or engine.plan.with_logits is not None:
        parts.append(result.logits.numpy())
    return b"".join(part.tobytes() for part in parts)


def compare(dump: list[str], command: list[str], folder: Path, T: int = 9) -> dict[str, str]:
    """Runs every network here and there; name -> "equal", or how many values of the last layer differ.

    ``dump``: the program of c_dump.c; ``command``: proxykernels; each with an emulator before it.
    """
    told = {}
    for name, (net, x, precision) in networks().items():
        engine, path, raw = pk.compile(net, x, precision=precision), folder / f"{name}.pk", folder / "x.raw"
        engine.save(path)
        raw.write_bytes(x.numpy().tobytes())
        end = expected(engine, x, T)
        last = engine(x, T).output
        last = (last if isinstance(last, torch.Tensor) else last.dense()).numpy().astype(np.float32)
        frame, size = last[0].size, sum(len(x) * int(np.prod(op.shape)) for op in engine.plan.operations)
        for mode in ("run", "stream"):
            done = subprocess.run([*dump, path, raw, "0", str(len(x)), str(T), mode], capture_output=True, check=True)
            layers = np.frombuffer(done.stdout[: 4 * size * T], np.float32).reshape(T, size)
            assert len(done.stdout) == 4 * size * T + len(end) and layers.any()
            differ = int((layers[:, size - frame :] != last.reshape(T, frame)).sum())
            same = not differ and done.stdout[4 * size * T :] == end
            told[f"{name} {mode}"] = "equal" if same else f"{differ} of {last.size} differ"
        np.save(folder / "x.npy", x.numpy())
        sh(*command, "run", path, folder / "x.npy", "-T", T, "--out", folder / "y.npy")
        answer = np.load(folder / "y.npy").reshape(len(x), -1)
        logits = engine(x, T).logits if precision or name != "dyadic" else engine(x, T).count().float()
        told[f"{name} command"] = "equal" if np.array_equal(answer, logits.numpy().reshape(answer.shape)) else "differs"
    return told


def bench(command: list[str], folder: Path, target: str, T: int = 4, rounds: int = 5) -> str:
    """Milliseconds of the command and of pk.Engine on the small network, by turns, on one thread: medians of rounds."""
    images = pk.samples.fashion_mnist()[0][:64]
    engine, path = pk.compile(networks()["int8"][0], images[:1], precision="int8"), folder / "int8.pk"
    engine.save(path)
    np.save(folder / "images.npy", images.numpy())
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {name: [] for name in ("run C", "run Python", "step C", "step Python")}
    for _ in range(rounds):
        told = sh(*command, "bench", path, folder / "images.npy", "-T", T, "--threads", 1, "--target", target)
        for name, ms in zip(("run C", "step C"), re.findall(r": ([\d.e-]+) ms", told), strict=True):
            found[name].append(float(ms))
        stream = engine.stream()
        found["run Python"].append(median_ms(lambda x: engine(x, T), images))
        found["step Python"].append(median_ms(stream, images))
    return ", ".join(f"{name} {statistics.median(values):.3g} ms" for name, values in found.items())


def threads(prefix: Path, folder: Path, count: int = 10) -> str:
    """What c_threads.cpp says of the small network in int8: threads with a stream each, and as many processes."""
    program = compile_program(PROGRAMS / "c_threads.cpp", prefix, folder / "threads")
    return sh(program, folder / "int8.pk", count, 4, 20).strip()


def median_ms(call: Callable[[torch.Tensor], object], images: torch.Tensor, calls: int = 200) -> float:
    taken = []
    for k in range(calls):
        x = images[k % len(images)][None]
        start = time.perf_counter()
        call(x)
        taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cxx", help="a compiler, such as aarch64-linux-gnu-g++")
    parser.add_argument("--zig", help="a target of zig, such as aarch64-linux-musl (pip install ziglang)")
    parser.add_argument("--emulator", default="", help="command in front of programs")
    parser.add_argument("--targets", help="instruction sets, with semicolons between (default: all)")
    parser.add_argument("--only-compile", action="store_true", help="run nothing")
    parser.add_argument("--bench", action="store_true", help="also milliseconds, of pk.Engine and of ten threads too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prefix = build(folder, targets=options.targets, cxx=options.cxx, zig=options.zig)
        for file in sorted(path for path in prefix.rglob("*") if path.is_file() and not path.is_symlink()):
            print(f"{file.stat().st_size:>10,}  {file.relative_to(prefix)}")
        if options.only_compile:
            return 0
        compiler = f"{folder}/zig-c++ -static" if options.zig else f"{options.cxx} -static" if options.cxx else "c++"
        dump = compile_program(PROGRAMS / "c_dump.c", prefix, folder / "dump", compiler)
        emulator = shlex.split(options.emulator)
        (command,) = (path for path in (prefix / "bin").iterdir() if path.suffix != ".dll")
        told = compare([*emulator, str(dump)], [*emulator, str(command)], folder)
        print("\n".join(f"{name:<20} {what}" for name, what in told.items()))
        if options.bench:
            target = pk.load(folder / "int8.pk").target
            print(f"small network, int8, one image, T = 4, {target}:", bench([*emulator, str(command)], folder, target))
            if not (options.cxx or options.zig):
                print(threads(prefix, folder))
        return any(what != "equal" for name, what in told.items() if not name.startswith("float"))


if __name__ == "__main__":
    sys.exit(main())
