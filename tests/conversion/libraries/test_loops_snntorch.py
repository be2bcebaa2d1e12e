"""Loops over steps as snnTorch's tutorials write them: the same spikes bit by bit, where sums are exact in float32."""

import pytest
import torch
import torch.nn.functional as F
from cases import dyadic
from equality import equal
from exchange import images, make_dyadic
from torch import nn

import proxykernels as pk

T = 8


class Tutorial(nn.Module):
    """Convolutions whose currents are pooled, and a loop with the potentials in its hands; tutorials 5 and 6."""

    def __init__(self, snn, forward, kind: str = "Leaky", **options):
        super().__init__()
        options = {"beta": 0.5, "reset_mechanism": "zero", **options}
        self.conv1, self.lif1 = nn.Conv2d(2, 6, 3), getattr(snn, kind)(**options)
        self.fc, self.lif2, self.steps = nn.Linear(54, 10), getattr(snn, kind)(**options), forward

    def forward(self, x):
        return self.steps(self, x)


def loop(net, x, steps: int = T, held: bool = True):
    mem1, mem2, spikes, potentials = net.lif1.init_leaky(), net.lif2.init_leaky(), [], []
    for step in range(steps):
        spk1, mem1 = net.lif1(F.max_pool2d(net.conv1(x if held else x[step]), 2), mem1)
        spk2, mem2 = net.lif2(net.fc(spk1.view(spk1.size(0), -1)), mem2)
        spikes.append(spk2)
        potentials.append(mem2)
    return torch.stack(spikes, dim=0), torch.stack(potentials)


def with_two_states(net, x):
    (syn1, mem1), (syn2, mem2), spikes = net.lif1.init_synaptic(), net.lif2.init_synaptic(), []
    for _ in range(T):
        spk1, syn1, mem1 = net.lif1(F.max_pool2d(net.conv1(x), 2), syn1, mem1)
        spk2, syn2, mem2 = net.lif2(net.fc(spk1.flatten(1)), syn2, mem2)
        spikes.append(spk2)
    return torch.stack(spikes)


def with_hidden_states(net, x):
    return torch.stack([net.lif2(net.fc(net.lif1(F.max_pool2d(net.conv1(x), 2)).flatten(1))) for _ in range(T)])


LOOPS = {
    "tutorial": (loop, "Leaky", {}),
    "two states": (with_two_states, "Synaptic", {"alpha": 0.5, "reset_delay": False}),
    "hidden states": (with_hidden_states, "Leaky", {"init_hidden": True}),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_of_snntorch(generator, name):
    snn = pytest.importorskip("snntorch")
    forward, kind, options = LOOPS[name]
    net, x = make_dyadic(Tutorial(snn, forward, kind, **options), generator), images(generator)
    expected = net(x)
    expected = expected[0] if isinstance(expected, tuple) else expected
    if name == "hidden states":
        from snntorch import utils

        utils.reset(net)
    actual = pk.simulate(pk.from_snntorch(net), x, T).spikes.dense()
    assert 0.02 < expected.mean() < 0.98 and equal(actual, expected)


def test_loops_over_sequences_and_means(generator):
    snn = pytest.importorskip("snntorch")
    net = make_dyadic(Tutorial(snn, lambda net, x: loop(net, x, held=False)[0].sum(0)), generator)
    x = dyadic(T, 3, 2, 8, 8, generator=generator).abs()
    expected = net(x)
    count = pk.simulate(pk.from_snntorch(net), x, T).count()
    assert expected.mean() > 0.1 and equal(count.float(), expected)


def test_one_step_with_potentials(generator):
    snn = pytest.importorskip("snntorch")

    def step(net, x):
        spk1, _ = net.lif1(F.max_pool2d(net.conv1(x), 2), net.lif1.init_leaky())
        return net.lif2(net.fc(spk1.flatten(1)), net.lif2.init_leaky())

    net, x = make_dyadic(Tutorial(snn, step), generator), images(generator)
    looped = make_dyadic(Tutorial(snn, loop), torch.Generator().manual_seed(1))
    looped.load_state_dict(net.state_dict())
    expected = looped(x)[0]
    actual = pk.simulate(pk.from_snntorch(net), x, T).spikes.dense()
    assert 0.02 < expected.mean() < 0.98 and equal(actual, expected)


def other_steps(net, x):
    spikes, mem1, mem2 = [], net.lif1.init_leaky(), net.lif2.init_leaky()
    for step in range(T):
        spk1, mem1 = net.lif1(F.max_pool2d(net.conv1(x), 2), mem1)
        current = net.fc(spk1.flatten(1))
        spk2, mem2 = net.lif2(current if step % 2 else current + current, mem2)
        spikes.append(spk2)
    return torch.stack(spikes)


def other_potentials(net, x):
    spikes, mem1, mem2 = [], net.lif1.init_leaky(), net.lif2.init_leaky()
    for _ in range(T):
        spk1, mem1 = net.lif1(F.max_pool2d(net.conv1(x), 2), mem1)
        spk2, _ = net.lif2(net.fc(spk1.flatten(1)), mem2)
        spikes.append(spk2)
    return torch.stack(spikes)


def charged(net, x):
    spk1, _ = net.lif1(F.max_pool2d(net.conv1(x), 2), torch.full((1,), 0.5))
    return net.lif2(net.fc(spk1.flatten(1)), net.lif2.init_leaky())[0]


ONE_STEP = r"; (or )?write one step in a module of its own: a forward that calls the layers once, shortcuts too"
REFUSED = {
    "steps that differ": (other_steps, f"Tutorial: step 1 of its forward .* than step 0{ONE_STEP}"),
    "potentials that stay": (other_potentials, f"Tutorial: step 1 of its forward .* than step 0{ONE_STEP}"),
    "charged": (charged, "Tutorial: module 'lif1' starts from a potential of its own; .*, or write one step"),
    "potentials alone": (lambda net, x: loop(net, x)[1], f"must return the spikes of its last neurons, .*{ONE_STEP}"),
    "as long as a part of its input": (
        lambda net, x: torch.stack([net.lif2(net.fc(x[step]))[0] for step in range(x.size(0) - 1)]),
        f"torch.fx cannot follow the forward pass of Tutorial.*{ONE_STEP}",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_loops_that_are_refused(name):
    forward, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        pk.from_snntorch(Tutorial(pytest.importorskip("snntorch"), forward))
