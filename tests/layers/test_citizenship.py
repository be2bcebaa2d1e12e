"""Networks as PyTorch users handle modules: compile, export, trace, copy, save, hook, distribute."""

import copy
import io
import pickle

import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import proxykernels as pk
from proxykernels.kernels import backends


class EveryLayer(nn.Module):
    """Every kind of layer, a shortcut, and one that no single convolution computes."""

    def __init__(self):
        super().__init__()
        self.stem = pk.FusedIFConv2d(2, 8, 3, padding=1, batch_norm=True, v_init=0.5, v_reset=None)
        self.pool = pk.MaxPool2d(2)
        self.conv = pk.FusedIFConv2d(8, 8, 3, padding="same", bias=False, v_threshold=torch.full((8,), 1.25))
        self.join = pk.FusedIFSum(nn.Conv2d(8, 8, 3, padding=1), nn.Identity(), v_reset=None)
        self.odd = pk.FusedIFSum(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
        self.average = pk.AvgPool2d(2)
        self.again = pk.IF()
        self.flatten = pk.Flatten()
        self.last = pk.FusedIFLinear(8 * 9, 5, v_reset=None)

    def forward(self, x):
        x = self.pool(self.stem(x))
        x = self.odd((x, self.join((self.conv(x), x))))
        return self.last(self.flatten(self.again(self.average(x))))


@pytest.fixture
def net(generator):
    net = EveryLayer().eval()
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=12)
    net.stem.bn.weight.data.fill_(1.0)
    net.stem.bn.eps = 0.5
    net.stem.bn.running_var.fill_(0.5)  # 1 with eps: its folding is exact then
    return net


@pytest.fixture
def x(generator):
    return dyadic(2, 2, 12, 12, generator=generator).abs().expand(20, 2, 2, 12, 12)


def test_copies(net, x):
    expected = net(x)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), torch.load(file, weights_only=False)):
        assert equal(other(x), expected)
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in net.parameters()}


def test_a_converted_network_is_copied_and_saved(generator):
    torch.manual_seed(0)  # of the weights: an output that is never positive cannot be converted
    ann = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 3))
    x = torch.rand(4, 1, 12, 12, generator=generator)
    net = pk.convert(ann, x)
    expected = pk.simulate(net, x, 30).count()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert equal(pk.simulate(other, x, 30).count(), expected)
    other = pk.convert(ann, 2 * x)
    other.load_state_dict(net.state_dict())
    assert equal(pk.simulate(other, x, 30).count(), expected)


def test_layers_that_learn_their_neurons_are_pickled(generator):
    net = nn.Sequential(
        pk.FusedLIFConv2d(1, 4, 3, decay=torch.rand(4, generator=generator)), pk.IF(v_threshold=0.25)
    ).eval()
    nn.utils.parametrizations.spectral_norm(pk.learn_neurons(net, "decay", "v_threshold")[0])
    x, file = 4 * torch.rand(6, 2, 1, 6, 6, generator=generator), io.BytesIO()
    expected = net(x)
    torch.save(net, file)
    file.seek(0)
    for other in (pickle.loads(pickle.dumps(net)), torch.load(file, weights_only=False), copy.deepcopy(net)):
        assert equal(other(x), expected) and 0.02 < expected.mean() < 0.98
        assert list(other.state_dict()) == list(net.state_dict())
        assert [name for name, _ in other.named_parameters()] == [name for name, _ in net.named_parameters()]
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in net.parameters()}


def test_shapes_of_fake_tensors(net, x):
    """In FakeTensorMode, as tools that plan memory use it; a simulation has nothing to look at there."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        for sequence in (torch.rand(20, 2, 2, 12, 12), torch.rand(2, 2, 12, 12).expand(20, 2, 2, 12, 12)):
            y = net(sequence)
            assert isinstance(y, FakeTensor) and y.shape == (20, 2, 5)
        assert pk.MaxRatePool2d(2)(torch.rand(5, 2, 3, 4, 4)).shape == (5, 2, 3, 2, 2)
        with pytest.raises(TypeError, match=r"x is a FakeTensor, .* net\(x.expand"):
            pk.simulate(net, torch.rand(2, 2, 12, 12), 20)


def test_state_dicts_of_joining_layers_are_their_synapses():
    convolution = nn.Conv2d(8, 8, 3)
    layer = pk.FusedIFSum(nn.Conv2d(8, 8, 3), nn.Identity())
    assert [key for key in layer.state_dict() if "." in key] == ["synapses.0.weight", "synapses.0.bias"]
    layer.synapses[0].load_state_dict(convolution.state_dict())
    assert not pk.MaxRatePool2d(2).state_dict()


def test_hooks_see_calls(net, x):
    seen = []
    for name, module in net.named_children():
        module.register_forward_hook(lambda module, inputs, y, name=name: seen.append((name, tuple(y.shape))))
    net(x)
    assert [name for name, _ in seen] == [
        "stem", "pool", "conv", "join", "odd", "average", "again", "flatten", "last"
    ]  # fmt: skip
    assert seen[3] == ("join", (20, 2, 8, 6, 6))


def test_dtypes_and_devices(net, x):
    expected = net(x)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):  # the dyadic weights survive in all of them
        y = copy.deepcopy(net).to(dtype)(x.to(dtype))
        assert y.dtype == dtype and equal(y.float(), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert equal(net(x), expected)
    assert net(x.contiguous().bool().float()).shape == expected.shape
    meta = copy.deepcopy(net).to("meta")
    assert all(p.is_meta for p in meta.parameters())


def test_channels_last_goes_in_and_out_without_a_copy(generator, monkeypatch):
    current = torch.rand(6, 2, 8, 5, 4, generator=generator).flatten(0, 1)
    current = current.contiguous(memory_format=torch.channels_last).unflatten(0, (6, 2))
    seen, kernels = [], backends.cpu_backend()
    scan = kernels.if_scan
    monkeypatch.setattr(kernels, "if_scan", lambda rows, *rest: seen.append(rows) or scan(rows, *rest))
    spiked, v = pk.if_scan(current)
    assert seen[0].data_ptr() == current.data_ptr()
    assert v.is_contiguous(memory_format=torch.channels_last)
    layer = pk.FusedIFConv2d(8, 8, 3).to(memory_format=torch.channels_last)
    _, v = layer.spike(spiked)
    assert v.is_contiguous(memory_format=torch.channels_last)
    dense = spikes(3, 2, 8, 5, 4, generator=generator)
    last = dense.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (3, 2))
    assert equal(layer(last), layer(dense))


def test_shapes_on_meta(net, x):
    """A whole network's shapes, and its twin's, without a value; a simulation needs values."""
    net = net.to("meta")
    for sequence in (x.to("meta"), torch.empty(20, 2, 2, 12, 12, device="meta")):
        y = net(sequence)
        assert y.is_meta and y.shape == (20, 2, 5)
    model = pk.ProxyNet(net, 20).eval()
    assert model.ann(x[0].to("meta")).shape == (2, 5)
    with pytest.raises(ValueError, match=r"net is on the meta device: its stem.weight has no values; load"):
        pk.simulate(net, x[0].to("meta"), 20)


def test_torchinfo_lists_the_layers(net, x):
    """Of a network on a sequence in dense form; of ProxyNet, whose layers hand on Spikes, without shapes only.

    torchinfo asks what a layer gives for its size, and refuses what is no tensor, list or dictionary.
    """
    torchinfo = pytest.importorskip("torchinfo")
    shown = torchinfo.summary(net, input_data=x.contiguous(), verbose=0)
    assert shown.total_params == sum(p.numel() for p in net.parameters())
    assert "FusedIFLinear" in str(shown) and "[20, 2, 8, 6, 6]" in str(shown)
    of_twins = torchinfo.summary(pk.ProxyNet(net, 20), verbose=0)
    assert of_twins.total_params == shown.total_params and "FusedIFLinear" in str(of_twins)
    with pytest.raises(RuntimeError) as caught:
        torchinfo.summary(pk.ProxyNet(net, 20), input_data=x[0], verbose=0)
    assert "Spikes" in str(caught.value.__cause__)


def test_a_simulation_is_not_traced_by_jit(net, x):
    for mode in (True, False):
        with pytest.raises(TypeError, match=NOT_TRACED):
            torch.jit.trace(pk.ProxyNet(net, 20).train(mode), (x[0],))


NOT_TRACED = "torch.jit.trace cannot follow .* torch.export or torch.compile"


@pytest.mark.parametrize("kind", ["real", "spikes", "held"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: pk.FusedIFLinear(6, 3), (2, 6)),
        (lambda: pk.FusedIFConv2d(6, 3, 3, batch_norm=True), (2, 6, 4, 4)),
        (lambda: nn.Sequential(pk.MaxPool2d(2), pk.IF()), (2, 6, 4, 4)),
        (lambda: pk.FusedIFSum(nn.Linear(6, 3), nn.Linear(6, 3)), (2, 6)),
        (lambda: pk.MaxRatePool2d(2), (2, 6, 4, 4)),
        (lambda: lambda x: pk.if_scan(x)[1], (2, 6)),
        (lambda: lambda x: pk.if_hold(x[0], 5)[1], (2, 6)),
        (lambda: lambda x: pk.functional.if_scan_surrogate(x), (2, 6)),
    ],
    ids=["linear", "conv2d", "if", "sum", "rates", "scan", "hold", "surrogate"],
)
def test_layers_and_functions_are_not_traced_by_jit(generator, layer, shape, kind):
    """It keeps what holds for its one example, and an operator of spikes is an internal error of torch to it."""
    layer, x = layer(), torch.rand(5, *shape, generator=generator)
    if isinstance(layer, pk.MaxRatePool2d) or kind == "spikes":
        x = (x < 0.5).float()
    x = x[0].expand(5, *shape) if kind == "held" else x
    arguments = ((x, x),) if isinstance(layer, pk.FusedIFSum) else (x,)
    with pytest.raises(TypeError, match=NOT_TRACED):
        torch.jit.trace(layer.eval() if isinstance(layer, nn.Module) else layer, arguments)


STRICT = [pytest.param(False, id=""), pytest.param(True, id="strict", marks=pytest.mark.slow)]
STEPS, SAMPLES = torch.export.Dim("T"), torch.export.Dim("N")


def inputs(generator, T: int = 20, N: int = 2) -> dict[str, torch.Tensor]:
    """A held input, a sequence, and spikes."""
    image = dyadic(N, 2, 12, 12, generator=generator).abs()
    moving = dyadic(T, N, 2, 12, 12, generator=generator).abs()
    return {"held": image.expand(T, *image.shape), "moving": moving, "spikes": (moving > 0.25).float()}


def assert_same(traced, net, x):
    expected = net(x)
    assert equal(traced(x), expected) and 0.02 < expected.mean() < 0.98


@pytest.mark.parametrize("strict", STRICT)
@pytest.mark.parametrize("example", ["held", "moving"])
def test_export_and_reload(net, generator, example, strict):
    """Whether the example was held is no part of what is exported."""
    examples = inputs(generator)
    file = io.BytesIO()
    torch.export.save(torch.export.export(net, (examples[example],), strict=strict), file)
    file.seek(0)
    exported = torch.export.load(file).module()
    for x in examples.values():
        assert_same(exported, net, x)


@pytest.mark.long
@pytest.mark.parametrize("strict", STRICT)
def test_export_with_any_number_of_steps_and_samples(net, generator, strict):
    examples = inputs(generator)
    shapes = ({0: STEPS, 1: SAMPLES},)
    exported = torch.export.export(net, (examples["held"],), dynamic_shapes=shapes, strict=strict).module()
    for T, N in ((20, 2), (33, 5), (70, 1), (2, 3)):
        for x in inputs(generator, T, N).values():
            assert_same(exported, net, x)


@pytest.mark.slow
def test_compiled_for_every_kind_of_input_and_size(net, generator):
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for T, N in ((20, 2), (33, 5), (40, 3)):
        for x in inputs(generator, T, N).values():
            assert_same(compiled, net, x)


@pytest.mark.slow
def test_compiled_for_any_size_at_once(generator):
    """Fewer layers: one is compiled four times, for a second or two each."""
    torch._dynamo.reset()
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 8, 3, padding="same"), pk.MaxPool2d(2), pk.Flatten(), pk.FusedIFLinear(288, 5)
    )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=12)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=True)
    for T, N in ((20, 2), (33, 5), (40, 3)):
        for x in inputs(generator, T, N).values():
            assert_same(compiled, net, x)


def test_a_held_input_is_convolved_once_in_an_exported_graph(generator, monkeypatch):
    from proxykernels.kernels import unfused

    net = pk.FusedIFConv2d(2, 8, 3).eval()
    examples = inputs(generator)
    exported = torch.export.export(net, (examples["moving"],)).module()
    seen, conv2d = [], unfused.conv2d
    monkeypatch.setattr(unfused, "conv2d", lambda x, *rest: seen.append(len(x)) or conv2d(x, *rest))
    exported(examples["held"])
    assert seen == [1]


def converted(generator) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    ann = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2, 1),
        nn.Flatten(), nn.Linear(8 * 9, 5),
    )  # fmt: skip
    images = torch.rand(8, 2, 12, 12, generator=generator)
    return pk.convert(ann, images), images


@pytest.mark.long
@pytest.mark.parametrize("strict", STRICT)
def test_converted_networks_are_exported(generator, strict):
    """Their maxima are of counts: MaxRatePool2d packs what the layer before gives as a tensor."""
    net, images = converted(generator)
    shapes = ({0: STEPS, 1: SAMPLES},)
    x = images[:2].expand(20, *images[:2].shape)
    exported = torch.export.export(net, (x,), dynamic_shapes=shapes, strict=strict).module()
    for T, N in ((20, 2), (33, 5), (2, 3)):
        assert_same(exported, net, torch.rand(T, N, 2, 12, 12, generator=generator))
        assert_same(exported, net, images[:N].expand(T, *images[:N].shape))


@pytest.mark.slow
def test_converted_networks_are_compiled(generator):
    torch._dynamo.reset()
    net, images = converted(generator)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for T, N in ((20, 2), (33, 5)):
        assert_same(compiled, net, images[:N].expand(T, *images[:N].shape))


@pytest.mark.parametrize("kind", ["bool", "Spikes"])
def test_spikes_stay_packed_in_a_compiled_graph(generator, kind):
    """Of bool frames and Spikes all convolutions are fused with the neurons, as a warning on a GPU promises."""
    torch._dynamo.reset()
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 8, 3, padding=1), pk.MaxPool2d(2), pk.Flatten(), pk.FusedIFLinear(8 * 36, 5)
    )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=12)
    x, seen = inputs(generator)["spikes"].bool(), []
    expected = net(x)

    def backend(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    found = torch.compile(net, fullgraph=True, backend=backend)(x if kind == "bool" else pk.pack(x))
    assert equal(found if kind == "bool" else found.dense(torch.bool), expected) and expected.any()
    assert sum("if_conv2d" in name for name in seen) == 2 and not any("real" in name for name in seen)


def test_a_graph_refuses_what_pack_refuses(generator):
    torch._dynamo.reset()
    pool, x = pk.MaxRatePool2d(2), (torch.rand(5, 2, 3, 4, 4, generator=generator) < 0.5).float()
    exported = torch.export.export(pool, (x,)).module()
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    for traced in (exported, compiled):
        assert equal(traced(x), pool(x)) and x.any()
        with pytest.raises(RuntimeError, match="dense must hold spikes"):
            traced(x / 2)


class Trained(nn.Module):
    """Layers with a surrogate derivative: in front of values, of spikes, of a sum, and alone."""

    def __init__(self):
        super().__init__()
        self.stem, self.pool = pk.FusedIFConv2d(2, 8, 3, padding=1, v_reset=None), pk.MaxPool2d(2)
        self.join = pk.FusedIFSum(nn.Conv2d(8, 8, 3, padding=1), nn.Identity(), v_reset=None)
        self.average, self.again, self.flatten = (
            pk.AvgPool2d(2),
            pk.LIF(decay=0.5, v_threshold=0.25, v_reset=None),
            pk.Flatten(),
        )
        self.last = pk.FusedIFLinear(8 * 9, 5, v_reset=None)

    def forward(self, x):
        x = self.pool(self.stem(x))
        return self.last(self.flatten(self.again(self.average(self.join((x, x))))))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["held", "moving", "spikes"])
def test_training_is_compiled_without_graph_breaks(generator, kind):
    torch._dynamo.reset()
    net = pk.use_surrogate(Trained(), pk.Triangle(1.0))
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=12)
    x = inputs(generator)[kind]
    grad = dyadic(*x.shape[:2], 5, generator=generator)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    y, z = net(x), compiled(x)
    assert equal(y, z) and 0.02 < y.mean() < 0.98
    expected, found = (torch.autograd.grad(out, list(net.parameters()), grad) for out in (y, z))
    assert all(e.any() for e in expected)
    for e, f in zip(expected, found, strict=True):
        assert torch.allclose(e, f, rtol=1e-5, atol=1e-5 * e.abs().max().item())
