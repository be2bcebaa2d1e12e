"""The kernels on a GPU: measured on the one at hand, compiled for others, and tuned.

    python benchmarks/gpu_speed.py            everything there is to measure
    python benchmarks/gpu_speed.py tune       block sizes, timed

To measure takes about an hour and leaves one archive. Who changes kernels compiles them, with no GPU:

    python benchmarks/gpu_speed.py compile    what each kernel takes
    python benchmarks/gpu_speed.py operands   what each GPU and Triton packs
    python benchmarks/gpu_speed.py one        one kernel: its cost, PTX, SASS

`measure --help`, and so on, says more.
"""

import argparse
import importlib
import sys
from pathlib import Path

from common.command import command
from common.printed import Help, new_parser

MODULES = {"measure": "measure", "part": "parts", "tune": "tune", "compile": "compiled.compile_report"}
MODULES |= {"operands": "compiled.operand_report", "one": "compiled.one"}


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or (arguments[0] not in MODULES and arguments[0] not in ("-h", "--help")):
        arguments = ["measure", *arguments]
    if arguments[0] not in MODULES:
        new_parser(__doc__).parse_args(arguments)
    name = arguments[0]
    module = importlib.import_module(f"gpu.{MODULES[name]}")
    parser = argparse.ArgumentParser(
        f"{Path(sys.argv[0]).name} {name}", description=module.__doc__, formatter_class=Help
    )
    module.add_options(parser)
    options = parser.parse_args(arguments[1:])
    if getattr(options, "dry_run", False):
        module = importlib.import_module("gpu.dry_run")
    module.run(options)


if __name__ == "__main__":
    command(main)
