"""Networks of Lava's files against a loop of integers, and lava-dl's own vectors where LAVA_DL names a checkout."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import spikes
from equality import equal

import proxykernels as pk
from proxykernels.kernels import cpu
from proxykernels.plan.follow import follow
from proxykernels.running.engine import Engine

h5py = pytest.importorskip("h5py")

TARGETS = [target for target in cpu.TARGETS if cpu.load(target)]
T = 40
NEURON = {"type": b"CUBA", "iDecay": 1024, "vDecay": 415, "vThMant": 6, "refDelay": 1, "gradedSpike": False}


def weights(*shape: int, most: int = 12) -> np.ndarray:
    generator = np.random.default_rng(sum(shape))
    return generator.integers(-most, most + 4, shape).astype(np.float32)


def dense(inputs: int, outputs: int, **more) -> dict:
    return {"type": np.array([b"dense"], "S10"), "shape": np.array([outputs]), "weight": weights(outputs, inputs),
            "neuron": NEURON, "bias": weights(outputs), **more}  # fmt: skip


def conv(inputs: int, shape: tuple[int, int, int], **more) -> dict:
    return {"type": np.array([b"conv"], "S10"), "shape": np.array(shape), "weight": weights(shape[0], inputs, 3, 2, 1),
            "stride": np.array([1, 2]), "padding": np.array([1, 0]), "dilation": np.array([1, 1]), "groups": 1,
            "neuron": {**NEURON, "type": b"LOIHI", "iDecay": 4096}, "bias": weights(shape[0]), **more}  # fmt: skip


def recurrent(inputs: int, outputs: int, **more) -> dict:
    return dense(inputs, outputs, weight_rec=weights(outputs, outputs, most=8), **more) | {"type": b"dense_rec"}


FILES = {
    "dense": [dense(6, 40), dense(40, 5, neuron={**NEURON, "iDecay": 4096})],
    "recurrent": [recurrent(6, 40, neuron={**NEURON, "vThMant": 60}), dense(40, 5, neuron={**NEURON, "vThMant": 90})],
    "images": [
        {"type": b"input", "shape": np.array([2, 5, 6]), "weight": np.float32(3), "bias": np.array([4.0]),
         "neuron": {**NEURON, "vThMant": 25, "vDecay": 1024}},
        conv(2, (24, 5, 3)), {"type": b"flatten", "shape": np.array([1, 1, 360])},
        dense(360, 5, neuron={**NEURON, "vThMant": 3000}),
    ],
}  # fmt: skip


def put(group, entry: dict) -> None:
    for name, value in entry.items():
        if isinstance(value, dict):
            put(group.create_group(name), value)
        else:
            group[name] = value


def write(path: Path, layers: list[dict]) -> Path:
    with h5py.File(path, "w") as file:
        put(file, {"layer": {str(k): layer for k, layer in enumerate(layers)}, "simulation": {"Ts": 1}})
    return path


def toward_zero(x: torch.Tensor, decay: int) -> torch.Tensor:
    product = x * (4096 - decay)
    return product.sign() * (product.abs() >> 12)


def by_hand(layers: list[dict], x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Spikes, and u and v of the last step of each layer with neurons: int64, as Loihi's equations are written."""
    given, found = x.long(), []
    for layer in layers:
        kind = layer["type"] if isinstance(layer["type"], bytes) else layer["type"][0]
        if kind == b"flatten":
            given = given.flatten(2)
            continue
        neuron, fired, u, v, s = layer["neuron"], [], None, None, None
        for step in given:
            arrives, bias = torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
            if kind == b"input":
                bias = step
            elif kind == b"conv":
                weight = torch.from_numpy(layer["weight"][..., 0]).double()
                window = [tuple(layer[name].tolist()) for name in ("stride", "padding", "dilation")]
                arrives = F.conv2d(step.double(), weight, None, *window).long()
                bias = torch.from_numpy(layer["bias"]).long()[:, None, None]
            else:
                arrives = step @ torch.from_numpy(layer["weight"]).long().t()
                bias = torch.from_numpy(layer["bias"]).long()
                if kind == b"dense_rec" and s is not None:
                    arrives = arrives + s @ torch.from_numpy(layer["weight_rec"]).long().t()
            if u is None:
                u = v = torch.zeros_like(arrives + bias)
            u = toward_zero(u, neuron["iDecay"]) + 64 * arrives
            v = toward_zero(v, neuron["vDecay"]) + u + 64 * bias
            s = (v > 64 * neuron["vThMant"]).long()
            v = v * (1 - s)
            fired.append(s)
        given = torch.stack(fired)
        found.append((given, u, v))
    return found


def input_of(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if name == "images":
        return torch.randint(0, 30, (3, 2, 5, 6), generator=generator).expand(T, 3, 2, 5, 6).float()
    return spikes(T, 3, 6, generator=generator, rate=0.4)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_a_loop_of_integers(tmp_path, name):
    """Spikes and states of all layers, one by one, and by the engine of each instruction set."""
    x, wanted = input_of(name), by_hand(FILES[name], input_of(name))
    net = pk.from_lava(write(tmp_path / "a.net", FILES[name]))
    neurons = [key for key, layer, _ in net.layers() if isinstance(layer, pk.layers.Neurons)]
    assert len(neurons) == len(wanted) and all(0.005 < fired.float().mean() < 0.9 for fired, _, _ in wanted)
    results = [pk.simulate(net, x, T, record=neurons)]
    results += [Engine(follow(net, tuple(x.shape[2:]), True), target=target)(x, T) for target in TARGETS]
    for result in results:
        assert equal(result.spikes.dense(), wanted[-1][0].float())
    for key, (fired, u, v) in zip(neurons, wanted, strict=True):
        assert equal(results[0].records[key].dense().flatten(2), fired.float().flatten(2))
        (state,) = results[0].state[key]
        current = 0 * u if key == "layer0" and name == "images" else u  # the input's is its bias here
        assert equal(state[:, 0].flatten(1), v.float().flatten(1))
        assert name == "images" or equal(state[:, 1].flatten(1), current.float().flatten(1))


def test_streams_and_files_of_engines(tmp_path):
    x, net = input_of("recurrent"), pk.from_lava(write(tmp_path / "a.net", FILES["recurrent"]))
    wanted, engine = by_hand(FILES["recurrent"], x)[-1][0].float(), pk.compile(net, x)
    stream = engine.stream(3)
    assert equal(torch.cat([stream(x[t : t + 7]).dense() for t in range(0, T, 7)]), wanted)
    engine.save(tmp_path / "net")
    assert equal(pk.load(tmp_path / "net")(x, T).spikes.dense(), wanted)


def changed(**more) -> list[dict]:
    return [dense(6, 5, **more)]


REFUSED = {
    "no layers": ([], ValueError, "has no layers"),
    "pool": ([{"type": b"pool"}], TypeError, "layer 0: a layer of type 'pool' is not supported; input, conv"),
    "sigma-delta": (
        changed(neuron={**NEURON, "type": b"SDNN"}), TypeError, "'SDNN' are not supported; .*whole difference"
    ),
    "resonator": (changed(neuron={**NEURON, "type": b"RF_PHASE"}), TypeError, "no resonate-and-fire"),
    "graded": (changed(neuron={**NEURON, "gradedSpike": True}), TypeError, "graded spikes"),
    "refractory": (changed(neuron={**NEURON, "refDelay": 2}), TypeError, "refractory period .refDelay 2."),
    "delay": (changed(delay=np.array([1.0])), TypeError, "delays are not supported; put a pk.Delay"),
    "part": (changed(weight=weights(5, 6) + 0.5), ValueError, "weight must be whole numbers, got .*5"),
    "large": (changed(weight=100 * weights(5, 6)), ValueError, "weight must fit Loihi's 8 bits"),
    "shape": (changed(weight=weights(7, 6)), ValueError, "weight of 42 values is none of 5 neurons"),
    "bias": (changed(bias=weights(4)), ValueError, "bias must have one value for each of 5 channels, got 4"),
    "no threshold": (
        changed(neuron={key: v for key, v in NEURON.items() if key != "vThMant"}), ValueError, "0: it has no vThMant"
    ),
    "neuron": (changed(neuron=3), ValueError, "neuron is no group of values"),
    "no weights": (changed(weight=weights(5, 0)), ValueError, "weight has no values"),
    "decay": (changed(neuron={**NEURON, "vDecay": 5000}), ValueError, "decay must be from 0 to 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path, name):
    layers, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        pk.from_lava(write(tmp_path / "a.net", layers))


def test_files_that_are_none(tmp_path):
    (tmp_path / "a.net").write_bytes(b"no HDF5")
    for path in (tmp_path / "a.net", tmp_path / "missing.net"):
        with pytest.raises(ValueError, match="cannot be read as a network of Lava"):
            pk.from_lava(path)
    for entry in ({"other": 1}, {"layer": 1}, {"layer": {"7": {"type": b"dense"}}}):
        with h5py.File(tmp_path / "b.net", "w") as file:
            put(file, entry)
        with pytest.raises(ValueError, match="cannot be read as a network of Lava"):
            pk.from_lava(tmp_path / "b.net")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"v_threshold": 1.5}, "v_threshold must be a whole number, got 1.5"),
        ({"v_threshold": torch.tensor([2.0, 2.5])}, "v_threshold must be a whole number, got 2.5"),
        ({"v_bias": 2.0**24}, "v_bias must be from -2\\*\\*23 to 2\\*\\*23, got"),
        ({"decay": 0.3}, "decay must be a multiple of 1/4096, got 0.3"),
        ({"current_decay": 1.25}, "current_decay must be from 0 to 1, got 1.25"),
        ({"v_bias": 0.5}, "v_bias must be a whole number"),
    ],
)
def test_parameters_that_are_no_integers(options, message):
    with pytest.raises(ValueError, match=message):
        pk.Population(pk.neurons.LoihiNeuron(**options))


def test_values_of_a_layer_may_be_changed_and_not_learned():
    layer = pk.Population(pk.neurons.LoihiNeuron(v_threshold=5.0, decay=0.5))
    layer.decay, layer.v_bias = 0.75, 2.0
    assert layer.neuron == pk.neurons.LoihiNeuron(v_threshold=5.0, decay=0.75, v_bias=2.0)
    with pytest.raises(ValueError, match="decay must be a multiple of 1/4096, got 0.1"):
        layer.decay = 0.1
    with pytest.raises(ValueError, match="decay of a LoihiNeuron is an integer"):
        pk.learn_neurons(layer, "decay")


# lava-dl's own vectors: LAVA_DL is a checkout of github.com/lava-nc/lava-dl (BSD-3).

LAVA_DL = os.environ.get("LAVA_DL")
needs_lava_dl = pytest.mark.skipif(not LAVA_DL, reason="LAVA_DL names no checkout of lava-dl")


def vectors(*parts: str) -> Path:
    return Path(LAVA_DL or "", *parts)


def steps_first(images: np.ndarray) -> torch.Tensor:
    """Of Lava's [W, H, C, T]: [T, 1, C, H, W]."""
    return torch.from_numpy(images.astype(np.float32)).permute(3, 2, 1, 0).unsqueeze(1)


@needs_lava_dl
def test_tinynet():
    """Three layers of images: recordings begin one step before ours."""
    folder = vectors("tests/lava/lib/dl/netx")
    net = pk.from_lava(folder / "tiny.net")
    x = (
        torch.from_numpy(np.load(folder / "gts/tinynet/input_bias.npy").astype(np.float32))
        .permute(2, 1, 0)
        .unsqueeze(0)
    )
    result = pk.simulate(net, x, 15, record=["layer0", "layer1"])
    fired = [result.records["layer0"], result.records["layer1"], result.spikes]
    for name, spikes_here in zip(("input", "layer1", "output"), fired, strict=True):
        wanted = torch.from_numpy(np.load(folder / f"gts/tinynet/{name}.npy")).permute(4, 0, 1, 2, 3)
        assert wanted.any() and equal(spikes_here.dense(), wanted[1:])


@needs_lava_dl
def test_pilotnet():
    """Spikes of all layers, and currents and potentials: a layer's recordings are as many steps late as it is deep.

    Where a neuron has fired, Loihi's register of its potential reads 128. It holds no potential then.
    """
    folder = vectors("tests/lava/lib/dl/netx/gts/pilotnet_lif")
    net = pk.from_lava(folder / "network.net")
    x = torch.from_numpy(np.load(folder / "image.npy").astype(np.float32)).permute(2, 1, 0).unsqueeze(0)
    names = ["input", *(f"conv-{k}" for k in range(5)), *(f"fc-{k}" for k in range(3))]
    layers = [name for name, layer, _ in net.layers() if isinstance(layer, pk.layers.Neurons)]
    result = pk.simulate(net, x, 16, record=layers[:9])
    for depth, (name, layer) in enumerate(zip(names, layers, strict=False)):
        recorded = np.load(folder / f"{name}.npy")
        wanted = (
            steps_first(recorded) if recorded.ndim == 4 else torch.from_numpy(recorded.T.astype(np.float32))[:, None]
        )
        fired = result.records[layer].dense()
        steps = min(16, len(wanted) - depth)
        assert wanted[depth : depth + steps].any() and equal(fired[:steps], wanted[depth : depth + steps])
        states = folder / f"{name}-u.npy", folder / f"{name}-v.npy"
        if steps < 16 or not all(path.is_file() and path.stat().st_size for path in states):  # of Git LFS
            continue
        u, v = (np.load(path)[..., depth + 15].astype(np.float32) for path in states)
        u, v = (torch.from_numpy(values.T if values.ndim > 1 else values)[None] for values in (u, v))
        (state,) = result.state[layer]
        assert v.any() and equal(state[:, 1], u) and equal(state[:, 0], torch.where(fired[-1] > 0, 0.0, v))


@needs_lava_dl
def test_oxford():
    """The first layer, of whose 256 neurons there are recordings."""
    folder = vectors("tutorials/lava/lib/dl/netx/oxford")
    net = pk.from_lava(folder / "Trained/network.net")
    x = torch.from_numpy(np.load(folder / "gts/in.npy").astype(np.float32)).t().unsqueeze(1)
    wanted = torch.from_numpy(np.load(folder / "gts/out.npy").astype(np.float32)).t().unsqueeze(1)
    result = pk.simulate(net, x.bool(), len(x), record=["layer0"])
    assert wanted.any() and equal(result.records["layer0"].dense()[:-1], wanted[1:])
