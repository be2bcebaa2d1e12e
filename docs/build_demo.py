"""Build what the browser page of docs/extra/demo loads: the engine as WebAssembly, the networks, images and recordings.

    pip install -e . ziglang
    python docs/build_demo.py
    python -m http.server -d docs/extra       # then open http://localhost:8000/demo/

Writes docs/extra/demo/built/, which git ignores. The engine is compiled again only if its sources have changed.
"""

import argparse
import base64
import gzip
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

import proxykernels as pk
from proxykernels.kernels.cpu import sources
from proxykernels.kernels.rounding import PRECISIONS, round_weights
from proxykernels.layers.sigma_delta_neurons import SigmaDeltaNeurons

CHECKOUT = Path(__file__).parents[1]
sys.path[:0] = [str(CHECKOUT / "benchmarks" / "research"), str(CHECKOUT / "benchmarks")]
BUILT = Path(__file__).parent / "extra" / "demo" / "built"
CLASSES = "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
CALIBRATION = 128  # of the shipped images; the page shows some of the others
EACH = 4  # images of a class
STEPS = 15  # of a recording

LISTENER = Path(__file__).with_name("listener.cpp"), sources.LIBRARY / "examples" / "hear.hpp"
HEADER = sources.LIBRARY / "include" / "proxykernels.h"
TARGET = ["-target", "wasm32-wasi"]
FLAGS = [*TARGET, "-msimd128", "-fno-exceptions", "-Wno-unknown-pragmas", "-D_WASI_EMULATED_GETPID"]
LINKED = [*TARGET, "-mexec-model=reactor", "-lwasi-emulated-getpid", "-Wl,--strip-all", "-Wl,-z,stack-size=1048576"]
MACROS = [
    "-DPK_TARGET=portable",
    "-DPK_TARGETS=TARGET(portable)",
    '-DPK_SOURCES=""',
    f'-DPK_VERSION="{pk.__version__}"',
    "-DPK_ENGINE_ONLY",
]

# WASI has one thread, which never ends, and no function that notes what to destroy then.
NO_THREAD_ENDS = 'extern "C" int __cxa_thread_atexit(void (*)(void*), void*, void*) { return 0; }\n'


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BUILT, help="folder (default: docs/extra/demo/built)")
    out = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    images, labels = pk.samples.fashion_mnist()
    shown = [k for k in range(CALIBRATION, len(images)) if (labels[CALIBRATION:k] == labels[k]).sum() < EACH]
    shown.sort(key=lambda k: (int((labels[CALIBRATION:k] == labels[k]).sum()), int(labels[k])))  # a row of each class
    for name, network in networks(images[:CALIBRATION]).items():
        write(out / f"{name}.safetensors.gz", saved(pk.compile(**network)))
    write(out / "samples.json.gz", json.dumps(samples(images[shown], labels[shown])).encode())
    compile_engine(out)
    for path in sorted(out.iterdir()):
        content = path.read_bytes()
        size = len(content if path.suffix == ".gz" else gzip.compress(content, 9))
        print(f"{path.name}: {len(content):,} bytes, {size:,} gzipped")


def write(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, 9, mtime=0))


def saved(engine: pk.Engine) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        engine.save(Path(folder) / "net.safetensors")
        return (Path(folder) / "net.safetensors").read_bytes()


def networks(calibration: Tensor) -> dict[str, dict]:
    """What pk.compile is given, by the names of the files. All sums are exact: spikes are the same everywhere."""
    integrate_and_fire = pk.convert(pk.samples.relu_network(), calibration)
    nothing = pk.events([], [], [], [], size=(34, 34), T=1)
    return {
        "if": {"net": integrate_and_fire, "x": calibration[:1], "precision": "int8"},
        "sigma-delta": {"net": sigma_delta(calibration), "x": calibration[:1]},
        "events": {"net": events(), "x": nothing, "precision": "int8"},
        "digits": {"net": digits(), "x": torch.zeros(1, 1, 64, dtype=torch.bool), "precision": "int8"},
        "gestures": {"net": gestures(), "x": torch.zeros(1, 1, 2, 32, 32, dtype=torch.bool), "precision": "int8"},
    }


@torch.no_grad()
def sigma_delta(calibration: Tensor) -> torch.nn.Module:
    """The package's ReLU network with sigma-delta neurons. Weights have 7 bits, and thresholds are powers of two: all
    sums are exact, and the file packs well."""
    ann = pk.samples.relu_network()
    net = pk.convert(ann, calibration, neuron="sigma-delta")
    incoming = torch.ones(1)
    for name, layer, _ in net.layers():
        if not isinstance(layer, SigmaDeltaNeurons):
            continue
        source, (synapse,) = ann.get_submodule(name), layer.synapses
        weight, bias, _ = round_weights(source.weight, source.bias, PRECISIONS["int8"])
        layer.scale.copy_(2.0 ** layer.scale.log2().ceil())
        outgoing = layer.scale
        per_input = incoming.repeat_interleave(weight.shape[1] // incoming.numel())
        synapse.weight.copy_(weight * per_input.view(-1, *[1] * (weight.ndim - 2)) / _by_row(outgoing, weight))
        synapse.bias.copy_(bias / outgoing)
        incoming = outgoing
    return net


def _by_row(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.ndim - 1))


def events() -> torch.nn.Module:
    """A network that benchmarks/research/train_events.py trained by proxy: the class that fires most is its answer."""
    from training.events import firing, network

    return trained("events", lambda about: network(firing, dropout=0.0))


def digits() -> torch.nn.Module:
    """A network that benchmarks/research/train_digits.py trained; the potentials of its last layer are the answer."""
    from training.digits import network

    return trained("digits", lambda about: network(int(about["neurons"])))


def gestures() -> torch.nn.Module:
    """A network that benchmarks/research/train_gestures.py trained on made gestures."""
    from training.gestures import network

    return trained("gestures", lambda about: network(int(about["neurons"]), int(about["classes"])))


def trained(name: str, make: Callable[[dict[str, str]], torch.nn.Module]) -> torch.nn.Module:
    from common import weights_file

    state, about = weights_file.read(CHECKOUT / "benchmarks" / "weights" / f"{name}.safetensors")
    net = make(about)
    net.load_state_dict(state)
    return net.eval()


def samples(images: Tensor, labels: Tensor) -> dict:
    """What there is to pick: images, and recordings of the first image of each class."""

    def text(values: Tensor) -> str:
        return base64.b64encode(values.to(torch.uint8).numpy().tobytes()).decode()

    bytes_of = (images * 255).round()
    recordings = []
    for image, label in list(zip(images, labels, strict=True))[: len(CLASSES)]:
        frames = pk.samples.saccade_frames(image[None], STEPS)[0]
        t, p, y, x = frames.nonzero(as_tuple=True)
        recordings.append({"label": int(label), "events": text(torch.stack([t, x, y, p], 1))})
    return {
        "classes": CLASSES,
        "images": [{"label": int(k), "pixels": text(b)} for b, k in zip(bytes_of, labels, strict=True)],
        "recordings": recordings,
        "size": frames.shape[-1],
        "T": STEPS,
    }


def is_current(out: Path) -> bool:
    """Whether the engine in a folder was compiled from the sources as they are."""
    made = out / "engine.sources"
    return (out / "engine.wasm").is_file() and made.is_file() and made.read_text() == command()


def command() -> str:
    """By what, and of what, the engine is compiled."""
    listener = " ".join(sha256(path.read_bytes()).hexdigest() for path in LISTENER)
    return f"{sources.fingerprint()} {listener} {FLAGS} {LINKED} {NO_THREAD_ENDS}"


def compile_engine(out: Path) -> None:
    """The engine and its C interface, by zig, with one instruction set and one thread."""
    if is_current(out):
        return
    if importlib.util.find_spec("ziglang") is None:
        raise SystemExit("build_demo.py: zig compiles the engine to WebAssembly and is missing: pip install ziglang")
    names = *sources.COMMON, *sources.ENGINE, *sources.TASKS
    engine = [sources.FOLDER / f"{name}.cpp" for name in names]
    interface = [*sources.interface(), LISTENER[0]]
    with tempfile.TemporaryDirectory() as folder:
        ends = Path(folder) / "ends.cpp"
        ends.write_text(NO_THREAD_ENDS)
        objects = {source: Path(folder) / f"{k}.o" for k, source in enumerate([*engine, *interface, ends])}
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
            list(pool.map(compile_one, *zip(*objects.items(), strict=True)))
        functions = re.findall(r"^PK_API [^(]*?\b(pk_\w+)\(", HEADER.read_text(), re.MULTILINE)
        exports = [f"-Wl,--export={name}" for name in ("malloc", "free", *functions)]
        made = Path(folder) / "engine.wasm"
        zig("c++", *objects.values(), *LINKED, *exports, "-o", made)
        shutil.move(made, out / "engine.wasm")
    (out / "engine.sources").write_text(command())


def compile_one(source: Path, to: Path) -> None:
    small = ["-Os"] if source in sources.interface() else []  # what reads files need not be fast
    headers = [f"-I{folder}" for folder in (HEADER.parent, LISTENER[1].parent)]
    zig("c++", "-c", source, "-o", to, *sources.FLAGS, *FLAGS, *MACROS, *small, *headers)


def zig(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "ziglang", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
