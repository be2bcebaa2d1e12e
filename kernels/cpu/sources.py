"""The C++ sources of the library: setup.py builds their hash into it, the loader compares it."""

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent / "src"
# Compiled once.
COMMON = ("dispatch", "cost_model")
# Compiled for each instruction set: kernels of layers called one by one; the engine; and tasks of both.
KERNELS = ("gradients", "scans", "spikes", "target")
TASKS = (
    "conv2d/amx",
    "conv2d/fire_sums",
    "sigma_delta/senders",
    "sigma_delta/rows",
    "sigma_delta/byte_rows",
    "sigma_delta/byte_products",
    "sigma_delta/scattered",
    "sigma_delta/dense",
)
ENGINE = (
    "engine/fire",
    "engine/convolutions",
    "engine/scatter",
    "engine/scatter_maxima",
    "engine/packed_plan",
    "engine/run",
    "engine/pools_and_moves",
    "engine/recurrent",
    "engine/sigma_delta",
)
# The sources that share work by OpenMP. A run of a layer borrows its threads; a network's has its own.
BY_OPENMP = (*KERNELS, "engine/run")
# The engine's interface for programs without Python, once for all instruction sets.
LIBRARY = FOLDER.parent / "c"
FLAGS = [
    "-O3",
    "-std=c++17",
    "-fvisibility=hidden",
    "-ffp-contract=off",  # a product and a sum are rounded apart, as the definition has them
    "-fno-math-errno",
    "-g0",  # Python's own flags may ask for what a debugger reads: it takes longer, and 30 MB
    "-Wno-psabi",  # vectors are passed between functions of one file alone
    "-Wno-unused-function",  # of a header that others read as well
    "-fno-asynchronous-unwind-tables",  # functions that cannot throw need none
]
# Sources that ask C++ for memory, which may throw; the others need no code for that.
MAY_THROW = ("dispatch", "engine/packed_plan", "engine/run")
# Sources of the interface that walk through all values of a file or an input. The others may take their time.
LONG_LOOPS = ("json", "packing", "tensors")
# Flags that compile with OpenMP, and flags that link; the first that the compiler takes. Apple's has no -fopenmp.
OPENMP = [(["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])]
# Compiles with them where their runtime is the one that torch brings: GCC's on Linux, LLVM's on macOS. Beside another,
# calls that alternate with torch's operations take many times as long.
SHARES_TORCH_RUNTIME = """
#include <omp.h>
#if defined(__clang__) != defined(__APPLE__)
#error "the OpenMP of this compiler is not torch's"
#endif
"""


def paths() -> list[Path]:
    """All sources and headers of the library."""
    found = sorted(path for path in FOLDER.rglob("*") if path.suffix in (".cpp", ".h"))
    return [*found, *interface(), *sorted(LIBRARY.rglob("*.h"))]


def own_flags(source: Path) -> list[str]:
    """Flags of a source that come after FLAGS: for short code where no kernel is slower by it."""
    if LIBRARY in source.parents:
        return ["-O2" if source.stem in LONG_LOOPS else "-Os"]
    name = source.relative_to(FOLDER).with_suffix("").as_posix()
    return [] if name in MAY_THROW else ["-fno-exceptions"]


def interface() -> list[Path]:
    """The sources of the interface for programs without Python."""
    return sorted(LIBRARY.glob("*.cpp"))


def fingerprint() -> str:
    """A hash of their names and contents."""
    files = hashlib.sha256()
    for path in paths():
        text = path.read_bytes()
        files.update(f"{path.relative_to(FOLDER.parent).as_posix()} {len(text)}\n".encode() + text)
    return files.hexdigest()
