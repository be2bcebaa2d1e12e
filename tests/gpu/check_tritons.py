"""Compiles the kernels by each Triton that a supported torch asks for, and reads the code.

    python tests/gpu/check_tritons.py                                   each of TRITONS, for each of TARGETS
    python tests/gpu/check_tritons.py --triton 3.6.0 --target sm_90     one of them
    python tests/gpu/check_tritons.py --turn 41 --every 8               of the one whose turn it is every eighth variant
    python tests/gpu/check_tritons.py --emulate sm_80 --emulate sm_90   the tests, too

    python tests/gpu/check_tritons.py --target sm_120 --only recurrent  some of them, for another GPU

Of each variant: it compiles, its main loop spills no register, neither its PTX nor its SASS has a hazard of the tensor
cores (tensor_core_hazards.py), no instruction mixes the steps of spikes (operand_layouts.py of
benchmarks/gpu/compiled), and a multiprocessor holds two programs. With --emulate the tests of the kernels are then
executed from what that Triton makes for a target, in the emulator, file by file.

Each result is kept in --folder as soon as it is there, beside what Triton compiled: the same command goes on where it
was interrupted, and does again only what has changed. Ends with status 1 if something is wrong.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from gpu.compiled.tritons import CHECKOUT, FOLDER, TRITONS, environment, installed

TARGETS, OTHERS = ("sm_90", "sm_80"), ("sm_89", "sm_100", "sm_120")
EMULATED = ("sm_75", "sm_80", "sm_89", "sm_90", "sm_120")
KINDS = ("32-steps", "few-steps", "recurrent", "others")  # of variants
FAULTS = ("errors", "spills in loops", "hazards in PTX", "hazards in SASS", "alone", "mixed steps", "lost numbers")
NAMES = ("variants", "compile_variants", "kernel_resources", "main_loop", "operand_layouts")
READERS = [f"benchmarks/gpu/{name}.py" for name in NAMES]
COMPILED = ("kernels/gpu", "tests/gpu/tensor_core_hazards.py", *READERS)  # what the result of a variant is of
EXECUTED = ("kernels", "tests/gpu/emulator")  # and that of a file of tests, besides itself


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--triton", choices=TRITONS, action="append", help="only this one; may be given again")
    which.add_argument("--turn", type=int, help="only the one whose turn it is: this number modulo the number of them")
    parser.add_argument("--target", choices=TARGETS + OTHERS, action="append", help="only this one; may be given again")
    parser.add_argument("--every", type=int, default=1, help="only every n-th variant; by turns, with --turn")
    parser.add_argument("--only", choices=KINDS, action="append", help="only these variants; may be given again")
    parser.add_argument("--emulate", choices=EMULATED, action="append", default=[], help="the tests, too")
    parser.add_argument("--tests", nargs="+", default=tests(), help="which ones (default: all that run kernels)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of Tritons and results (default: %(default)s)")
    options = parser.parse_args()
    tritons = options.triton or TRITONS
    if options.turn is not None:
        tritons = (TRITONS[options.turn % len(TRITONS)],)
    first = 0 if options.turn is None else options.turn // len(TRITONS) % options.every
    wrong = []
    for version in tritons:
        triton = Triton(version, options.folder)
        for target in options.target or TARGETS:
            names = variants(target, options.only or KINDS)[first :: options.every]
            wrong += [] if triton.compiles(target, names) else [f"{version} for {target}"]
        for target in options.emulate:
            wrong += [] if triton.executes(target, options.tests) else [f"{version} on {target}"]
    sys.exit(f"wrong with Triton {', '.join(wrong)}" if wrong else 0)


class Triton:
    """One of TRITONS, and what was found of it: in files of ``folder``, a result each."""

    def __init__(self, version: str, folder: Path):
        self.version, self.path = version, installed(version, folder)
        self._results, self._cache = folder / "results", folder / "cache" / version
        self._results.mkdir(parents=True, exist_ok=True)

    def compiles(self, target: str, names: Sequence[str]) -> bool:
        """Whether all is right with variants for a target; prints a line of a table, and what is wrong."""
        kept = {name: self._result(target, name, COMPILED) for name in names}
        missing = [name for name in names if not kept[name].exists()]
        with tempfile.TemporaryDirectory() as folder:
            for name, record in read_in_child(missing, Path(folder), self._cache, self.path, target):
                write(kept[name], {key: value for key, value in record.items() if key not in ("ptx", "sass")})
        counts = Counter()
        for name, path in kept.items():
            record = json.loads(path.read_text())
            found = faults(record)
            counts += found
            if found:
                more = record.get("error") or record["first"]
                print(f"Triton {self.version}, {target}, {name}: {dict(found)} {more}")
        listed = ", ".join(f"{counts[fault]} {fault}" for fault in FAULTS)
        print(f"Triton {self.version}, {target}: {len(names)} variants, {listed}", flush=True)
        return not counts

    def executes(self, target: str, tests: Sequence[str]) -> bool:
        """Whether tests pass, executed from the PTX of that Triton; prints how many, and those that do not."""
        counts = Counter()
        for test in tests:
            path = self._result(target, test, (*EXECUTED, test.partition("::")[0]))
            if not path.exists():
                command = [sys.executable, "-m", "pytest", "-q", "--quick", "-n", "0", "-m", "triton and not slow"]
                done = subprocess.run(
                    [*command, "--emulate", target, test],
                    cwd=CHECKOUT, env=environment(self.path, self._cache), capture_output=True, text=True, check=False,
                )  # fmt: skip
                found = {
                    kind: int(count) for count, kind in re.findall(r"(\d+) (passed|skipped|failed|error)", done.stdout)
                }
                if done.returncode not in (0, 1, 5):  # 5: there are none
                    found["error"] = found.get("error", 0) + 1
                write(path, {"counts": found, "shown": done.stdout[-4000:] + done.stderr[-2000:]})
            result = json.loads(path.read_text())
            counts += Counter(result["counts"])
            print(f"  {test}: {shown(result['counts'])}", flush=True)
            if not is_well(result["counts"]):
                print(result["shown"], flush=True)
        print(f"Triton {self.version}, {target}, executed: {shown(counts)}", flush=True)
        return counts["passed"] > 0 and is_well(counts)

    def _result(self, target: str, piece: str, sources: Iterable[str]) -> Path:
        key = hashlib.sha256(f"{self.version} {target} {piece} {fingerprint(sources)}".encode()).hexdigest()[:24]
        return self._results / f"{key}.json"


def faults(record: dict) -> Counter:
    """Those of FAULTS that a record has, and how many."""
    if "absent" in record:
        return Counter()
    if "error" in record:
        return Counter(errors=1)
    return +Counter(
        {
            "spills in loops": int(bool(record["loop_spills"])),
            "hazards in PTX": record["hazards_of_ptx"],
            "hazards in SASS": record["hazards_of_sass"],
            "alone": int(record.get("programs", 2) < 2 and record["num_warps"] < 16),  # known of some targets
            "mixed steps": record["mixed_steps"],
            "lost numbers": record["lost"],
        }
    )


def is_well(counts: dict[str, int]) -> bool:
    """Whether no test failed."""
    return not counts.keys() - {"passed", "skipped"}


def shown(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "none"


def fingerprint(sources: Iterable[str]) -> str:
    """Of the Python below folders, and of files."""
    paths = [path for source in sources for path in [CHECKOUT / source, *sorted((CHECKOUT / source).rglob("*.py"))]]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths if path.is_file())).hexdigest()


def write(path: Path, result: dict) -> None:
    """Whole, or not at all."""
    path.with_suffix(".part").write_text(json.dumps(result))
    path.with_suffix(".part").replace(path)


def tests() -> list[str]:
    """The files of tests that run kernels."""
    paths = [path for path in sorted((CHECKOUT / "tests").rglob("test_*.py")) if "mark.triton" in path.read_text()]
    return [str(path.relative_to(CHECKOUT)) for path in paths]


def variants(target: str = "sm_90", only: Iterable[str] = KINDS) -> list[str]:
    """The variants of benchmarks/gpu/compiled/variants.py that a target launches, as kernel/..., without the target.

    Args:
        only: of KINDS: convolutions of 32 steps at a time; of 16 and fewer; recurrent neurons; all other kernels.
    """
    from gpu.compiled.variants import KERNELS, is_launched, output_and_steps

    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for kernel, rests in KERNELS.items():
        for rest in rests:
            kind = "recurrent" if kernel.startswith("recurrent_") else "others"
            if kernel == "if_conv2d":
                _, products, _, output = rest.split("/")
                steps = output_and_steps(output)[1]
                kind = "32-steps" if steps == 32 else "few-steps"
                if not is_launched(target, products, steps):
                    continue
            found[kind].append(f"{kernel}/{rest}")
    return [name for kind in KINDS if kind in only for name in found[kind]]


def read_in_child(
    names: Sequence[str], folder: Path, cache: Path, triton: Path | None = None, target: str = "sm_90"
) -> Iterator[tuple[str, dict]]:
    """(name, record) of variants for a target, compiled by a Triton in a process of its own.

    A record has "error"; or loop_spills, programs, registers, the numbers hazards_of_ptx and hazards_of_sass, the first
    hazard, and where the texts are, "ptx" and "sass".
    """
    compiled = [name.replace("/", f"/{target}/", 1) for name in names]
    command = [sys.executable, __file__, "--child", str(folder), *compiled]
    with subprocess.Popen(command, env=environment(triton, cache), stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            record = json.loads(line)
            yield (
                record["variant"].replace(f"/{target}/", "/", 1),
                record | {kind: Path(record[kind]) for kind in ("ptx", "sass") if kind in record},
            )
    if child.returncode:
        raise RuntimeError(f"compiling with {triton or 'this Triton'} ended with status {child.returncode}")


def child(folder: str, *variants: str) -> None:
    """Prints the record of each variant, a line of JSON."""
    import triton
    from gpu.compiled import compile_variants
    from tensor_core_hazards import hazards_of_ptx, hazards_of_sass

    disassembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    kept = {}
    resources = compile_variants.resources

    def keep(compiled, target):
        kept["compiled"] = compiled
        return resources(compiled, target)

    compile_variants.resources = keep
    for number, variant in enumerate(variants):
        record = compile_variants.compile_variant(variant)
        if "error" not in record and "absent" not in record:
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
