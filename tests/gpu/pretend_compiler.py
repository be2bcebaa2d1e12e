"""What is compiled for a GPU that is not there: by Triton where kernels are emulated, else by a stand-in.

The stand-in compiles nothing, and tells kernels apart by Triton's rules: by constants, by the types and the alignment
of tensors, and by whether an integer is 1 or a multiple of 16.
"""

import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from torch import Tensor

from proxykernels.kernels.gpu import backend, compile_progress


class Compilation(NamedTuple):
    """A kernel that was compiled; ``ahead``: in a thread of a rehearsal."""

    kernel: str
    key: str
    ahead: bool


@contextmanager
def pretend_compiler(monkeypatch: pytest.MonkeyPatch, fails: str = "") -> Iterator[list[Compilation]]:
    """Within pretend_gpu, nothing being compiled yet: the compilations, in order. That of ``fails`` is an error."""
    import triton

    found: list[Compilation] = []

    def note(kernel: str, key: str) -> None:
        if kernel == fails:
            raise ValueError("no such instruction")
        found.append(Compilation(kernel, key, threading.current_thread().name.startswith("proxykernels-compile")))

    if not triton.knobs.runtime.interpret:
        compile_source = triton.compiler.compile

        def noted(source, *operands, **options):
            note(source.fn.__name__, source.hash())
            return compile_source(source, *operands, **options)

        monkeypatch.setattr(triton.compiler, "compile", noted)
        for kernel in backend.COMPILED:
            monkeypatch.setattr(kernel, "device_caches", defaultdict(kernel.create_binder))
        yield found
        return
    modules = [sys.modules[kernel.fn.__module__] for kernel in backend.COMPILED]
    names = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    launchers = [module for name, module in sys.modules.items() if name.startswith("proxykernels.kernels.gpu.")]
    progress = compile_progress.Progress()
    for module in launchers:
        for name in names & vars(module).keys():
            if hasattr(vars(module)[name], "card"):
                monkeypatch.setattr(module, name, _Compiled(vars(module)[name], note))
                progress.follow([vars(module)[name]])
    yield found


class _Compiled:
    """A kernel of pretend_gpu that must be compiled before it is launched."""

    def __init__(self, launched: Any, note: Callable[[str, str], None]):
        self.__name__, self._launched, self._note = launched.name, launched, note
        self._known: set[str] = set()

    def __getitem__(self, grid: tuple) -> Callable[..., None]:
        def launch(**options) -> None:
            if self._is_compiled(options):
                self._launched[grid](**options)

        return launch

    def warmup(self, grid: tuple, **options) -> None:
        self._is_compiled(options)

    def _is_compiled(self, options: dict) -> bool:
        key = str({name: _kind(name, value) for name, value in options.items()})
        return key in self._known or self._do_compile(key, warmup=False) is not None

    def _do_compile(self, key: str, warmup: bool) -> str:
        self._note(self.__name__, key)
        self._known.add(key)
        return key


def _kind(name: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        return str(value.dtype), value.data_ptr() % 16 == 0
    if isinstance(value, tuple):
        return tuple(_kind("", part) for part in value)
    if isinstance(value, int) and not isinstance(value, bool) and not name.isupper():
        return "1" if value == 1 else value % 16 == 0
    if isinstance(value, float):
        return "float"
    return getattr(value, "__name__", value)
