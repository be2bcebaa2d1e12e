"""The engine of the compiled library, as ctypes sees it; src/engine/engine.h has its functions."""

from typing import Any

from . import abi, compiled
from .declared import Functions


def load(target: str | None = None) -> tuple[str, Any]:
    """The functions for an instruction set, or for the fastest one of this machine, and its name.

    Raises:
        RuntimeError: the library is not built, is damaged, or was built from other sources, or the machine cannot run
            the target. ValueError: PROXYKERNELS_CPU names no instruction set.
    """
    if not abi.LIBRARY.exists():
        raise RuntimeError(
            "the compiled library is not built here: install a C++ compiler (for example `apt-get install g++`), then "
            f"build it with `{compiled.install_command()}`"
        )
    find = compiled.opened(abi.LIBRARY).proxykernels_engine
    name, functions = compiled.table(find, Functions, target)
    if functions is None:
        raise RuntimeError(
            f"the engine cannot run {name} here: this machine lacks it, or {compiled.MOST} or the build leave it out"
        )
    return name, functions
