"""Compile a single kernel and keep the results, as a first step of changing it.

    python benchmarks/gpu_speed.py one
    python benchmarks/gpu_speed.py one if_conv2d/sm_80/paper/three-digits/hard/words-4
    python benchmarks/gpu_speed.py one --list sigma_delta

Prints what the kernel takes and what is wrong with it, and writes Triton's GPU IR, PTX, cubin and SASS. It needs no
GPU. The names are those of gpu/compiled/variants.py. To execute it, run its tests in the emulator, or on a GPU at hand:

    pytest --emulate sm_80 tests/gpu/test_triton_conv2d.py
"""

import argparse
import json
import os
import sys
from pathlib import Path

from common.printed import RUNS

DEFAULT = "if_conv2d/sm_90/paper/three-digits/hard/words"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("variant", nargs="?", default=DEFAULT, help=f"kernel/target/..., such as {DEFAULT}")
    parser.add_argument("--list", metavar="TEXT", help="the names that hold a text, and no more")
    parser.add_argument("--out", type=Path, default=RUNS / "gpu_one", help="folder of what is compiled")


def run(options: argparse.Namespace) -> None:
    os.environ.pop("TRITON_INTERPRET", None)
    from gpu.compiled import variants

    if options.list is not None:
        print("\n".join(name for name in variants.VARIANTS if options.list in name) or "no such kernel")
        return
    kernel, target, *rest = options.variant.split("/")
    if kernel not in variants.KERNELS or target not in variants.TARGETS or len(rest) < 1:
        sys.exit(f"no kernel is called {options.variant}; --list TEXT lists those that hold a text")
    os.environ["TRITON_CACHE_DIR"] = str(options.out / options.variant.replace("/", "-"))
    from gpu import tools
    from gpu.compiled import compile_variants

    record = compile_variants.compile_variant(options.variant)
    tools.collect(Path(os.environ["TRITON_CACHE_DIR"]))
    print(json.dumps(record, indent=2))
    print("\n".join(compile_variants.faults(record)) or "no faults")
    print(os.environ["TRITON_CACHE_DIR"])
