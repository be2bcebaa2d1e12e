"""Graphs of every shape: what is carried on as real values, put side by side, enlarged or used twice. The converted
network's rates become the ReLU network's outputs as T grows."""

import layerwise
import pytest
import torch
import torch.nn.functional as F
from cases import many
from oracle import step_loop
from torch import nn

import proxykernels as pk


def images(N: int = 4) -> torch.Tensor:
    return torch.rand(N, 2, 8, 8, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    """Modules by letters, and what the forward pass does with them."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.steps = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.steps(self, x)


def conv(inputs=2, outputs=3, kernel=3, **options):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def norm(channels=3):
    torch.manual_seed(2)
    bn = nn.BatchNorm2d(channels)
    bn.running_mean.normal_(0, 0.2), bn.running_var.uniform_(0.5, 2), bn.weight.data.uniform_(0.5, 2)
    bn.bias.data.uniform_(0, 0.5)
    return bn


def twice(m, x):
    y = m.a(x)
    return m.b(y.relu()) + y


def bottlenecks(m, x):
    y = m.b(m.a(x).relu())
    y = y + m.d(F.relu6(m.c(y)))
    return m.f((y + m.e(y)).relu())


def unet(m, x):
    first = m.a(x).relu()
    deep = m.b(F.max_pool2d(first, 2)).relu()
    return m.d(torch.cat([m.c(deep), first], 1)).relu()


def shuffled(m, x):
    """A block of ShuffleNet v2, and its channels split unevenly, twice, and in part."""
    first, second = m.a(x).relu().chunk(2, dim=1)
    y = torch.cat([first, m.b(second).relu()], 1)
    N, C, height, width = y.size()
    y = y.view(N, 2, C // 2, height, width).transpose(1, 2).contiguous().view(N, C, height, width)
    one, _, other = y.split([3, 2, 3], dim=1)
    return m.c(torch.cat([other, one, y[:, ::4]], 1)).relu()


def dense(m, x):
    first = m.a(x).relu()
    second = m.b(first).relu()
    return m.c(torch.cat([first, second], dim=1)).relu()


ZOO = {
    "sum and neurons": lambda: Model(twice, a=conv(), b=conv(3)),
    "with and without norm": lambda: Model(
        lambda m, x: (lambda y: m.b(m.n(y).relu()) + m.c(F.relu(y)))(m.a(x)), a=conv(), b=conv(3), c=conv(3), n=norm()
    ),
    "with itself": lambda: Model(lambda m, x: (lambda y: (y + y).relu())(m.a(x)), a=conv()),
    "bottlenecks": lambda: Model(
        bottlenecks, a=conv(2, 8), b=conv(8, 3, 1), c=conv(3, 8, 1), d=conv(8, 3, 1), e=conv(3, 3), f=conv(3, 4)
    ),
    "two linear layers": lambda: nn.Sequential(
        conv(), nn.ReLU(), nn.Flatten(), nn.Linear(192, 7), nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 5)
    ),
    "average of currents": lambda: nn.Sequential(conv(), nn.AvgPool2d(2), nn.ReLU(), conv(3)),
    "norm first": lambda: nn.Sequential(norm(2), conv(), nn.ReLU(), conv(3)),
    "norm behind neurons": lambda: nn.Sequential(conv(), nn.ReLU(), norm(), conv(3), nn.ReLU()),
    "norm behind norm": lambda: nn.Sequential(conv(), norm(), norm(), nn.ReLU()),
    "relu of the input": lambda: nn.Sequential(nn.ReLU(), conv()),
    "input shortcut": lambda: Model(lambda m, x: m.b((m.a(x) + x).relu()), a=conv(2, 2), b=conv(2)),
    "ends in averages": lambda: nn.Sequential(conv(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "ceil mode": lambda: nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), conv(3)),
    "zeros around": lambda: nn.Sequential(conv(), nn.ReLU(), nn.ZeroPad2d((1, 2, 0, 1)), conv(3)),
    "zeros by function": lambda: Model(lambda m, x: m.b(F.pad(m.a(x).relu(), (1, 0, 2, 1))), a=conv(), b=conv(3)),
    "nearest": lambda: nn.Sequential(conv(), nn.ReLU(), nn.Upsample(scale_factor=2), conv(3), nn.ReLU()),
    "bilinear": lambda: Model(
        lambda m, x: m.b(F.interpolate(m.a(x).relu(), size=(11, 13), mode="bilinear")), a=conv(), b=conv(3)
    ),
    "transposed": lambda: nn.Sequential(
        conv(2, 4), nn.ReLU(), nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), nn.ReLU(), conv(6)
    ),
    "u-net": lambda: Model(unet, a=conv(2, 4), b=conv(4, 5), c=nn.ConvTranspose2d(5, 4, 2, 2), d=conv(8)),
    "dense block": lambda: Model(dense, a=conv(), b=conv(3), c=conv(6)),
    "real beside spikes": lambda: Model(lambda m, x: m.b(torch.cat([m.a(x).relu(), x], 1)).relu(), a=conv(), b=conv(5)),
    "called twice": lambda: Model(lambda m, x: m.a(m.a(x).relu()).relu(), a=conv(2, 2)),
    "weights of functions": lambda: Model(
        lambda m, x: F.linear(F.conv2d(x, m.a.weight, m.a.bias, padding=1).relu().flatten(1), m.b.weight),
        a=conv(),
        b=nn.Linear(192, 4),
    ),
    "shuffled channels": lambda: Model(shuffled, a=conv(2, 8), b=conv(4, 4), c=conv(8)),
    "nothing moved": lambda: Model(
        lambda m, x: m.b(m.a(x).contiguous().view(-1, 3, 8, 8).relu().permute(0, 1, 2, 3)[:]), a=conv(), b=conv(3)
    ),
    "parts of currents": lambda: Model(
        lambda m, x: (lambda parts: m.b(parts[0].relu() + parts[1]))(m.a(x).chunk(2, 1)), a=conv(2, 6), b=conv(3)
    ),
    "pixel shuffle": lambda: Model(lambda m, x: m.b(m.s(m.a(x).relu())), a=conv(2, 8), b=conv(2), s=nn.PixelShuffle(2)),
    "slices of the image": lambda: Model(
        lambda m, x: m.b(torch.cat([x[:, :, ::2, ::2], m.a(x).relu()[..., 1::2, 1::2]], 1)), a=conv(), b=conv(5)
    ),
    "axes swapped": lambda: Model(lambda m, x: m.b(m.a(x).relu().transpose(2, 3)), a=conv(), b=nn.Conv2d(3, 3, (3, 1))),
    "features as images": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(128, 48), nn.ReLU(), nn.Unflatten(1, (3, 4, 4)), nn.ConvTranspose2d(3, 2, 2, 2)
    ),
    "there and back": lambda: Model(
        lambda m, x: m.b(m.a(x).relu().view(x.shape[0], 3, -1).flip(2).reshape(-1, 3, 8, 8)), a=conv(), b=conv(3)
    ),
    "row of features": lambda: Model(
        lambda m, x: m.c(m.b(m.a(x).relu().mean((2, 3)).unsqueeze(1)).relu()).squeeze(1),
        a=conv(),
        b=nn.Linear(3, 7),
        c=nn.Linear(7, 4),
    ),
    "leaky": lambda: nn.Sequential(conv(), nn.LeakyReLU(0.2), conv(3), nn.PReLU(3, 0.3), conv(3), nn.ReLU()),
    "leaky by function": lambda: Model(lambda m, x: m.b(F.leaky_relu(m.a(x), 0.1)), a=conv(), b=conv(3)),
    "normalised by numbers": lambda: Model(
        lambda m, x: m.b(2 * m.a((x - 0.4) / 0.5 + 0.1).relu() - 0.1).relu(), a=conv(), b=conv(3)
    ),
    "differences": lambda: Model(
        lambda m, x: x.flip(1) - m.c((m.a(x) - m.b(x).relu()).relu()), a=conv(), b=conv(), c=conv(3, 2)
    ),
    "norm behind max pooling": lambda: nn.Sequential(conv(), nn.MaxPool2d(2), norm(), nn.ReLU(), conv(3)),
    "maximum of averages": lambda: nn.Sequential(conv(), nn.ReLU(), nn.AvgPool2d(2), nn.MaxPool2d(2), conv(3)),
    "maximum of the image": lambda: nn.Sequential(
        conv(), nn.ReLU(), nn.AdaptiveMaxPool2d((2, 1)), nn.Flatten(), nn.Linear(6, 5)
    ),
    "sigmoid": lambda: nn.Sequential(conv(), nn.ReLU(), nn.Flatten(), nn.Linear(192, 3), nn.Sigmoid()),
    "softmax": lambda: nn.Sequential(conv(), nn.ReLU(), nn.Flatten(), nn.Linear(192, 3), nn.Softmax(1)),
}


@pytest.fixture(params=many(ZOO))
def ann(request):
    torch.manual_seed(0)
    return ZOO[request.param]().eval()


def outputs(ann: nn.Module, x: torch.Tensor) -> torch.Tensor:
    ends = isinstance(ann, nn.Sequential) and isinstance(ann[-1], nn.Softmax | nn.Sigmoid)
    logits = nn.Sequential(*ann[:-1]) if ends else ann
    with torch.no_grad():
        return logits(x)


def test_rates_become_the_outputs(ann):
    x = images()
    expected = outputs(ann, x).relu()
    net = pk.convert(ann, x, method="max")
    errors = []
    for T in (50, 2000):
        rates = pk.simulate(net, x, T).count() / T
        scale = (rates * expected).sum() / rates.square().sum()
        errors.append(((scale * rates - expected).abs().max() / expected.max()).item())
    assert rates.mean() > 0.01 and errors[1] < 0.01 and errors[1] < errors[0]


@pytest.mark.costly
def test_the_step_loop_agrees(ann):
    """Layer by layer, on weights whose sums are exact: what is carried on, too."""
    x = (images() * 16).round() / 16
    net = pk.convert(ann, x)
    for parameter in net.parameters():
        parameter.data = (parameter.data * 64).round() / 64
    values = step_loop(net, x, 16)
    name = list(values)[-1]
    result = layerwise.simulate(net, x, 16, chunk=7)
    differing = (result.spikes.dense() != values[name]).float().mean().item()
    assert values[name].mean() > 0.01 and differing < 1e-3


LAYERS = {
    "shuffled channels": ["Channels"] * 5,
    "pixel shuffle": ["Flatten", "Channels", "Unflatten"],
    "axes swapped": ["Flatten", "Channels", "Unflatten"],
    "features as images": ["Flatten", "Unflatten"],
    "row of features": ["Flatten"],
    "maximum of averages": ["AvgPool2d", "MaxRatePool2d"],
    "nothing moved": [],
    "maximum of the image": ["MaxRatePool2d", "Flatten"],
}


@pytest.mark.parametrize("name", many(LAYERS, 2))
def test_no_more_layers_than_needed(name):
    """What moves values there and back moves none; only what something takes is moved."""
    torch.manual_seed(0)
    net = pk.convert(ZOO[name]().eval(), images())
    others = [layer for _, layer, _ in net.layers() if not isinstance(layer, pk.layers.Neurons | pk.Concatenate)]
    kinds = [type(layer).__name__ for layer in others if not isinstance(layer, pk.ZeroPad2d | pk.AdaptiveAvgPool2d)]
    assert kinds == LAYERS[name]
    if name == "nothing moved":
        assert [layer for layer, *_ in net.layers()] == ["a", "b"]


def test_it_trains_by_proxy():
    torch.manual_seed(0)
    x, net = images(), pk.convert(ZOO["bottlenecks"](), images())
    model = pk.ProxyNet(net, 8, clip=True).train()
    model(x).sum().backward()
    grads = {name: parameter.grad for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert all(grad is not None and grad.any() for grad in grads.values())


def test_shared_weights_of_what_cannot_be_scaled_are_refused():
    with pytest.raises(ValueError, match="share=True rescales Model, whose module 'a' has no weights that could be"):
        pk.convert(ZOO["input shortcut"](), images(), share=True)


@pytest.mark.parametrize(
    "name",
    many(
        [
            "dense block",
            "nearest",
            "transposed",
            "real beside spikes",
            "zeros around",
            "bottlenecks",
            "shuffled channels",
            "pixel shuffle",
        ]
    ),
)
def test_surrogate_gradients_go_through(name):
    """Packed and dense spikes have the same gradient."""
    torch.manual_seed(0)
    net = pk.use_surrogate(pk.convert(ZOO[name]().eval(), images()), pk.ATan(2.0)).train()
    x = (torch.rand(5, 3, 2, 8, 8) < 0.5).float()

    class Dense(nn.Module):
        """A layer that is given tensors."""

        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, parts):
            parts = parts if isinstance(parts, tuple) else (parts,)
            dense = tuple(part.dense() if isinstance(part, pk.Spikes) else part for part in parts)
            return self.layer(dense if len(dense) > 1 else dense[0])

    gradients = []
    for network in (net, copy_with(net, Dense)):
        net.zero_grad()
        y = network(pk.pack(x))
        y = y.dense() if isinstance(y, pk.Spikes) else y
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in net.parameters() if parameter.requires_grad])
    assert y.mean() > 0.01
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item())
        assert a.any()


def copy_with(net: pk.Network, wrapper) -> pk.Network:
    copied = pk.Network()
    for name, layer, sources in net.layers():
        copied.append(name, wrapper(layer), sources)
    return copied


@pytest.mark.costly
@pytest.mark.parametrize(
    "name",
    many(
        ["bottlenecks", "two linear layers", "ceil mode", "softmax", "sigmoid", "leaky by function", "row of features"]
    ),
)
def test_logits_are_the_outputs(name):
    torch.manual_seed(0)
    ann, x = ZOO[name]().eval(), images()
    expected = outputs(ann, x)
    net = pk.convert(ann, x, method="max")
    whole = pk.simulate(net, x, 1000)
    assert (expected < 0).any()  # which no spikes tell
    assert (whole.logits - expected).abs().max() < 0.01 * expected.abs().max()
    first = pk.simulate(net, x, 400)
    rest = pk.simulate(net, x, 600, state=first.state)
    torch.testing.assert_close((400 * first.logits + 600 * rest.logits) / 1000, whole.logits, rtol=1e-3, atol=1e-4)
    stopped = pk.simulate(net, x, 1000, stop=lambda counts, t: torch.arange(len(counts)) < (t >= 100))
    assert stopped.steps.min() < 1000
    assert (stopped.logits - expected).abs().max() < 0.05 * expected.abs().max()


def test_logits_need_a_converted_network_with_the_soft_reset():
    x = images()
    with pytest.raises(AttributeError, match="this network was not converted"):
        _ = pk.simulate(nn.Sequential(pk.FusedIFConv2d(2, 3, 3)), x, 5).logits
    with pytest.raises(AttributeError, match="logits need a last layer with the soft reset"):
        _ = pk.simulate(pk.convert(ZOO["ceil mode"](), x, v_reset=0.0), x, 5).logits
