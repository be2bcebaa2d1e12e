"""SpikingJelly's spiking transformers: the same spikes, and what is refused."""

import copy

import pytest
import torch
from cases import dyadic
from equality import equal
from exchange import make_dyadic
from torch import nn

import proxykernels as pk
from proxykernels.layers import Formula, Multiply, Pixels

pytestmark = pytest.mark.usefixtures("short_proof")

T = 4
NETS = {
    "Spikformer": (
        "spikformer.Spikformer",
        {"img_size_h": 32, "img_size_w": 8, "patch_size": 4, "embed_dims": 32, "num_heads": 4, "depths": 1},
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
SIZES = {"Spikformer": (32, 8)}


def transformer(name: str, generator) -> tuple[nn.Module, torch.Tensor]:
    """A network whose neurons all fire, and frames [T, N, ...] for it. All its sums are exact in float32."""
    models = pytest.importorskip("spikingjelly.activation_based.model")
    path, options = NETS[name]
    module, _, kind = path.partition(".")
    __import__(f"{models.__name__}.{module}")
    net = make_dyadic(getattr(getattr(models, module), kind)(T=T, num_classes=10, **options), generator)
    for path, part in net.named_modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.bias.data.abs_().mul_(2)
        elif hasattr(part, "v_threshold"):
            part.v_threshold = 1 / 16 if path.endswith("attn_lif") else 1 / 4
    return net, dyadic(T, 2, 3, *SIZES.get(name, (32, 32)), generator=generator).abs()


LONG = (pytest.param(name, marks=pytest.mark.slow) for name in NETS if name != QUICK)


@pytest.mark.parametrize("name", [QUICK, *LONG])
def test_transformers(generator, name):
    """The same output, bit by bit, for one sample and for none, too; the proof compares each layer's neurons."""
    net, x = transformer(name, generator)
    with torch.no_grad():
        expected = net(x)
    ours = pk.from_spikingjelly(net, x[0])
    result = pk.simulate(ours, x, T)
    assert not any(isinstance(module, Formula) for module in ours.modules())
    assert min(result.rates.values()) > 0.02 and expected.abs().min() > 0
    assert equal(result.potentials if expected.ndim == 3 else result.potentials.mean(0), expected)
    engine = pk.compile(ours, x)
    assert equal(engine(x, T).potentials, result.potentials)
    with torch.no_grad():
        assert equal(copy.deepcopy(ours)(x[:1, :1]), result.potentials[:1, :1])
        assert ours(x[:, :0]).shape == (T, 0, 10)
    first = pk.simulate(ours, x[:3], 3)
    assert equal(pk.simulate(ours, x[3:], 1, state=first.state).potentials, result.potentials[3:])


def test_gradients_pass_through_attention(generator):
    net, x = transformer(QUICK, generator)
    ours = pk.from_spikingjelly(net, x[0], check=False).train()
    pk.use_surrogate(ours, pk.ATan())
    ours(x).sum().backward()
    gradient = ours.get_submodule("blocks_0_attn_qkv_conv_bn").weight.grad
    assert gradient is not None and gradient.abs().max() > 0


@pytest.mark.parametrize("name", ["Spikformer", "MaxFormer"])
def test_without_a_sample_the_message_asks_for_one(generator, name):
    with pytest.raises(TypeError, match=r"a sample \[N, \.\.\.\]"):
        pk.from_spikingjelly(transformer(name, generator)[0])


def test_a_sample_that_the_model_does_not_take_is_told(generator):
    net, x = transformer("MaxFormer", generator)
    with pytest.raises(TypeError, match=r"whose steps \[T, N, \.\.\.\] it takes, since it raises: .*channels"):
        pk.from_spikingjelly(net, x[0, :, :2])


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
    with pytest.raises(TypeError, match="mixes steps or samples|without the axes of steps"):
        pk.from_spikingjelly(OverTime(function), torch.rand(3, 6))


def test_steps_and_samples_on_one_axis_are_refused():
    pytest.importorskip("spikingjelly")
    net = OverTime(lambda y: y.flatten(0, 1))
    with pytest.raises(TypeError, match="without the axes of steps and samples in front"):
        pk.from_spikingjelly(net, torch.rand(3, 6))


def test_a_product_with_a_size_gives_no_spikes():
    pytest.importorskip("spikingjelly")
    net = OverTime(lambda y: (y.unsqueeze(3) * y.shape[2]).squeeze(3))
    nn.init.uniform_(net.fc.weight, 0, 2)
    x = torch.rand(5, 3, 6)
    ours = pk.from_spikingjelly(net, x[0])
    assert not any(formula.binary for formula in ours.modules() if isinstance(formula, Formula))
    assert 0 < net(x).mean() < 1


def test_products_of_spikes_stay_spikes():
    pytest.importorskip("spikingjelly")
    net = OverTime(lambda y: y.reshape(y.shape[0], y.shape[1], 2, 4).transpose(2, 3) * y[:, :, :4].unsqueeze(3))
    torch.manual_seed(0)
    nn.init.uniform_(net.fc.weight, 0, 2)
    x = torch.rand(5, 3, 6)
    ours = pk.from_spikingjelly(net, x[0])
    kinds = [type(module) for module in ours.modules()]
    assert kinds.count(Multiply) == 1 and Formula not in kinds
    expected = net(x)
    y = ours(x)
    y = y.dense() if isinstance(y, pk.Spikes) else y
    assert 0 < expected.mean() < 1 and equal(y, expected)


def test_what_no_layer_does_is_computed_by_torch():
    pytest.importorskip("spikingjelly")
    net = OverTime(lambda y: y * y.flip(2))
    torch.manual_seed(0)
    nn.init.uniform_(net.fc.weight, 0, 2)
    x = torch.rand(5, 3, 6)
    ours = pk.from_spikingjelly(net, x[0])
    (formula,) = (module for module in ours.modules() if isinstance(module, Formula))
    assert formula.binary
    expected, y = net(x), ours(x)
    y = y.dense() if isinstance(y, pk.Spikes) else y
    assert 0 < expected.mean() < 1 and equal(y, expected)


class Tokens(OverTime):
    """Neurons as tokens, which a convolution takes."""

    def __init__(self, function):
        super().__init__(function)
        from spikingjelly.activation_based import layer

        self.conv = layer.Conv1d(2, 5, 1, bias=False, step_mode="m")

    def forward(self, x):
        y = self.lif(self.fc(x))
        return self.last(self.conv(self.function(y).reshape(y.shape[0], y.shape[1], 2, 4)))


@pytest.mark.parametrize("check", [True, False])
def test_a_factor_of_tokens_stays(check):
    """Without the comparison, too: a factor that is lost would be a wrong network without a word."""
    pytest.importorskip("spikingjelly")
    net = Tokens(lambda y: 0.5 * y)
    torch.manual_seed(0)
    nn.init.uniform_(net.fc.weight, 0, 2)
    nn.init.uniform_(net.conv.weight, 0, 1)
    x = torch.rand(5, 3, 6)
    ours = pk.from_spikingjelly(net, x[0], check=check)
    with torch.no_grad():
        expected, y = net(x), ours(x)
    y = y.dense() if isinstance(y, pk.Spikes) else y
    assert 0 < expected.mean() < 1 and equal(y, expected)


@pytest.mark.parametrize("check", [True, False])
def test_tokens_of_silent_neurons_are_refused(check):
    pytest.importorskip("spikingjelly")
    with pytest.raises(TypeError, match="takes 1 - spikes"):
        pk.from_spikingjelly(Tokens(lambda y: 1 - y), torch.rand(3, 6), check=check)


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
