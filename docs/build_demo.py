"""Build what the browser page of docs/extra/demo loads: the engine as WebAssembly, the networks, images and recordings.

    pip install -e . ziglang
    python docs/build_demo.py
    python -m http.server -d docs/extra       # then open http://localhost:8000/demo/

Writes docs/extra/demo/built/, which git ignores. The engine is compiled again only if its sources have changed.
"""

import argparse
import base64
import gzip
import io
import json
import runpy
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from math import ceil, log2
from pathlib import Path

import torch
from torch import Tensor

import proxykernels as pk
from proxykernels.kernels.rounding import PRECISIONS, round_weights

CHECKOUT = Path(__file__).parents[1]
BUILT = Path(__file__).parent / "extra" / "demo" / "built"
CLASSES = "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
CALIBRATION = 128  # of the shipped images; the page shows some of the others
EACH = 4  # images of a class
STEPS = 15  # of a recording

CPU = CHECKOUT / "kernels" / "cpu"
TARGET = ["-target", "wasm32-wasi", "-msimd128"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BUILT, help="folder (default: docs/extra/demo/built)")
    out = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    images, labels = pk.samples.fashion_mnist()
    shown = [k for k in range(CALIBRATION, len(images)) if (labels[CALIBRATION:k] == labels[k]).sum() < EACH]
    shown.sort(key=lambda k: (int((labels[CALIBRATION:k] == labels[k]).sum()), int(labels[k])))  # a row of each class
    networks = {
        "if": integrate_and_fire(images[:CALIBRATION]),
        "sigma-delta": sigma_delta(images[:CALIBRATION]),
        "events": events(),
    }
    for name, engine in networks.items():
        write(out / f"{name}.safetensors.gz", saved(engine))
    write(out / "samples.json.gz", json.dumps(samples(images[shown], labels[shown])).encode())
    compile_engine(out / "engine.wasm")
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


def integrate_and_fire(calibration: Tensor) -> pk.Engine:
    """The package's ReLU network with integrate-and-fire neurons, its weights in 7 bits: spikes are the same everywhere."""
    return pk.compile(pk.convert(pk.samples.relu_network(), calibration), calibration[:1], precision="int8")


@torch.no_grad()
def sigma_delta(calibration: Tensor) -> pk.Engine:
    """The same network with sigma-delta neurons, its weights in 7 bits times powers of two, like the thresholds: all sums
    are exact, and the file packs well."""
    ann = pk.samples.relu_network()
    net = pk.convert(ann, calibration, neuron="sigma-delta")
    incoming = torch.ones(1)
    for name, layer, _ in net.layers():
        if not isinstance(layer, pk.layers.SigmaDeltaNeurons):
            continue
        source, (synapse,) = ann.get_submodule(name), layer.synapses
        weight, bias, _ = round_weights(source.weight, source.bias, PRECISIONS["int8"])
        layer.scale.copy_(2.0 ** layer.scale.log2().ceil())
        outgoing = layer.scale
        per_input = incoming.repeat_interleave(weight.shape[1] // incoming.numel())
        synapse.weight.copy_(weight * per_input.view(-1, *[1] * (weight.ndim - 2)) / _by_row(outgoing, weight))
        synapse.bias.copy_(bias / outgoing)
        incoming = outgoing
    return pk.compile(net, calibration[:1])


def _by_row(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.ndim - 1))


def events() -> pk.Engine:
    """The network that benchmarks/train_events.py trained, whose potentials are right after each movement."""
    sys.path.insert(0, str(CHECKOUT / "benchmarks"))
    from common import weights_file
    from training.events import adding_up, network

    net = network(adding_up, dropout=0.0)
    state, _ = weights_file.read(CHECKOUT / "benchmarks" / "weights" / "events.safetensors")
    net.load_state_dict({name: value.float() for name, value in state.items()})
    return pk.compile(net.eval(), pk.events([], [], [], [], size=(34, 34), T=1), precision="int8")


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
