"""Random networks as NIR graphs, there and back."""

import random

import numpy as np
import pytest
import torch
from cases import dyadic
from equality import equal
from oracle import step_loop
from torch import nn

import proxykernels as pk

nir = pytest.importorskip("nir")

T = 12


def random_network(seed: int) -> tuple[pk.Network, tuple[int, int, int]]:
    """Convolutions of every kind, shortcuts, pooling, neurons alone and fully connected layers, on a dyadic grid."""
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    net, shapes = pk.Network(), {"": (chance.choice([1, 2, 6]), chance.randint(5, 9), chance.randint(5, 9))}
    start = shapes[""]
    names = iter(random.Random(seed).sample(["a", "forward.", "b_if", "output", "x.y", "x_y", "c", "training"], 8))
    v_reset = chance.choice([0.0, -0.5, None] if "v_reset" in nir.IF.__dataclass_fields__ else [0.0, None])
    before = ""

    def by_channel(value: float, channels: int):
        """For some layers a value a channel."""
        return value + torch.arange(channels) / (8 * channels) if chance.random() < 0.3 else value

    def neuron(channels: int) -> pk.neurons.IFNeuron:
        theta = by_channel(chance.choice([1.0, 1.5, 2.0]), channels)
        make = chance.choice([pk.neurons.IFNeuron, pk.neurons.LIFNeuron, pk.neurons.CubaLIFNeuron])
        names = [name for name in ("decay", "current_decay") if name in make.names()]
        decays = {name: by_channel(chance.choice([0.5, 0.8, 0.875]), channels) for name in names}
        return make(theta, v_reset, **decays)

    def convolution(make, inputs: int, outputs: int, **options):
        kernel, groups = (chance.choice([1, 2, 3]), chance.choice([1, 3])), chance.choice([1, inputs])
        padding = chance.choice([0, 1, (1, 0), "valid"]) if kernel != (3, 3) else "same"
        dilation = (1, chance.choice([1, 2]))
        return make(
            inputs, outputs * groups, kernel, (1, chance.choice([1, 2])) if padding != "same" else 1, padding, dilation,
            groups, chance.random() < 0.7, **options,
        )  # fmt: skip

    for name in names:
        C, H, W = shapes[before]
        kind = chance.choice(["conv", "conv", "conv", "sum", "sum", "if", "pool", "end"])
        if kind == "end" or min(H, W) < 5:
            break
        if hasattr(net, name.replace(".", "_")):
            continue
        name = name.replace(".", "_")
        sources = (before,)
        if kind == "conv":
            layer = convolution(pk.FusedIFConv2d, C, 2, batch_norm=chance.random() < 0.3)
            layer._set_neurons(neuron(layer.out_channels))
        elif kind == "sum" and before:
            other = nn.Conv2d(C, C, 1, bias=False) if chance.random() < 0.5 else nn.Identity()
            layer, sources = pk.FusedSum(nn.Conv2d(C, C, 3, padding=1), other, neuron=neuron(C)), (before, before)
        elif kind == "pool" and before:
            layer = pk.AvgPool2d(2, chance.choice([1, 2]), chance.choice([0, 1]))
        else:
            layer = pk.Population(neuron(C))
        net.append(name, layer, sources)
        parts = tuple(torch.zeros(1, 1, *shapes[source]) for source in sources)
        shapes[name], before = tuple(layer(parts if len(parts) > 1 else parts[0]).shape[2:]), name
    net.append("flat", pk.Flatten(), (before,))
    features = int(np.prod(shapes[before]))
    net.append("fc", pk.FusedLinear(features, 5, chance.random() < 0.5, neuron=neuron(5)), ("flat",))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                span = 24 if isinstance(module, nn.Conv2d) else 8
                module.weight.copy_(dyadic(*module.weight.shape, generator=generator, span=span, unit=1 / 64) + 1 / 16)
                if module.bias is not None:
                    module.bias.copy_(dyadic(*module.bias.shape, generator=generator, span=4) + 1 / 8)
            elif isinstance(module, nn.BatchNorm2d):
                module.eps = 0.5
                module.running_var.fill_(3.5)  # 4 with eps: its folding is exact then
                module.bias.fill_(0.25)
    return net.eval(), start


@pytest.mark.slow
def test_random_graphs_there_and_back(tmp_path):
    """Bit-equal, also with the nodes and edges in another order, and through a file; half of them at the oracle too."""
    fired = 0
    for seed in range(24):
        net, shape = random_network(seed)
        generator = torch.Generator().manual_seed(seed)
        x = dyadic(2, *shape, generator=generator).abs()
        expected = pk.simulate(net, x, T)
        built = pk.to_nir(net, shape)
        shuffled = random.Random(seed)
        built.nodes = dict(shuffled.sample([*built.nodes.items()], len(built.nodes)))
        built.edges = shuffled.sample(built.edges, len(built.edges))
        if seed % 4 == 0:
            nir.write(tmp_path / "net.nir", built)
            built = tmp_path / "net.nir"
        back = pk.from_nir(built)
        again = pk.from_nir(pk.to_nir(back, shape))
        for other in (back, again):
            assert equal(pk.simulate(other, x, T).spikes.dense(), expected.spikes.dense()), f"seed {seed}"
        if seed % 2:
            assert equal(step_loop(back, x, T)[back.layers()[-1][0]], expected.spikes.dense()), f"seed {seed}"
        fired += 0.01 < expected.spikes.rate() < 0.99
    assert fired >= 18  # nearly all fire, and not at every step
