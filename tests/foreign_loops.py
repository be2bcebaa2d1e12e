"""Forward passes of snnTorch networks that loop over their steps: ``RIGHT`` must be imported and equal; of ``OTHERS``
each is refused, or imported and equal. Names say what is unusual.

Each is a function of a network with ``fc1``, ``lif1``, ``fc2``, ``lif2`` and of its input x, [T, N, 12] if not said
otherwise, and gives spikes [T, N, 8] or what it makes of them.
"""

import itertools

import torch

HELD = 12  # steps of loops that repeat their input


def start(net, x):
    return net.lif1.init_leaky(), net.lif2.init_leaky()


def made(shape, make=torch.zeros, **options):
    """Potentials start from values that the forward pass makes."""
    return lambda net, x: (make(shape(x, 16), **options), torch.zeros(shape(x, 8), **options))


def step(net, x, mem1, mem2):
    spk1, mem1 = net.lif1(net.fc1(x), mem1)
    spk2, mem2 = net.lif2(net.fc2(spk1), mem2)
    return spk2, mem1, mem2


def over(values, end=torch.stack, before=None, after=None, begin=start, change=None):
    """A loop whose steps take what ``values(x)`` gives; ``before(net, x, t)`` changes that, ``after`` the spikes, and
    ``change(net, t, mem1, mem2)`` the potentials before a step."""

    def forward(net, x):
        (mem1, mem2), out = begin(net, x), []
        for t, now in enumerate(values(x)):
            if change:
                mem1, mem2 = change(net, t, mem1, mem2)
            spk, mem1, mem2 = step(net, before(net, now, t) if before else now, mem1, mem2)
            out.append(after(spk, t) if after else spk)
        return end(out)

    return forward


def indexed(index, end=torch.stack):
    return over(lambda x: [x[index(t, x)] for t in range(x.size(0))], end)


def itself(x):
    return [x[t] for t in range(x.size(0))]


def again(x):
    """x is [N, 12]."""
    return [x] * HELD


def while_loop(net, x):
    (mem1, mem2), out, t = start(net, x), [], 0
    while t < len(x):
        spk, mem1, mem2 = step(net, x[t], mem1, mem2)
        out.append(spk)
        t += 1
    return torch.stack(out)


def with_reset(when, which=(True, True)):
    def change(net, t, *mems):
        fresh = start(net, None)
        return [new if chosen and when(t) else old for new, old, chosen in zip(fresh, mems, which, strict=True)]

    return over(itself, change=change)


def with_attribute(layer, name, first, then, at):
    """Another value from step ``at`` on."""

    def before(net, x, t):
        setattr(getattr(net, layer), name, torch.tensor(first if t < at else then))
        return x

    return over(itself, before=before)


def leaving(when, end=torch.stack):
    """A loop with a break."""

    def forward(net, x):
        (mem1, mem2), out = start(net, x), []
        for t in range(x.size(0)):
            if when(t):
                break
            spk, mem1, mem2 = step(net, x[t], mem1, mem2)
            out.append(spk)
        return end(out)

    return forward


def skipping(when, appends=False):
    """A loop with continue: the step is left out, or its input is."""

    def forward(net, x):
        (mem1, mem2), out = start(net, x), []
        for t in range(x.size(0)):
            if when(t):
                if appends and out:
                    out.append(out[-1])
                continue
            spk, mem1, mem2 = step(net, x[t], mem1, mem2)
            out.append(spk)
        return torch.stack(out)

    return forward


def noting(when):
    """Each step runs, and some are noted."""

    def forward(net, x):
        (mem1, mem2), out = start(net, x), []
        for t in range(x.size(0)):
            spk, mem1, mem2 = step(net, x[t], mem1, mem2)
            if when(t):
                out.append(spk)
        return torch.stack(out)

    return forward


def early_return(net, x):
    (mem1, mem2), out = start(net, x), []
    for t in range(x.size(0)):
        spk, mem1, mem2 = step(net, x[t], mem1, mem2)
        out.append(spk)
        if t == 24:
            return torch.stack(out)
    return torch.stack(out)


def layer_of_t(net, x):
    (mem1, mem2), out = start(net, x), []
    for t in range(x.size(0)):
        layer = net.fc1 if t < 18 else net.other
        spk1, mem1 = net.lif1(layer(x[t]), mem1)
        spk2, mem2 = net.lif2(net.fc2(spk1), mem2)
        out.append(spk2)
    return torch.stack(out)


def chunked(net, x):
    """Potentials start anew every 16 steps."""
    out = []
    for first in range(0, len(x), 16):
        mem1, mem2 = start(net, x)
        for t in range(first, min(first + 16, len(x))):
            spk, mem1, mem2 = step(net, x[t], mem1, mem2)
            out.append(spk)
    return torch.stack(out)


def layer_by_layer(net, x):
    mem1, mem2 = start(net, x)
    first, out = [], []
    for t in range(x.size(0)):
        spk, mem1 = net.lif1(net.fc1(x[t]), mem1)
        first.append(spk)
    for t in range(x.size(0)):
        spk, mem2 = net.lif2(net.fc2(first[t]), mem2)
        out.append(spk)
    return torch.stack(out)


def layer_by_layer_backwards(net, x):
    mem1, mem2 = start(net, x)
    first, out = [], []
    for t in range(x.size(0)):
        spk, mem1 = net.lif1(net.fc1(x[t]), mem1)
        first.insert(0, spk)
    for spk in first:
        spk, mem2 = net.lif2(net.fc2(spk), mem2)
        out.append(spk)
    return torch.stack(out)


def pipelined(net, x):
    """The second layer takes what the first one has fired in the step before."""
    (mem1, mem2), out, last = start(net, x), [], torch.zeros(x.size(1), 16)
    for t in range(x.size(0)):
        spk2, mem2 = net.lif2(net.fc2(last), mem2)
        last, mem1 = net.lif1(net.fc1(x[t]), mem1)
        out.append(spk2)
    return torch.stack(out)


def adding(weight, begin=0.0, keep=1.0, divide=None):
    """Steps are added up, with weights."""

    def forward(net, x):
        (mem1, mem2), total = start(net, x), begin
        for t in range(x.size(0)):
            spk, mem1, mem2 = step(net, x[t], mem1, mem2)
            w = weight(t, x)
            spk = spk if w == 1 else spk * w
            total = (total if keep == 1 else total * keep) + spk
        return total if divide is None else total / divide(x)

    return forward


def own_number(index, end=torch.stack):
    """Its number of steps is its own, whatever the input has."""
    return over(lambda x: [x[index(t)] for t in range(HELD)], end)


def with_potentials(net, x):
    (mem1, mem2), out, potentials = start(net, x), [], []
    for t in range(x.size(0)):
        spk, mem1, mem2 = step(net, x[t], mem1, mem2)
        out.append(spk)
        potentials.append(mem2)
    return torch.stack(out), torch.stack(potentials)


def both_layers(net, x):
    (mem1, mem2), first, out = start(net, x), [], []
    for t in range(x.size(0)):
        spk1, mem1 = net.lif1(net.fc1(x[t]), mem1)
        spk2, mem2 = net.lif2(net.fc2(spk1), mem2)
        first.append(spk1)
        out.append(spk2)
    return torch.stack(out), torch.stack(first)


RIGHT = {
    "range": indexed(lambda t, x: t),
    "enumerate": over(lambda x: x),
    "while": while_loop,
    "shape": over(lambda x: [x[t] for t in range(x.shape[0])]),
    "len": over(lambda x: [x[t] for t in range(len(x))]),
    "unbind": over(lambda x: list(x)),
    "mean": indexed(lambda t, x: t, lambda out: torch.stack(out).mean(0)),
    "sum": indexed(lambda t, x: t, lambda out: torch.stack(out).sum(dim=0)),
    "sum of a list": indexed(lambda t, x: t, sum),
    "added": adding(lambda t, x: 1),
    "added and divided": adding(lambda t, x: 1, divide=len),
    "layer by layer": layer_by_layer,
    "potentials too": with_potentials,
    "both layers": both_layers,
    "scaled": over(itself, before=lambda net, x, t: x * 0.5),
    "no reset that counts": with_reset(lambda t: t == 0),
    "zeros of two numbers": over(itself, begin=made(lambda x, C: (x.size(1), C))),
    "zeros of a shape": over(itself, begin=made(lambda x, C: (x.shape[1], C))),
    "zeros on a device": over(itself, begin=made(lambda x, C: (x.shape[1], C), device="cpu")),
    "zeros for a held input": over(again, begin=made(lambda x, C: (x.size(0), C))),
    "held": over(again),
    "held, counted": over(again, sum),
    "its own number": own_number(lambda t: t),
    "samples first": over(
        lambda x: [x[:, t] for t in range(x.size(1))], lambda out: torch.stack(out, dim=1)
    ),  # x is [N, T, 12]
}
WHENS = {
    "every 10 steps": lambda t: t % 10 == 0 and t > 0,
    "once": lambda t: t == 17,
    "after 100": lambda t: t == 100,
    "at some": lambda t: t in (5, 23, 31),
    "from 20 on": lambda t: t >= 20,
    "at every 7th": lambda t: t % 7 == 6,
}
INDICES = {
    "halved": lambda t, x: t // 2,
    "backwards": lambda t, x: len(x) - 1 - t,
    "backwards by minus": lambda t, x: -1 - t,
    "modulo 10": lambda t, x: t % 10,
    "the first 20": lambda t, x: min(t, 20),
    "the first alone": lambda t, x: 0,
    "two exchanged": lambda t, x: {11: 12, 12: 11}.get(t, t),
    "of before, once": lambda t, x: t - (t == 25),
    "shuffled late": lambda t, x: t if t < 35 else 35 + (t - 35) // 2,
}
FACTORS = {
    "doubled from 20 on": lambda net, x, t: x * 2 if t >= 20 else x,
    "silenced from 20 on": lambda net, x, t: x * 0 if t >= 20 else x,
    "silenced from 90 on": lambda net, x, t: x * 0 if t >= 90 else x,
    "growing": lambda net, x, t: x * (1 + t // 16),
    "at odd steps of late": lambda net, x, t: x * 0.5 if t > 8 and t % 2 else x,
}
ENDS = {
    "the last 10": lambda out: torch.stack(out[-10:]),
    "all but 5": lambda out: torch.stack(out[5:]),
    "every second": lambda out: torch.stack(out[::2]),
    "backwards": lambda out: torch.stack(out[::-1]),
    "the first 20 added": lambda out: sum(out[:20]),
    "the last 10's mean": lambda out: torch.stack(out[-10:]).mean(0),
    "the first 50": lambda out: torch.stack(out[:50]),
    "the first": lambda out: out[0],
    "the 20th or the last": lambda out: out[min(len(out) - 1, 20)],
    "sum of 10": lambda out: torch.stack(out[:10]).sum(0),
    "the last two added": lambda out: out[-1] + out[-2],
    "islice": lambda out: torch.stack(list(itertools.islice(out, 15))),
}
OTHERS = {
    **{f"reset {name}": with_reset(when) for name, when in WHENS.items()},
    "reset of one layer": with_reset(WHENS["every 10 steps"], (True, False)),
    "reset of the other": with_reset(WHENS["every 10 steps"], (False, True)),
    **{f"break {name}": leaving(when) for name, when in WHENS.items()},
    "break, added": leaving(WHENS["from 20 on"], sum),
    **{f"continue {name}": skipping(when) for name, when in WHENS.items()},
    "continue and repeat": skipping(WHENS["at some"], appends=True),
    "noted from 15 on": noting(lambda t: t >= 15),
    "noted every second": noting(lambda t: t % 2 == 0),
    "noted until 30": noting(lambda t: t < 30),
    "early return": early_return,
    **{f"x {name}": indexed(index) for name, index in INDICES.items()},
    "x halved, added": indexed(INDICES["halved"], sum),
    **{f"x {name}": over(itself, before=before) for name, before in FACTORS.items()},
    "x by len": over(lambda x: [x[t] * 10 / len(x) for t in range(x.size(0))]),
    **{f"returns {name}": indexed(lambda t, x: t, end) for name, end in ENDS.items()},
    "zip with range(10)": over(lambda x: [now for now, _ in zip(x, range(10), strict=False)]),
    "zip with backwards": over(lambda x: [b for _, b in zip(x, reversed(list(x)), strict=True)]),
    "zip of neighbours": over(lambda x: [b - a for a, b in itertools.pairwise(list(x))]),
    "islice": over(lambda x: list(itertools.islice(x, 12))),
    "chain of itself": over(lambda x: list(itertools.chain(x, x))),
    "every second": over(lambda x: list(x)[::2]),
    "reversed": over(lambda x: list(reversed(list(x)))),
    "half of them": over(lambda x: [x[t] for t in range(len(x) // 2)]),
    "all but one": over(lambda x: [x[t] for t in range(1, len(x))]),
    "at most 60": over(lambda x: [x[t] for t in range(min(len(x), 60))]),
    "threshold by t": with_attribute("lif1", "threshold", 1.0, 2.5, 20),
    "decay by t": with_attribute("lif2", "beta", 0.75, 0.25, 30),
    "layer by t": layer_of_t,
    "charged at 33": over(itself, change=lambda net, t, a, b: (a, b + 0.5 if t == 33 else b)),
    "leaking every 16": over(itself, change=lambda net, t, a, b: (a * 0.5 if t and t % 16 == 0 else a, b)),
    "each twice": over(lambda x: [now for now in itself(x) for _ in range(2)]),
    "chunks": chunked,
    "layer by layer, backwards": layer_by_layer_backwards,
    "pipelined": pipelined,
    "last alone": over(itself, lambda out: out[-1]),
    "added with weights by t": adding(lambda t, x: 1 + t // 8),
    "added until 20": adding(lambda t, x: 1 if t < 20 else 0),
    "added and leaking": adding(lambda t, x: 1, keep=0.5),
    "added, begun with 1": adding(lambda t, x: 1, begin=1.0),
    "added and divided by 3": adding(lambda t, x: 1, divide=lambda x: 3),
    "the last 5 added": adding(lambda t, x: 1 if t >= len(x) - 5 else 0),
    "spikes by t": over(itself, after=lambda spk, t: spk if t < 20 else spk * 0.5),
    "spikes silenced late": over(itself, after=lambda spk, t: spk if t < 60 else torch.zeros_like(spk)),
    "ones for a start": over(itself, begin=made(lambda x, C: (x.size(1), C), torch.ones)),
    "held, halved from 6 on": over(again, before=lambda net, x, t: x if t < 6 else x * 0.5),
    "held, its last 5": over(again, lambda out: torch.stack(out[-5:])),
    "held, its first 5 added": over(again, lambda out: sum(out[:5])),
    "its own number, halved": own_number(lambda t: t // 2),
    "its own number, backwards": own_number(lambda t: HELD - 1 - t),
    "its own number, its last 5": own_number(lambda t: t, lambda out: torch.stack(out[-5:])),
}
