"""NVIDIA's own tools on a convolution of each kind, where they are; and the code of what ran, for an archive."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

import proxykernels as pk
from gpu.self_check import BITS, RATE, layer

KEPT = (".ptx", ".cubin", ".sass", ".ttgir")  # of what Triton compiles
COMMANDS = {
    "sanitizer": ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "1"],
    "profile": ["ncu", "--set", "full", "--kernel-name", "regex:_kernel", "--launch-count", "40", "--export"],
}


def once(device: torch.device, shape: tuple[int, int, int, int]) -> Iterator[str]:
    """Runs a convolution of each kind of weights, and a training step: what tools look at. ``shape``: as in
    self_check.checks."""
    T, N, C, size = shape
    x = pk.pack((torch.rand(T, N, C, size, size) < RATE).to(device))
    for kind in BITS:
        layer(kind, torch.randn(C, C, 3, 3, device=device) / (9 * C) ** 0.5)(x)
        yield kind
    model = pk.SurrogateNet(pk.FusedIFConv2d(C, C, 3, padding=1).to(device), T=T)
    model(x).sum().backward()
    yield "surrogate step"


def command(tool: str, folder: Path) -> list[str] | None:
    """What to put before a command for a tool to look at it; None: it is not here."""
    program, *options = COMMANDS[tool]
    found = shutil.which(program)
    if found is None:
        return None
    return [found, *options, *([str(folder / "profile")] if tool == "profile" else [])]


def collect(compiled: Path) -> int:
    """Disassemble each cubin below a folder and keep only KEPT; return the number of kernels."""
    for path in sorted(compiled.rglob("*.cubin")):
        done = subprocess.run([_disassembler(), "-c", path], capture_output=True, text=True, check=False)
        path.with_suffix(".sass").write_text(done.stdout or done.stderr)
    for path in [path for path in compiled.rglob("*") if path.is_file() and path.suffix not in KEPT]:
        path.unlink()
    return len(list(compiled.rglob("*.cubin")))


def _disassembler() -> str:
    """NVIDIA's, which comes with Triton."""
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm")
