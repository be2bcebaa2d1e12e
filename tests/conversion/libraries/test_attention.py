"""SpikingJelly's spiking transformers: the same spikes, and what is refused."""

import copy

import pytest
import torch
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.layers import Formula, Pixels

pytestmark = pytest.mark.usefixtures("short_proof")

T = 4
NETS = {
    "Spikformer": (
        "spikformer.Spikformer",
        {"img_size_h": 20, "img_size_w": 12, "patch_size": 4, "embed_dims": 32, "num_heads": 4, "depths": 1},
    ),
    "QKFormer, tokens": ("qkformer.QKFormer", {"embed_dims": 32, "num_heads": (1, 2, 2), "depths": (1, 1, 1)}),
    "QKFormer, channels": (
        "qkformer.QKFormer",
        {"embed_dims": 32, "num_heads": (1, 2, 2), "depths": (1, 1, 1), "qka_type": "channel"},
    ),
    "Spike-driven Transformer": (
        "spike_driven_transformer.SpikeDrivenTransformer",
        {"embed_dims": 32, "num_heads": 4, "depths": 1},
    ),
    "MaxFormer": ("maxformer.MaxFormer", {"embed_dims": 32, "depths": (1, 1, 1), "cifar": True}),
}
QUICK = "Spikformer"
SIZES = {"Spikformer": (20, 12)}


def transformer(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network whose neurons fire, and frames [T, N, ...] for it."""
    models = pytest.importorskip("spikingjelly.activation_based.model")
    path, options = NETS[name]
    module, _, kind = path.partition(".")
    __import__(f"{models.__name__}.{module}")
    torch.manual_seed(0)
    net = getattr(getattr(models, module), kind)(T=T, num_classes=10, **options)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.momentum = None
            nn.init.uniform_(norm.bias, 0.4, 0.9)  # or attention is silent
    for path, neurons in net.named_modules():
        if path.endswith("attn_lif"):
            neurons.v_threshold = 0.05
    x = torch.rand(T, 2, 3, *SIZES.get(name, (32, 32)))
    net.train()(x)  # normalised, so that spikes reach the end
    reset(net)
    return net.eval(), x


def reset(net: nn.Module) -> None:
    from spikingjelly.activation_based import functional

    functional.reset_net(net)


LONG = (pytest.param(name, marks=pytest.mark.slow) for name in NETS if name != QUICK)


@pytest.mark.parametrize("name", [QUICK, *LONG])
def test_transformers(name):
    """The proof compares the neurons of each layer; the output is the original's, also in parts of the steps."""
    net, x = transformer(name)
    ours = pk.from_spikingjelly(net, x[0])
    assert any(isinstance(module, Formula) for module in ours.modules())
    with torch.no_grad():
        expected = net(x)
    result = pk.simulate(ours, x, T)
    assert min(result.rates.values()) > 0 and expected.abs().max() > 0.01
    given = result.potentials if expected.ndim == 3 else result.potentials.mean(0)
    assert torch.allclose(given, expected, 1e-5, 1e-5)
    with torch.no_grad():
        assert torch.allclose(ours(x[:, :1]), ours(x)[:, :1], 1e-5, 1e-5) and ours(x[:, :0]).shape == (T, 0, 10)
        assert torch.allclose(copy.deepcopy(ours)(x[:1]), ours(x)[:1], 1e-5, 1e-5)


def test_states_go_on():
    net, x = transformer(QUICK)
    ours = pk.from_spikingjelly(net, x[0], check=False)
    whole = pk.simulate(ours, x, T)
    first = pk.simulate(ours, x[:3], 3)
    assert equal(pk.simulate(ours, x[3:], 1, state=first.state).potentials, whole.potentials[3:])


def test_gradients_pass_through_attention():
    net, x = transformer("Spikformer")
    ours = pk.from_spikingjelly(net, x[0], check=False).train()
    pk.use_surrogate(ours, pk.ATan())
    ours(x).sum().backward()
    gradient = ours.get_submodule("blocks_0_attn_qkv_conv_bn").weight.grad
    assert gradient is not None and gradient.abs().max() > 0


def test_without_a_sample_the_message_asks_for_one():
    for name in ("Spikformer", "MaxFormer"):
        with pytest.raises(TypeError, match=r"a sample \[N, \.\.\.\]"):
            pk.from_spikingjelly(transformer(name)[0])


class OverTime(nn.Module):
    """Neurons on currents that the steps share."""

    def __init__(self, function):
        super().__init__()
        from spikingjelly.activation_based import layer, neuron

        self.fc = layer.Linear(6, 8, step_mode="m")
        self.lif = neuron.LIFNode(step_mode="m")
        self.last = neuron.IFNode(step_mode="m")
        self.function = function

    def forward(self, x):
        y = self.lif(self.fc(x))
        return self.last(self.function(y))


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y.transpose(0, 2) @ y.transpose(0, 2).transpose(1, 2),
        lambda y: y.softmax(0),
        lambda y: y.softmax(2) - y.mean(1, keepdim=True),
    ],
    ids=["products over steps", "softmax over steps", "mean over samples"],
)
def test_what_mixes_steps_or_samples_is_refused(function):
    pytest.importorskip("spikingjelly")
    with pytest.raises(TypeError, match="mixes steps or samples|stands behind"):
        pk.from_spikingjelly(OverTime(function), torch.rand(3, 6))


def test_attention_over_time_is_refused_by_name():
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based.model import masnn

    net = masnn.AttMSResNet(T=1, num_classes=10, base_channels=8)
    with pytest.raises(TypeError, match="MultiDimensionalAttention.*computes with all steps at once"):
        pk.from_spikingjelly(net.eval(), torch.rand(1, 3, 32, 32))


def test_products_of_spikes_stay_spikes():
    pytest.importorskip("spikingjelly")
    net = OverTime(lambda y: y.reshape(y.shape[0], y.shape[1], 2, 4).transpose(2, 3) * y[:, :, :4].unsqueeze(3))
    torch.manual_seed(0)
    nn.init.uniform_(net.fc.weight, 0, 2)
    x = torch.rand(5, 3, 6)
    ours = pk.from_spikingjelly(net, x[0])
    (formula,) = (module for module in ours.modules() if isinstance(module, Formula))
    assert formula.binary
    expected = net(x)
    y = ours(x)
    y = y.dense() if isinstance(y, pk.Spikes) else y
    assert 0 < expected.mean() < 1 and equal(y, expected)


@pytest.mark.parametrize("size", [(-1,), (15,), (3, 5), (5, -1)])
def test_pixels(size):
    x = (torch.rand(7, 2, 33, 5, 3, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    layer = Pixels(size)
    wanted = tuple(15 // 5 if n == -1 and len(size) == 2 else 15 if n == -1 else n for n in size)
    expected = x.reshape(7, 2, 33, *wanted)
    packed = layer(pk.pack(x))
    assert isinstance(packed, pk.Spikes) and equal(packed.dense(), expected) and equal(layer(x), expected)


@pytest.mark.parametrize("size, message", [((4, 4), "16 pixels"), ((7, -1), "7 pixels")])
def test_pixels_of_another_number_are_refused(size, message):
    with pytest.raises(ValueError, match=message):
        Pixels(size)(torch.zeros(2, 1, 3, 5, 3))


@pytest.mark.parametrize("size", [3, (1, 2, 3), (0,), (-1, -1), ("a",)])
def test_sizes_that_pixels_do_not_take(size):
    with pytest.raises((TypeError, ValueError), match="size"):
        Pixels(size)
