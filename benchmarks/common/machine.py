"""What a figure was measured on: the device, what it would have to emulate, and the first line that commands print."""

import platform
import re
from argparse import ArgumentParser
from pathlib import Path

import torch

import proxykernels as pk


def heading(net: str, data: str, out: Path | None, device: torch.device | str = "cpu", *more: str) -> str:
    """What a command says first: network, data, device, where results go, and where it resumes (``more``)."""
    torch_is = f"torch {torch.__version__}, proxykernels {pk.__version__}"
    where = f"{device_name(torch.device(device))}, {torch.get_num_threads()} threads, {torch_is}"
    return "; ".join([net, data, where, f"results: {out or 'printed'}", *more])


def device_name(device: torch.device) -> str:
    """As it calls itself; a CPU with no more than AVX2 says so, for clouds give many kinds the same name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{name}, AVX2" if torch.backends.cpu.get_cpu_capability() == "AVX2" else name


def check_device(parser: ArgumentParser, device: str) -> None:
    """End the command, by ``parser``, if --device names none, or one that this build or machine has not."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        parser.error(f"--device {device} does not work here ({reason}); --device cpu always does")


def check_precision(parser: ArgumentParser, precision: str, device: torch.device) -> None:
    """End the command, by ``parser``, if the device is a CPU that has to emulate this --precision."""
    if precision == "bfloat16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        reason = "takes ten times as long as float32 on a CPU without AVX-512 or AMX, such as this one"
        parser.error(f"--precision bfloat16 {reason}: leave it out")
