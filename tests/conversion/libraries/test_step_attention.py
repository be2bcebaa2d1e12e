"""MA-SNN of SpikingJelly, whose attention weighs steps, channels and pixels by what all steps have: the same spikes."""

import pickle

import pytest
import torch
from cases import dyadic
from equality import equal
from exchange import make_dyadic
from torch import nn

import proxykernels as pk
from proxykernels.layers import StepAttention

functional = pytest.importorskip("spikingjelly.activation_based.functional")
masnn = pytest.importorskip("spikingjelly.activation_based.model.masnn")
layer = pytest.importorskip("spikingjelly.activation_based.layer")
neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
pytestmark = pytest.mark.usefixtures("short_proof")

HUGE = 2.0**20  # of which sigmoid gives 0 or 1


@torch.no_grad()
def exact_gates(net: nn.Module, generator: torch.Generator) -> None:
    """Let every gate be exactly 0, 1/2 or 1: the hidden units take differences of two means, and of two maxima."""
    for module in net.modules():
        if hasattr(module, "sharedMLP"):
            inward, _, outward = module.sharedMLP
            inward.weight.zero_()
            for row in inward.weight.flatten(1):
                first, second = torch.randperm(len(row), generator=generator)[:2]
                row[first], row[second] = HUGE, -HUGE
            outward.weight.zero_()
            for k, row in enumerate(outward.weight.flatten(1)):
                row[torch.randint(len(row), (1,), generator=generator)] = -1.0 if k % 4 == 0 else 1.0
        elif type(module).__name__ == "_SpatialAttention":
            module.conv.weight.copy_(
                HUGE * (dyadic(*module.conv.weight.shape, generator=generator, span=4, unit=1) + 1)
            )


def exact(net: nn.Module, generator: torch.Generator) -> nn.Module:
    """Sums and gates that are exact in float32, so that no spike may differ."""
    make_dyadic(net, generator, 1 / 8)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.abs_().add_(1.0)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data.add_(1 / 8)
    exact_gates(net, generator)
    return net


def gesture_net(T: int, **options) -> nn.Module:
    return masnn.MASNN(
        T=T, input_size=(8, 8), channels=(8, 16, 16), fc_hidden=16, reduction_t=2, reduction_c=4, num_classes=5,
        **options,
    )  # fmt: skip


def check(ours: pk.Network, net: nn.Module, x: torch.Tensor, far: float) -> None:
    """The same mean output, of layers that all fire."""
    T = len(x)
    result = pk.simulate(ours, x, T)
    functional.reset_net(net)
    with torch.no_grad():
        expected = net(x)
    assert all(0.02 < rate < 0.98 for rate in result.rates.values()), result.rates
    given = pk.simulate(pickle.loads(pickle.dumps(ours)), x, T)
    for each in (result, given):
        y = (each.potentials if isinstance(each.output, torch.Tensor) else each.spikes.dense()).mean(0)
        assert equal(y, expected) if far == 0 else (y - expected).abs().max() < far


@pytest.mark.parametrize("T", [4, 8, 16])
def test_gestures_exactly(generator, T):
    net = exact(gesture_net(T, spiking_neuron=neuron.IFNode, v_threshold=0.25, step_mode="m"), generator)
    x = dyadic(T, 3, 2, 8, 8, generator=generator).abs()
    ours = pk.from_spikingjelly(net, x[0])
    gates = [module for module in ours.modules() if isinstance(module, StepAttention)]
    assert [module.steps for module in gates] == [T] * 5
    check(ours, net, x, far=0)
    with pytest.raises(ValueError, match=f"x has {T - 1} steps, and each of {T} steps takes all of them"):
        pk.simulate(ours, x[1:], T - 1)
    with pytest.raises(
        TypeError,
        match="the engine does not take module conv_blocks_0_attn .StepAttention..*takes values of all steps.*simulate",
    ):
        pk.compile(ours, x)


def test_gestures_of_random_weights(generator):
    """As its authors have it; of floats an output may differ where a potential is at the threshold."""
    torch.manual_seed(0)
    net = gesture_net(8)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 1.0, 4.0)
            nn.init.uniform_(module.bias, 0.5, 3.0)
    x = torch.rand(8, 8, 2, 8, 8, generator=generator)
    ours = pk.from_spikingjelly(net.eval(), x[0])
    check(ours, net, x, far=0.13)


@pytest.mark.parametrize("T", [1, 4])
def test_residual_nets(generator, T):
    """Gates of channels and pixels are of all steps, too, of which there may be any number."""
    net = masnn.AttMSResNet(
        T=T, num_classes=5, base_channels=8, layers=(1, 1, 1, 1), stem_kernel_size=3, stem_stride=1,
        spiking_neuron=neuron.IFNode, v_threshold=0.5, step_mode="m",
    )  # fmt: skip
    exact(net, generator)
    x = dyadic(T, 3, 3, 16, 16, generator=generator)
    ours = pk.from_spikingjelly(net, x[0])
    check(ours, net, x, far=0)
    more = dyadic(2 * T, 3, 3, 16, 16, generator=generator)
    check(ours, net, more, far=0)
    state = pk.simulate(ours, x, T).state
    with pytest.raises(ValueError, match=f"x has {T} steps behind {T} others, and each step takes all of them"):
        pk.simulate(ours, x, T, state=state)


class Behind(nn.Module):
    """One attention between a layer and neurons."""

    def __init__(self, attention: nn.Module, dimension: int = 4):
        super().__init__()
        self.first = layer.Linear(6, 8) if dimension == 2 else layer.Conv2d(2, 8, 3)
        self.attention = attention
        self.lif, self.flatten = neuron.IFNode(v_threshold=0.25), layer.Flatten()
        self.last, self.end = layer.Linear(8 if dimension == 2 else 128, 5), neuron.IFNode(v_threshold=0.5)
        for module in self.modules():
            module.step_mode = "m"

    def forward(self, x):
        return self.end(self.last(self.flatten(self.lif(self.attention(self.first(x))))))


ATTENTIONS = {
    "steps": lambda T: layer.TemporalWiseAttention(T, 2),
    "steps of vectors": lambda T: layer.TemporalWiseAttention(T, 2, dimension=2),
    "steps alone": lambda T: layer.MultiDimensionalAttention(T, 8, 2, 2, use_channel=False, use_spatial=False),
    "channels": lambda T: layer.MultiDimensionalAttention(T, 8, 2, 2, use_temporal=False, use_spatial=False),
    "pixels": lambda T: layer.MultiDimensionalAttention(T, 8, 2, 2, 7, use_temporal=False, use_channel=False),
    "all": lambda T: layer.MultiDimensionalAttention(T, 8, 2, 2),
}


@torch.no_grad()
@pytest.mark.parametrize("N", [0, 1, 3])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_attention(generator, name, N):
    T, dimension = 6, 2 if name.endswith("vectors") else 4
    net = exact(Behind(ATTENTIONS[name](T), dimension), generator)
    x = dyadic(T, max(N, 1), *((6,) if dimension == 2 else (2, 6, 6)), generator=generator)
    ours = pk.from_spikingjelly(net, x[0])
    if not N:
        assert pk.simulate(ours, x[:, :0], T).spikes.dense().shape == (T, 0, 5)
        return
    expected, result = net(x), pk.simulate(ours, x, T)
    assert equal(result.spikes.dense(), expected)
    assert all(0.02 < rate < 0.98 for rate in result.rates.values())


def test_gradients_of_gates(generator):
    torch.manual_seed(0)
    net = Behind(ATTENTIONS["all"](6)).eval()
    net.first.weight.data.mul_(4)
    x = torch.rand(6, 3, 2, 6, 6, generator=generator)
    ours = pk.from_spikingjelly(net, x[0]).train()
    net(x).sum().backward()
    ours(x).sum().backward()
    (gates,) = (module for module in ours.modules() if isinstance(module, StepAttention))
    theirs = net.attention
    pairs = [(gates.temporal_in, theirs.ta.sharedMLP[0]), (gates.channel_out, theirs.ca.sharedMLP[2])]
    for mine, module in [*pairs, (gates.spatial, theirs.sa.conv)]:
        assert mine.grad.any()
        torch.testing.assert_close(mine.grad.flatten(), module.weight.grad.flatten(), rtol=1e-3, atol=1e-5)


class OwnAttention(layer.MultiDimensionalAttention):
    def forward(self, x):
        return super().forward(x) + 0.125 * x.mean(0)


def test_a_forward_of_its_own_is_noticed(generator):
    net = exact(Behind(OwnAttention(6, 8, 2, 2)), generator)
    with pytest.raises((TypeError, ValueError), match="attention"):
        pk.from_spikingjelly(net, torch.rand(3, 2, 6, 6))
