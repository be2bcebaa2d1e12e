"""``lengths=`` on a GPU that is not there: samples that each stop at their own end, equal to those of a CPU."""

import pytest
import torch
from cases import dyadic
from equality import equal
from torch import nn

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from pretend_gpu import pretend_gpu

import proxykernels as pk

pytestmark = [
    pytest.mark.triton,
    pytest.mark.usefixtures("kernels_can_run"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU where there is one"),
]

T, LENGTHS = 70, [33, 70, 5]


def network(kind: str) -> nn.Sequential:
    """A network whose sums are exact in float32."""
    lif = {"decay": 0.5, "v_threshold": 0.25}
    layers = {
        "spikes": lambda: [pk.FusedLIFLinear(6, 8, **lif), pk.FusedLIFLinear(8, 5, **lif)],
        "readout": lambda: [pk.FusedLIFLinear(6, 8, **lif), pk.FusedLILinear(8, 5, decay=0.5)],
        "delay": lambda: [pk.Delay(2), pk.FusedLIFLinear(6, 5, **lif)],
        "recurrent": lambda: [
            pk.FusedRecurrentLinear(6, 8, neuron=pk.neurons.LIFNeuron(**lif)), pk.FusedLIFLinear(8, 5, **lif)
        ],
        "convolution": lambda: [
            pk.Unflatten((1, 2, 3)), pk.FusedIFConv2d(1, 4, 3, padding=1), pk.Flatten(), pk.FusedIFLinear(24, 5)
        ],
    }[kind]()  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(*layers)
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator) + 0.125
    return net.eval()


@pytest.mark.costly
@pytest.mark.parametrize("kind", ["spikes", "readout", "delay", "recurrent", "convolution"])
def test_results_are_those_of_a_cpu(monkeypatch, generator, kind):
    x = torch.rand(T, 3, 6, generator=generator) < 0.3
    expected = pk.simulate(network(kind), pk.pack(x), T, lengths=LENGTHS)
    readout = isinstance(expected.output, torch.Tensor)
    with pretend_gpu(monkeypatch) as card:
        found = pk.simulate(card.moved(network(kind)), card.on_card(x), T, lengths=LENGTHS)
        output = (found.potentials if readout else found.spikes.dense()).host
        steps, rates, synops = found.steps.host, found.rates, found.synops
        states = {name: [v.host for v in state] for name, state in found.state.items()}
    assert equal(output, expected.potentials if readout else expected.spikes.dense())
    assert steps.tolist() == LENGTHS and all(output[:end, n].any() for n, end in enumerate(LENGTHS))
    assert rates == pytest.approx(expected.rates) and synops == expected.synops
    for name, state in expected.state.items():
        assert all(equal(v, w) for v, w in zip(states[name], state, strict=True))


@pytest.mark.costly
def test_networks_of_sigma_delta_neurons(monkeypatch, generator):
    torch.manual_seed(0)
    ann, images = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)).eval(), torch.rand(3, 6)
    net, lengths = pk.convert(ann, images, neuron="sigma-delta"), [3, 9, 1]
    expected = pk.simulate(net, images, 9, lengths=lengths)
    with pretend_gpu(monkeypatch) as card:
        found = pk.simulate(card.moved(net), card.on_card(images), 9, lengths=lengths)
        output, steps = found.potentials.host, found.steps.host
    assert steps.tolist() == lengths and torch.allclose(output, expected.potentials, atol=1e-5)
    assert all(equal(output[end:, n], output[end - 1, n].expand_as(output[end:, n])) for n, end in enumerate(lengths))
