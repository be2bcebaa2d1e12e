"""Loops over time as people write them: the imported network's spikes are those of the original, to the bit."""

import pytest
import torch
from equality import equal
from torch import nn

import proxykernels as pk

snntorch = pytest.importorskip("snntorch")


class Loop(nn.Module):
    """Two layers; ``forward`` is a function of the module and all steps."""

    def __init__(self, forward, inputs: int = 20, **modules: nn.Module):
        super().__init__()
        self.steps = forward
        self.fc1, self.fc2 = nn.Linear(inputs, 30), nn.Linear(30, 10)
        self.lif1, self.lif2 = (snntorch.Leaky(beta, reset_mechanism="zero") for beta in (0.5, 0.75))
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.steps(self, x)


def dyadic(net: nn.Module) -> nn.Module:
    """Weights whose sums are exact, and on which the neurons fire."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(torch.randint(-10, 12, module.weight.shape) / 16)
                if module.bias is not None:
                    module.bias.copy_(torch.randint(-4, 5, module.bias.shape) / 16)
    return net.eval()


def run(m, steps, gathered, m1=None, m2=None, current=None):
    m1 = m.lif1.init_leaky() if m1 is None else m1
    m2 = m.lif2.init_leaky() if m2 is None else m2
    spikes = []
    for t, x in enumerate(steps):
        s, m1 = m.lif1(m.fc1(x), m1)
        s, m2 = m.lif2(m.fc2(s), m2)
        spikes.append((s, t))
    return gathered([s for s, _ in spikes])


def indexed(m, x):
    return run(m, [x[t, :, :] for t in range(x.shape[0])], torch.stack)


def selected(m, x):
    return run(m, [x.select(0, t) for t in range(x.shape[0])], lambda all: torch.cat([s[None] for s in all]))


def unbound(m, x):
    return run(m, x.unbind(0), lambda all: torch.stack(all).view(x.size(0), x.size(1), -1))


def of_zeros(m, x):
    N = x.shape[1]
    return run(m, x, torch.stack, torch.zeros(N, 30, device=x.device), x.new_zeros(N, 10))


def growing(m, x):
    m1, m2, out = m.lif1.init_leaky(), m.lif2.init_leaky(), None
    for step in x:
        s, m1 = m.lif1(m.fc1(step), m1)
        s, m2 = m.lif2(m.fc2(s), m2)
        out = s.unsqueeze(0) if out is None else torch.cat([out, s.unsqueeze(0)], 0)
    return out


def put(m, x):
    m1, m2, out = m.lif1.init_leaky(), m.lif2.init_leaky(), torch.zeros(x.size(0), x.size(1), 10)
    for t in range(x.size(0)):
        s, m1 = m.lif1(m.fc1(x[t]), m1)
        out[t], m2 = m.lif2(m.fc2(s), m2)
    return out


def recurrent(current):
    """A loop in which ``current(m, x, s)`` has the first layer's spikes of the step before."""

    def forward(m, x):
        m1, m2, s, spikes = m.lif1.init_leaky(), m.lif2.init_leaky(), torch.zeros(x.size(1), 30), []
        for step in x:
            s, m1 = m.lif1(current(m, step, s), m1)
            out, m2 = m.lif2(m.fc2(s), m2)
            spikes.append(out)
        return torch.stack(spikes)

    return forward


FORMS = {
    "indexed": lambda: Loop(indexed), "selected": lambda: Loop(selected), "unbound": lambda: Loop(unbound),
    "zeros": lambda: Loop(of_zeros), "growing": lambda: Loop(growing), "put into zeros": lambda: Loop(put),
    "own recurrence": lambda: Loop(recurrent(lambda m, x, s: m.fc1(x) + m.r(s)), r=nn.Linear(30, 30)),
    "recurrence through nothing": lambda: Loop(recurrent(lambda m, x, s: m.fc1(x) + s)),
    "recurrence beside the input": lambda: Loop(recurrent(lambda m, x, s: m.fc1(torch.cat([x, s], 1))), inputs=50),
    "recurrence in front of it": lambda: Loop(recurrent(lambda m, x, s: m.fc1(torch.cat([s, x], -1))), inputs=50),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_spikes_are_the_same(form):
    net = dyadic(FORMS[form]())
    ours = pk.from_snntorch(net)
    for T, N in ((40, 4), (7, 1)):
        x = (torch.rand(T, N, 20, generator=torch.Generator().manual_seed(T)) < 0.4).float()
        with torch.no_grad():
            expected = net(x)
        assert 0.02 < expected.mean() < 0.9
        assert equal(ours(x), expected)
        assert equal(pk.simulate(ours, x, T).spikes.dense(), expected)
        assert equal(pk.compile(ours, x)(x, T).spikes.dense(), expected)
        with pk.use_reference():
            assert equal(pk.simulate(ours, x, T).spikes.dense(), expected)


def test_steps_behind_the_samples():
    net = dyadic(Loop(lambda m, x: run(m, x.unbind(1), lambda all: torch.stack(all, 1))))
    ours, x = pk.from_snntorch(net), (torch.rand(12, 3, 20) < 0.4).float()
    with torch.no_grad():
        expected = net(x.transpose(0, 1).contiguous()).transpose(0, 1)
    assert expected.mean() > 0.02 and equal(ours(x), expected)


def test_a_maximum_over_time_is_the_callers():
    net = dyadic(Loop(lambda m, x: run(m, x, lambda all: torch.stack(all).max(0)[0])))
    ours, x = pk.from_snntorch(net), (torch.rand(2, 3, 20) < 0.4).float()
    with torch.no_grad():
        expected = net(x)
    assert 0 < expected.mean() < 1 and equal(ours(x).amax(0), expected)


def test_what_comes_back_is_compared(monkeypatch):
    from proxykernels.conversion.libraries import from_libraries

    built = from_libraries.build_recurrent

    def turned(module, neuron, weight, *more):
        return built(module, neuron, weight.t(), *more)

    monkeypatch.setattr(from_libraries, "build_recurrent", turned)
    with pytest.raises(ValueError, match="at step 1 .* of the currents that its neurons take differ"):
        pk.from_snntorch(dyadic(FORMS["own recurrence"]()))


def each_layer(m, x):
    m1, m2, spikes = m.lif1.init_leaky(), m.lif2.init_leaky(), []
    for t in range(4):
        s, m1 = m.lif1(m.layers[t](m.fc1(x)), m1)
        s, m2 = m.lif2(m.fc2(s), m2)
        spikes.append(s)
    return torch.stack(spikes)


def potentials(m, x):
    m1, m2, given = m.lif1.init_leaky(), m.lif2.init_leaky(), []
    for step in x:
        s, m1 = m.lif1(m.fc1(step), m1)
        s, m2 = m.lif2(m.fc2(s), m2)
        given.append(m2)
    return torch.stack(given)


REFUSED = {
    "through two layers": (
        lambda: Loop(recurrent(lambda m, x, s: m.fc1(x) + m.r(m.r(s))), r=nn.Linear(30, 30)),
        "'r' takes values|'r' is called twice|takes spikes of module 'lif1' of the step before; only a Linear or",
    ),
    "a layer for each step": (
        lambda: Loop(each_layer, layers=nn.ModuleList(nn.Linear(30, 30) for _ in range(4))),
        "calls 'layers.1' where step 0 calls 'layers.0'; only normalisations, gains and offsets may differ",
    ),
    "potentials": (
        lambda: Loop(potentials), r"returns the potentials of module 'lif2', .*record=\['lif2.v'\]",
    ),
    "behind the maximum": (
        lambda: Loop(lambda m, x: m.last(run(m, x, lambda all: torch.stack(all).max(0)[0])), last=nn.Linear(10, 4)),
        "'last' stands behind the maximum over time, which is left to the caller",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    make, message = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=message):
        pk.from_snntorch(dyadic(make()))
