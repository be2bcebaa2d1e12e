"""gpu_speed.py from end to end on a GPU that is not there (tests/gpu/pretend_gpu.py), with times that mean nothing.

Each part is a call, sizes are tiny, and Triton's interpreter runs the kernels of the self-check; of all others the
launches alone are made. So a mistake in the command is found before anybody has a card for an hour.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

ROOT = Path(__file__).parents[2]
NAME = "dry run without a GPU"
NETWORK = ["--net", "small", "--batch", "2", "--T", "2,5", "--repeats", "1", "--rivals", "layers-fp16"]
MS = 100.0  # that everything takes


class Event:
    """A CUDA event by which everything takes MS."""

    def __init__(self, enable_timing: bool = False):
        pass

    def record(self, stream=None):
        pass

    synchronize = record

    def elapsed_time(self, end) -> float:
        return MS


class Shown:
    """A file whose lines are also shown as they are written."""

    def __init__(self, file: Any, progress: Any):
        self.file, self.progress, self.begun = file, progress, ""

    def write(self, text: str) -> int:
        *lines, self.begun = (self.begun + text).split("\n")
        self.progress.lines(lines)
        return self.file.write(text)

    def flush(self) -> None:
        self.file.flush()


def run(options: argparse.Namespace) -> None:
    """What measure.py does, on a GPU that is not there."""
    from gpu import measure

    console = Console(file=sys.stdout)
    console.print("pretends a GPU ...")
    with contextlib.ExitStack() as stack:
        with measure.Progress("imports", console):
            stack.enter_context(pretended())
        measure.run(options)


@contextlib.contextmanager
def pretended(name: str = NAME) -> Iterator[Any]:
    """torch and the library believe in a GPU of this name; gives the card (pretend_gpu.Card)."""
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports the kernels
    sys.path.append(str(ROOT / "tests" / "gpu"))
    import torch

    if torch.cuda.is_available():
        sys.exit("--dry-run is for machines without a GPU; leave it out, for there is one here")
    try:
        import pytest
        import triton  # noqa: F401 - is looked for
    except ModuleNotFoundError:
        sys.exit('--dry-run needs what tests need; install it by `pip install -e ".[dev]"`')
    from pretend_gpu import pretend_gpu

    from gpu import kernel_speed, measure, parts, rivals, timing, tools

    def in_child(arguments: list[str], log: Path, limit_s: float, progress: measure.Progress) -> int:
        card.executes = "self-check" in arguments  # the interpreter takes minutes for more
        try:
            with log.open("a") as file, contextlib.redirect_stdout(Shown(file, progress)):  # type: ignore[type-var]
                parser = argparse.ArgumentParser()
                parts.add_options(parser)
                parts.run(parser.parse_args(arguments[1:]))  # behind the word "part"
        except SystemExit as end:
            return int(end.code or 0)
        except Exception:  # any error would end only the child
            log.write_text(log.read_text() + traceback.format_exc())
            return 1
        return 0

    def tests(command: list[str], cwd: Path, timeout: float) -> SimpleNamespace:
        Path(command[-1].removeprefix("--junitxml=")).write_text("<testsuites/>")
        return SimpleNamespace(returncode=0)

    with pytest.MonkeyPatch.context() as patch, rivals.float32_precision("ieee"), torch.no_grad():
        with pretend_gpu(patch) as card:
            patch.setattr(card._of_thread, "device", torch.device("cuda", 0), raising=False)  # the current one
            for kind, move in ((torch.Tensor, card.on_card), (torch.nn.Module, card.moved)):
                patch.setattr(kind, "to", _moving(kind.to, move))
            for attribute, value in _cuda(name).items():
                patch.setattr(torch.cuda, attribute, value)
            patch.setattr(torch.Tensor, "backward", lambda self: None)  # which needs a driver
            patch.setattr(measure, "in_child", in_child)
            patch.setattr(measure, "NETWORKS", [NETWORK])
            patch.setattr(parts, "SIZES", kernel_speed.TINY)
            patch.setattr(parts, "subprocess", SimpleNamespace(run=tests, TimeoutExpired=subprocess.TimeoutExpired))
            patch.setattr(timing, "FEWEST", 1)
            patch.setattr(timing, "ENOUGH_MS", MS)
            patch.setattr(tools, "command", lambda tool, folder: None)
            yield card


def _cuda(name: str) -> dict[str, Any]:
    """What torch.cuda answers."""
    properties = SimpleNamespace(
        total_memory=80 << 30, multi_processor_count=132, major=9, minor=0, uuid="00000000-0000"
    )
    return {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "is_bf16_supported": lambda *_: True,
        "get_device_name": lambda device=None: name,
        "get_device_properties": lambda device: properties,
        "Event": Event,
        "synchronize": lambda device=None: None,
        "reset_peak_memory_stats": lambda device: None,
        "memory_allocated": lambda device: 0,
        "max_memory_allocated": lambda device: 5_000_000,
    }


def _moving(to, move):
    """``to`` that asks no driver."""
    import torch

    def moved(self, *arguments, **named):
        wanted = arguments[0] if arguments else named.get("device")
        if isinstance(wanted, str | torch.device) and torch.device(wanted).type == "cuda":
            return move(self)
        if isinstance(self, torch.nn.Module) and isinstance(wanted, torch.dtype):  # which sets data, an OnCard's too
            for part in self.modules():
                for name, parameter in part._parameters.items():
                    if parameter is not None:
                        part._parameters[name] = torch.nn.Parameter(parameter.detach().to(wanted))
            return self
        return to(self, *arguments, **named)

    return moved
