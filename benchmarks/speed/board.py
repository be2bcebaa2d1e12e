"""The archive that board_speed.py writes: sources, networks, recordings and answers, and board.sh, which runs them."""

import argparse
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import weights_file
from common.checkout import WEIGHTS
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.kernels.cpu import sources

NAME = "proxykernels-board"
SCRIPT = Path(__file__).with_suffix(".sh")


@torch.no_grad()
def keywords() -> tuple[nn.Module, Tensor]:
    """Linear layers on 20 bands of sound, which rise (1), fall (-1) or stay; a second of sound is 201 steps."""
    layers = (20, 256, 1.0), (256, 256, 0.6), (256, 256, 0.4), (256, 35, 0.4)
    net = nn.Sequential(*(pk.FusedLIFLinear(C, K, decay=0.9, v_reset=None, v_threshold=v) for C, K, v in layers))
    draw = torch.rand(201, 1, 20)
    return net, (draw < 0.15).float() - (draw > 0.85).float()


@torch.no_grad()
def gestures() -> tuple[nn.Module, Tensor]:
    """Convolutions whose currents are pooled before they reach the neurons, on 32 x 32 pixels; 150 steps."""
    layers: list[nn.Module] = []
    for C_in, C_out in ((2, 16), (16, 32), (32, 64)):
        currents = pk.FusedConv2d(C_in, C_out, 5, padding=2, neuron=pk.neurons.LINeuron(decay=0.0))
        layers += [currents, pk.MaxPool2d(2), pk.LIF(decay=0.9, v_reset=None, v_threshold=1.1)]
    layers += [pk.Flatten(), pk.FusedLIFLinear(64 * 4 * 4, 11, decay=0.8, v_reset=None, v_threshold=0.4)]
    return nn.Sequential(*layers), torch.rand(150, 1, 2, 32, 32) < 0.03


def saccades() -> tuple[nn.Module, Tensor]:
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 16, 3, padding=1, v_reset=None), pk.MaxPool2d(2),
        pk.FusedIFConv2d(16, 32, 3, padding=1, v_reset=None), pk.MaxPool2d(2),
        pk.Flatten(), pk.Dropout(), pk.FusedIFLinear(32 * 64, 10, v_reset=None),
    )  # fmt: skip
    net.load_state_dict(weights_file.read(WEIGHTS / "events.safetensors")[0])
    return net, pk.time_first(pk.samples.saccade_frames(pk.samples.fashion_mnist()[0][:1], T=15) > 0)


def write_network(folder: Path, net: nn.Module, x: Tensor) -> pk.Engine:
    """net.pk, the recording x.npy, and in expected the answer that a program must write: float32, without a header."""
    folder.mkdir()
    engine = pk.compile(net.eval(), x, precision="int8")
    engine.save(folder / "net.pk")
    np.save(folder / "x.npy", x.numpy())
    counts = engine(x, len(x)).count()
    assert counts.any(), f"nothing fires in {folder.name}"
    (folder / "expected").write_bytes(counts.float().numpy().tobytes())
    return engine


def compilations() -> list[str]:
    """A compiler's arguments for each source of the command, as CMakeLists.txt has them: one instruction set, and no
    sigma-delta neurons."""
    parts = [name for name in (*sources.TASKS, *sources.ENGINE) if "sigma_delta" not in name]
    kernels = [sources.FOLDER / f"{name}.cpp" for name in (*parts, "without/sigma_delta")]
    common = [*sources.interface(), *(sources.FOLDER / f"{name}.cpp" for name in sources.COMMON)]
    once = ["-DPK_TARGET=any_machine", "-DPK_TARGETS=TARGET(portable)", f'-DPK_VERSION="{pk.__version__}"']
    once += ['-DPK_SOURCES=""', "-DPK_ENGINE_ONLY", "-DPK_WITHOUT_SIGMA_DELTA"]
    lines = [(source, ["-DPK_TARGET=portable", "-DPK_ANY_GLIBC"]) for source in kernels]
    lines += [(source, once) for source in common]
    lines += [(source, []) for source in sorted(sources.LIBRARY.glob("command/*.cpp"))]
    flags = [*sources.FLAGS, "-fPIC", "-Wno-unknown-pragmas"]
    found = []
    for source, macros in lines:
        path = source.relative_to(sources.FOLDER.parent)
        part = "command" if path.parent.name == "command" else "library"
        made = f"build/{part}-{'-'.join(path.with_suffix('.o').parts)}"
        own = [] if part == "command" else sources.own_flags(source)
        found.append(shlex.join([*flags, *own, *macros, "-c", str(path), "-o", made]))
    return found


def write(folder: Path) -> None:
    torch.manual_seed(0)
    folder.mkdir()
    for make in (keywords, gestures, saccades):
        print(write_network(folder / make.__name__, *make()), end="\n\n")
    for part in (sources.FOLDER, sources.LIBRARY):
        shutil.copytree(part, folder / part.name, ignore=shutil.ignore_patterns("*.in", "*.txt", "examples"))
    (folder / "compile.txt").write_text("\n".join(compilations()) + "\n")
    shutil.copy(SCRIPT, folder)


def run(options: argparse.Namespace) -> int:
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / NAME
        write(folder)
        archive = options.out / f"{NAME}.tar.gz"
        with tarfile.open(archive, "w:gz") as file:
            file.add(folder, NAME)
        print(f"{archive}: {archive.stat().st_size:,} bytes")
        if not options.run:
            return 0
        given = os.environ | {"CXX": options.cxx, "RUN": options.emulator}
        status = subprocess.run(["sh", folder / SCRIPT.name], env=given).returncode
        for found in folder.glob("result*.tar.gz"):
            shutil.copy(found, options.out)
        return status
