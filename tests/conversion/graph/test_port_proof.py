"""Networks that are taken over are compared with the originals, and refused in a sentence that says what to do."""

import copy
import warnings

import nir
import pytest
import torch
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.conversion.graph.compare import Difference, Outputs


@pytest.fixture
def layer():
    return pytest.importorskip("spikingjelly.activation_based.layer")


@pytest.fixture
def neuron():
    return pytest.importorskip("spikingjelly.activation_based.neuron")


def chain(layer, neuron, **others) -> nn.Sequential:
    """A small net of SpikingJelly; ``others``: modules in the place of its own."""
    torch.manual_seed(0)
    modules = {
        "conv": layer.Conv2d(2, 6, 3), "bn": layer.BatchNorm2d(6), "sn1": neuron.IFNode(), "pool": layer.MaxPool2d(2),
        "flat": layer.Flatten(), "fc": layer.Linear(54, 5), "sn2": neuron.LIFNode(),
    }  # fmt: skip
    net = nn.Sequential()
    for name, module in {**modules, **others}.items():
        net.add_module(name, module)
    return net


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_other_types(layer, neuron, dtype):
    """Here sums are of float32, which is no difference."""
    net = chain(layer, neuron).to(dtype).eval()
    taken = pk.from_spikingjelly(net)
    assert {parameter.dtype for parameter in taken.parameters()} == {dtype}


def test_a_subclass_with_a_forward_of_its_own_is_named(layer, neuron):
    """The batch normalisation of "Going deeper with directly-trained larger spiking neural networks"."""

    class tdBN(layer.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) * 0.5

    class Doubled(layer.MaxPool2d):
        def forward(self, x):
            return 2 * super().forward(x)

    for place, module, base in (("bn", tdBN(6), "BatchNorm2d"), ("pool", Doubled(2), "MaxPool2d")):
        net = chain(layer, neuron, **{place: module})
        message = f"Sequential: module '{place}' is a {type(module).__name__}, whose forward gives something else"
        with pytest.raises(ValueError, match=f"{message} than {base}'s"):
            pk.from_spikingjelly(net)
        pk.from_spikingjelly(net, check=False)


def test_a_subclass_that_does_the_same_is_taken(layer, neuron):
    class Same(layer.Conv2d):
        shape = None  # is found out in the first call

        def forward(self, x):
            self.shape = self.shape or tuple(x.shape)
            return super().forward(x)

    net = chain(layer, neuron, conv=Same(2, 6, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pk.from_spikingjelly(net)
    assert net.conv.shape is None  # it was a copy that ran


@pytest.mark.parametrize("place", ["conv", "bn", "pool", "fc"])
def test_a_patched_forward_is_named(layer, neuron, place):
    net = chain(layer, neuron)
    module = net.get_submodule(place)
    forward = module.forward
    module.forward = lambda x: 0.75 * forward(x)
    with pytest.raises(ValueError, match=f"module '{place}' is a {type(module).__name__}, whose forward gives"):
        pk.from_spikingjelly(net)


@pytest.mark.parametrize("place", ["fc", "sn1"])
def test_hooks_are_refused_and_not_run(layer, neuron, place):
    """A monitor would record what the comparison gives the neurons; another hook may change what a module gives."""
    net, records = chain(layer, neuron), []
    handle = net.get_submodule(place).register_forward_hook(lambda module, x, y: records.append(y))
    with pytest.raises(TypeError, match=f"net's module '{place}' has a forward hook, which the imported network would"):
        pk.from_spikingjelly(net)
    assert not records
    handle.remove()
    pk.from_spikingjelly(net)


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook"])
def test_hooks_of_all_modules_are_refused(layer, neuron, kind):
    """They would change the original and what is compared with it alike."""
    register = getattr(nn.modules.module, f"register_module_{kind}")
    handle = register(lambda module, x, *y: 2 * (y or x)[0] if isinstance(module, nn.Linear) else None)
    try:
        with pytest.raises(TypeError, match="a forward hook of all modules is registered, which the imported network"):
            pk.from_spikingjelly(chain(layer, neuron))
        with pytest.raises(TypeError, match="a forward hook of all modules is registered, which the spiking network"):
            pk.convert(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.rand(4, 4))
    finally:
        handle.remove()
    pk.from_spikingjelly(chain(layer, neuron))


@pytest.mark.parametrize("patched", ["sn1", "sn2"])
def test_neurons_with_a_forward_of_their_own_are_named(layer, neuron, patched):
    net = chain(layer, neuron)
    module = net.get_submodule(patched)
    forward = module.forward
    module.forward = lambda x: forward(1.5 * x)
    with pytest.raises(TypeError, match=f"Sequential: module '{patched}' has a forward that was assigned to it, which"):
        pk.from_spikingjelly(net)


def test_a_patched_network_is_refused(layer, neuron):
    net = chain(layer, neuron)
    forward = net.forward
    net.forward = lambda x: forward(2 * x)
    with pytest.raises(TypeError, match="Sequential has a forward that was assigned to it, which the"):
        pk.from_spikingjelly(net)


def test_nothing_is_changed(layer, neuron):
    net = chain(layer, neuron).train()
    net(torch.rand(1, 2, 8, 8))
    before, v = torch.get_rng_state(), net.sn1.v
    statistics = net.bn.running_mean.clone()
    pk.from_spikingjelly(net)
    assert net.training and equal(torch.get_rng_state(), before)
    assert net.sn1.v is v and equal(net.bn.running_mean, statistics)
    assert not net.sn1._forward_hooks


def test_a_sample_of_the_callers(layer, neuron):
    """A net that only its user knows an input for, and inputs that do not fit."""

    class Tiny(nn.Identity):
        def forward(self, x):
            assert x.abs().max() < 1e-3, "tiny inputs alone"
            return x

        __module__ = nn.Identity.__module__  # torch.fx does not look into it

    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.net = Tiny(), chain(layer, neuron)

        def forward(self, x):
            return self.net(self.first(x))

    with pytest.warns(UserWarning, match="Strange was taken over and not compared with the original: it does not run"):
        pk.from_spikingjelly(Strange())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pk.from_spikingjelly(Strange(), torch.rand(3, 2, 8, 8) * 1e-4)
    with pytest.raises(ValueError, match=r"sample: Strange cannot run \[3, 2, 8, 8\]: tiny inputs alone"):
        pk.from_spikingjelly(Strange(), torch.rand(3, 2, 8, 8))


def test_neurons_of_a_kind_of_their_own_are_named(layer, neuron):
    """Kinds that are derived of the library's are taken for these, and are compared."""

    class Same(neuron.IFNode):
        pass

    class Other(neuron.IFNode):
        def single_step_functional_forward(self, inputs, states, **options):
            return super().single_step_functional_forward((1.5 * inputs[0],), states, **options)

    assert pk.from_spikingjelly(chain(layer, neuron, sn1=Same())).conv.neuron == pk.neurons.IFNeuron()
    with pytest.raises(ValueError, match="Sequential: module 'sn1' is not what was made of it: .* % of its spikes"):
        pk.from_spikingjelly(chain(layer, neuron, sn1=Other()))


# snnTorch


def looped(snn) -> nn.Module:
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.fc1, self.lif1 = nn.Linear(30, 20), snn.Leaky(beta=0.9)
            self.fc2, self.lif2 = nn.Linear(20, 10), snn.Leaky(beta=0.8)

        def forward(self, x):
            mem1, mem2, spikes = self.lif1.init_leaky(), self.lif2.init_leaky(), []
            for step in range(7):
                spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
                spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
                spikes.append(spk2)
            return torch.stack(spikes)

    return Net()


@pytest.mark.parametrize("place", ["fc1", "fc2"])
def test_snntorch_modules_that_are_patched_are_named(place):
    net = looped(pytest.importorskip("snntorch"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pk.from_snntorch(net)
    module = net.get_submodule(place)
    forward = module.forward
    module.forward = lambda x, *states: forward(0.5 * x, *states)
    with pytest.raises(ValueError, match=f"Net: module '{place}' is "):
        pk.from_snntorch(net)


def test_other_networks_of_snntorch_keep_their_potentials():
    """snnTorch's own reset would reset all networks there are."""
    snn = pytest.importorskip("snntorch")
    other = nn.Sequential(nn.Linear(3, 4), snn.Leaky(beta=0.9, init_hidden=True))
    other(torch.ones(2, 3))
    before = other[1].mem.clone()
    assert before.any()
    pk.from_snntorch(nn.Sequential(nn.Linear(3, 4), snn.Leaky(beta=0.9, init_hidden=True)))
    assert equal(other[1].mem, before)


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 5), (3, 2, 10), (2, 10), (10,), (6, 5), (1, 3, 2, 5), ()])
def test_outputs_of_another_shape_differ(shape):
    """All steps, or one value for all, may be given; nothing else passes."""
    y = torch.zeros(3, 2, 5)
    with pytest.raises(Difference, match=r"its output has the shape \[.*\], and \[3, 2, 5\] here"):
        Outputs().check(y, torch.ones(3), torch.zeros(shape))
    for right in (y, y[0], list(y), (y, "more")):
        Outputs().check(y, torch.ones(3), right)
        with pytest.raises(Difference, match="its output differs by up to 1"):
            Outputs().check(y + 1, torch.ones(3), right)


def images(*size: int) -> torch.Tensor:
    return torch.rand(4, *(size or (3, 8, 8)), generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Linear(4, 5)
        self.places = nn.Parameter(torch.rand(1, 4, 96, 96))
        self.steps = forward

    def forward(self, x):
        return self.steps(self, x)


def of_autocast(m, x):
    with torch.autocast(x.device.type):
        return m.c(m.a(x).relu().mean((2, 3)))


def of_autocast_by_name(m, x):
    with torch.autocast("cpu"):
        return m.c(m.a(x).relu().mean((2, 3)))


def embedded(m, x):
    return m.c((m.a(x).relu() + m.places).mean((2, 3)))


CONVERTED = {
    "autocast": (of_autocast, images(), "take torch.autocast out of the forward pass"),
    "autocast by name": (of_autocast_by_name, images(), "as under a torch.autocast .*; take it out of the forward pa"),
    "position embedding": (
        embedded, images(3, 96, 96), r"add\(\) has another constant for each of 36,864 values, as a position embedding",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERTED)
def test_forward_passes_that_cannot_be_converted(name):
    forward, x, message = CONVERTED[name]
    with pytest.raises(TypeError, match=message):
        pk.convert(Model(forward).eval(), x)


def relu_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


def by_hand() -> nn.Module:
    return nn.Sequential(pk.FusedIFConv2d(3, 4, 3), pk.Flatten(), pk.FusedIFLinear(144, 5)).eval()


RUNS = {"simulate": lambda net, x: pk.simulate(net, x, 8), "compile": pk.compile}


@pytest.mark.parametrize("run", RUNS)
def test_networks_that_no_run_takes(run):
    net = pk.convert(relu_network(), images())
    trained = pk.use_surrogate(by_hand(), pk.ATan())
    for wrong, message in (
        (relu_network(), "proxykernels.convert makes a spiking network of a ReLU network"),
        (pk.ProxyNet(net, 8), "net is a ProxyNet, which trains a network: pass that network, the ProxyNet's .net"),
        (pk.SurrogateNet(trained, 8), "net is a SurrogateNet, which trains a network: pass that network"),
        (
            copy.deepcopy(net).to("meta"),
            "net is on the meta device: .* has no values; load the network's weights first",
        ),
        (by_hand().to("meta"), "net is on the meta device: .* has no values; load the network's weights first"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            RUNS[run](wrong, images())


def test_calls_of_networks_without_weights_and_of_images_without_steps():
    net, x = pk.convert(relu_network(), images()), images()
    with pytest.raises(ValueError, match=r"with steps in front, got \[4, 3, 8, 8\].*simulate\(net, x, T\)"):
        net(x)
    for meta in (copy.deepcopy(net).to("meta"), by_hand().to("meta")):
        with pytest.raises(
            ValueError, match="weight is on meta and the input on cpu; it has no values: load them first"
        ):
            meta(x.expand(8, *x.shape))


def test_images_with_their_channels_last():
    message = r"\[\d, 8, 8, 3\] has its 3 channels last, and they must be before H and W: .*\.permute\(0, 3, 1, 2\)"
    net, x = pk.convert(relu_network(), images()), images().permute(0, 2, 3, 1)
    engine = pk.compile(net, images())
    for call in (
        lambda: pk.simulate(net, x, 8), lambda: pk.simulate(by_hand(), x, 8), lambda: pk.compile(net, x),
        lambda: pk.ProxyNet(by_hand(), 8)(x), lambda: engine(x, 8), lambda: engine.stream(4)(x),
        lambda: pk.convert(relu_network(), x),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()
    sequence = x.expand(8, *x.shape)
    with pytest.raises(ValueError, match=r"x \[8, 4, 8, 8, 3\] has its 3 channels last.*permute\(0, 1, 4, 2, 3\)"):
        pk.simulate(net, sequence, 8)
    square = nn.Sequential(pk.FusedIFConv2d(8, 4, 3), pk.Flatten(), pk.FusedIFLinear(144, 5))
    assert pk.simulate(square, images(8, 8, 8), 4).count().shape == (4, 5)
    joined = Model(lambda m, y: torch.relu(m.b(y[:, [1, 0, 0, 1]]))).eval()  # the convolution takes 4, the network 2
    joined.b = nn.Conv2d(4, 4, 1, groups=2)
    assert pk.simulate(pk.convert(joined, images(2, 4, 4), neuron="graded"), images(2, 4, 4), 1).potentials.any()


def test_parameters_of_neurons_where_a_neuron_is_taken():
    for options in ({"v_threshold": 2.0}, {"neuron": pk.neurons.IFNeuron(), "decay": 0.9}):
        with pytest.raises(TypeError, match=r"FusedRecurrentLinear got .*: give it to the neuron, as in neuron="):
            pk.FusedRecurrentLinear(4, 5, **options)


def test_graphs_of_nir_with_nodes_that_the_exporter_did_not_know():
    """As Norse's of a LIFRecurrentCell."""
    affine = nir.Affine(torch.rand(5, 4).numpy(), torch.rand(5).numpy())
    nodes = {"input": nir.Input({"input": torch.tensor([4]).numpy()}), "0": affine, "1": None}
    nodes["output"] = nir.Output({"output": torch.tensor([5]).numpy()})
    graph = nir.NIRGraph.__new__(nir.NIRGraph)
    graph.nodes, graph.edges, graph.metadata = nodes, [("input", "0"), ("0", "1"), ("1", "output")], {}
    with pytest.raises(
        TypeError, match="node '1' is None: the library .*LIFRecurrentCell; build it here, as a proxyker"
    ):
        pk.from_nir(graph)


class Excitation(nn.Module):
    """As a MobileNetV3 has it."""

    def __init__(self, channels):
        super().__init__()
        self.pool, self.a, self.b = nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.b(self.a(self.pool(x)).relu()))


def test_all_obstacles_are_named_at_once():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Hardswish(), Excitation(4), nn.Conv2d(4, 4, 3), nn.Hardswish(), Excitation(4),
        nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5),
    ).eval()  # fmt: skip
    with pytest.raises(TypeError) as found:
        pk.convert(net, images())
    first, total, *lines = str(found.value).splitlines()
    assert first.startswith("Sequential: module '1' is a Hardswish, which has no counterpart in spikes")
    assert total == "Sequential has 5 such parts; change all of them, then continue training once:"
    assert [line.split(";")[0].strip() for line in lines] == [
        "2 x Hardswish (module '1', module '4')", "2 x squeeze-and-excitation block (module '2', module '5')",
        "1 x GroupNorm (module '6')",
    ]  # fmt: skip
    assert all(any(word in line for word in ("replace", "remove")) for line in lines)
