"""Compiles every convolution for sm_90 by each Triton that a supported torch asks for, and reads what came of it.

    python tests/gpu/check_tritons.py                    each of TRITONS, which are installed in a folder of their own
    python tests/gpu/check_tritons.py --triton 3.6.0     one of them
    python tests/gpu/check_tritons.py --turn 41          the one whose turn it is, as CI does
    python tests/gpu/check_tritons.py --every 8          every eighth variant

Of each variant: it compiles, its main loop spills no register, neither its PTX nor its SASS has a hazard of the tensor
cores (tensor_core_hazards.py), and a multiprocessor holds two programs. With --emulate the tests of the kernels are
then executed from what that Triton makes for a target, in the emulator. Ends with status 1 if something is wrong.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
# torch 2.10 and 2.11; 2.12.0; 2.12.1 and 2.13; and what 2.14 and 2.15 ask for.
TRITONS = ("3.6.0", "3.7.0", "3.7.1", "3.8.0", "3.9.0")
TARGET = "sm_90"
COUNTS = ("variants", "errors", "spills in loops", "hazards in PTX", "hazards in SASS", "alone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--triton", choices=TRITONS, action="append", help="only this one; may be given again")
    which.add_argument("--turn", type=int, help="only the one whose turn it is: this number modulo the number of them")
    parser.add_argument("--every", type=int, default=1, help="only every n-th variant; by turns, with --turn")
    parser.add_argument("--emulate", choices=["sm_80", "sm_90"], action="append", default=[], help="the tests, too")
    parser.add_argument("--tests", nargs="+", default=["tests/gpu", "-m", "triton and not slow"], help="which ones")
    default = Path.home() / ".cache" / "proxykernels" / "tritons"
    parser.add_argument(
        "--folder", type=Path, default=default, help="where Tritons are installed (default: %(default)s)"
    )
    options = parser.parse_args()
    tritons = options.triton or TRITONS
    if options.turn is not None:
        tritons = (TRITONS[options.turn % len(TRITONS)],)
    wrong = [version for version in tritons if not check(version, options)]
    sys.exit(f"wrong with Triton {', '.join(wrong)}" if wrong else 0)


def check(version: str, options: argparse.Namespace) -> bool:
    """Whether all is right with one Triton; prints a line of a table, and what is wrong."""
    path = installed(version, options.folder)
    right = True
    with tempfile.TemporaryDirectory() as folder:
        first = 0 if options.turn is None else options.turn // len(TRITONS) % options.every
        names = convolutions()[first :: options.every]
        records = read_in_child(names, Path(folder), Path(folder, "cache"), path)
        counts = dict.fromkeys(
            ("variants", "errors", "spills in loops", "hazards in PTX", "hazards in SASS", "alone"), 0
        )
        for name, record in records:
            counts["variants"] += 1
            counts["errors"] += "error" in record
            if "error" not in record:
                counts["spills in loops"] += bool(record["loop_spills"])
                counts["hazards in PTX"] += record["hazards_of_ptx"]
                counts["hazards in SASS"] += record["hazards_of_sass"]
                counts["alone"] += record["programs"] < 2
            bad = {key: record.get(key) for key in ("error", "loop_spills", "hazards_of_ptx", "hazards_of_sass")}
            if any(bad.values()):
                print(f"Triton {version}, {name}: {bad} {record.get('first', '')}", flush=True)
        right &= counts["variants"] == len(names) and not sum(list(counts.values())[1:])
        print(
            f"Triton {version}, {TARGET}: {', '.join(f'{count} {what}' for what, count in counts.items())}", flush=True
        )
    for target in options.emulate:
        right &= emulated(version, target, path, options.tests)
    return right


def installed(version: str, folder: Path) -> Path | None:
    """A folder to import that Triton from; None if it is the one of this Python."""
    import triton

    if triton.__version__ == version:
        return None
    path = folder / version
    if not (path / "triton" / "__init__.py").exists():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(path),
            f"triton=={version}",
        ]
        subprocess.run(command, check=True)
    return path


def emulated(version: str, target: str, path: Path | None, tests: Sequence[str]) -> bool:
    """Whether the tests of the kernels pass, executed from the PTX of that Triton."""
    command = [sys.executable, "-m", "pytest", "-q", "--emulate", target, "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment(path), capture_output=True, text=True, check=False)
    print(f"Triton {version}, {target}: {done.stdout.strip().splitlines()[-1]}", flush=True)
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-2000:])
    return done.returncode == 0


def environment(path: Path | None, cache: Path | None = None) -> dict[str, str]:
    """Of a process without Triton's interpreter, that imports the Triton of a folder."""
    result = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    paths = [path, CHECKOUT, CHECKOUT / "benchmarks", CHECKOUT / "tests" / "gpu", result.get("PYTHONPATH")]
    result["PYTHONPATH"] = os.pathsep.join(str(part) for part in paths if part)
    if cache is not None:
        result["TRITON_CACHE_DIR"] = str(cache)
    return result


def convolutions() -> list[str]:
    """All convolutions of benchmarks/gpu/variants.py that are launched on sm_90."""
    sys.path.append(str(CHECKOUT / "benchmarks"))
    from gpu.variants import CONV, is_launched

    return [name for name in CONV if is_launched(TARGET, name.split("/")[1])]


def read_in_child(
    names: Sequence[str], folder: Path, cache: Path, triton: Path | None = None
) -> Iterator[tuple[str, dict]]:
    """(name, record) of convolutions for sm_90, compiled by a Triton in a process of its own.

    A record has "error"; or loop_spills, programs, registers, the numbers hazards_of_ptx and hazards_of_sass, the first
    hazard, and where the texts are, "ptx" and "sass".
    """
    command = [sys.executable, __file__, "--child", str(folder), *names]
    with subprocess.Popen(command, env=environment(triton, cache), stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            record = json.loads(line)
            yield (
                record["variant"].split("/", 2)[2],
                record | {kind: Path(record[kind]) for kind in ("ptx", "sass") if kind in record},
            )
    if child.returncode:
        raise RuntimeError(f"compiling with {triton or 'this Triton'} ended with status {child.returncode}")


def child(folder: str, *names: str) -> None:
    """Prints the record of each variant, a line of JSON."""
    import triton
    from gpu import compile_variants
    from tensor_core_hazards import hazards_of_ptx, hazards_of_sass

    disassembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    kept = {}
    resources = compile_variants.resources

    def keep(compiled, target):
        kept["compiled"] = compiled
        return resources(compiled, target)

    compile_variants.resources = keep
    for number, name in enumerate(names):
        record = compile_variants.compile_variant(f"if_conv2d/{TARGET}/{name}")
        if "error" not in record:
            ptx, cubin, sass = (Path(folder, f"{number}.{kind}") for kind in ("ptx", "cubin", "sass"))
            ptx.write_text(kept["compiled"].asm["ptx"])
            cubin.write_bytes(kept["compiled"].asm["cubin"])
            shown = subprocess.run([disassembler, "-c", cubin], capture_output=True, text=True, check=True)
            sass.write_text(shown.stdout)
            of_ptx, of_sass = hazards_of_ptx(ptx.read_text()), hazards_of_sass(shown.stdout)
            record |= {"ptx": str(ptx), "sass": str(sass), "first": next(iter([*of_ptx, *of_sass]), "")}
            record |= {"hazards_of_ptx": len(of_ptx), "hazards_of_sass": len(of_sass)}
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
