"""Networks of SpikingJelly's and snnTorch's model zoos and tutorials, and how each library runs them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.samples import saccade_frames

from .relu_nets import images, see

T, N = 16, 2
SEEN = 8  # inputs that normalisations see


@dataclass(frozen=True)
class SpikingNet:
    """A network, the inputs that it takes, [N, ...] constant or [T, N, ...], and what takes it over."""

    source: str
    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    port: Callable[[nn.Module, Tensor], pk.Network]


def spiking_nets() -> list[SpikingNet]:
    """All networks of those libraries that are installed."""
    nets = []
    for library in (_spikingjelly, _snntorch):
        try:
            nets += library()
        except ImportError as error:
            print(f"left out: {error}")
    return nets


def fired(net: nn.Module, x: Tensor, sequence: bool) -> tuple[list[Tensor], Tensor]:
    """What every layer of neurons of a network of either library fires in T steps, in the order of the forward pass,
    and the network's output: [T, N, ...].
    """
    library = type(next(module for module in net.modules() if is_neuron(module))).__module__.split(".")[0]
    return (_fired_in_spikingjelly if library == "spikingjelly" else _fired_in_snntorch)(net, x, sequence)


def is_neuron(module: nn.Module) -> bool:
    """Whether a module is one of either library's neurons."""
    names = [kind.__module__ for kind in type(module).__mro__]
    return any(name.startswith(("spikingjelly.activation_based.neuron", "snntorch._neurons")) for name in names)


# SpikingJelly


def _spikingjelly() -> list[SpikingNet]:
    from spikingjelly.activation_based import functional, neuron, surrogate
    from spikingjelly.activation_based.model import (
        masnn,
        maxformer,
        ms_resnet,
        parametric_lif_net,
        qkformer,
        sew_resnet,
        spike_driven_transformer,
        spikformer,
        spiking_resnet,
        spiking_vgg,
    )

    def net(name: str, make: Callable[..., nn.Module], inputs=None, mode="m", **options) -> SpikingNet:
        options = {"spiking_neuron": neuron.LIFNode, "surrogate_function": surrogate.ATan(), **options}

        def in_mode() -> nn.Module:
            made = make(**{key: value for key, value in options.items() if value is not None})
            functional.set_step_mode(made, mode)
            return made

        return SpikingNet("SpikingJelly", name, in_mode, inputs or images(), pk.from_spikingjelly)

    transformer = spike_driven_transformer.SpikeDrivenTransformer
    plif, classes = {"spiking_neuron": neuron.ParametricLIFNode, "channels": 32}, {"num_classes": 10}
    return [
        net("CSNN of the tutorial", _csnn, images(28, 1), spiking_neuron=None, surrogate_function=None),
        net("spiking_resnet18", spiking_resnet.spiking_resnet18, **classes),
        net("spiking_resnet34, single-step", spiking_resnet.spiking_resnet34, mode="s", **classes),
        net("spiking_vgg11_bn", spiking_vgg.spiking_vgg11_bn, **classes),
        net("sew_resnet18, ADD", sew_resnet.sew_resnet18, cnf="ADD", **classes),
        net("sew_resnet18, AND", sew_resnet.sew_resnet18, cnf="AND", **classes),
        net("sew_resnet18, IAND", sew_resnet.sew_resnet18, cnf="IAND", **classes),
        net("ms_resnet18", ms_resnet.ms_resnet18, T=T, **classes),
        net("max_resnet18", ms_resnet.max_resnet18, T=T, **classes),
        net("att_ms_resnet18", masnn.att_ms_resnet18, T=T, **classes),
        net("Spikformer of CIFAR-10", spikformer.spikformer_cifar10, T=T, **classes),
        net("QKFormer, half width", qkformer.QKFormer, T=T, embed_dims=192, **classes),
        net("Spike-driven Transformer, half width", transformer, T=T, embed_dims=192, depths=2, **classes),
        net("MaxFormer of CIFAR-10", maxformer.maxformer_cifar, T=T, **classes),
        net("CIFAR10Net, voting", parametric_lif_net.CIFAR10Net, **plif),
        net("DVSGestureNet, voting", parametric_lif_net.DVSGestureNet, _frames(128), **plif),
    ]


def _csnn() -> nn.Module:
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    class CSNN(nn.Module):
        """spikingjelly.activation_based.examples.conv_fashion_mnist, which imports what the table needs not."""

        def __init__(self, T: int, channels: int):
            super().__init__()
            self.T = T
            self.conv_fc = nn.Sequential(
                layer.Conv2d(1, channels, kernel_size=3, padding=1, bias=False), layer.BatchNorm2d(channels),
                neuron.IFNode(surrogate_function=surrogate.ATan()), layer.MaxPool2d(2, 2),
                layer.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False), layer.BatchNorm2d(channels),
                neuron.IFNode(surrogate_function=surrogate.ATan()), layer.MaxPool2d(2, 2), layer.Flatten(),
                layer.Linear(channels * 7 * 7, channels * 4 * 4, bias=False),
                neuron.IFNode(surrogate_function=surrogate.ATan()), layer.Linear(channels * 4 * 4, 10, bias=False),
                neuron.IFNode(surrogate_function=surrogate.ATan()),
            )  # fmt: skip
            functional.set_step_mode(self, step_mode="m")

        def forward(self, x: Tensor) -> Tensor:
            x_seq = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)
            x_seq = self.conv_fc(x_seq)
            return x_seq.mean(0)

    return CSNN(T, 32)


def _frames(size: int) -> Callable[[], Tensor]:
    """Event frames [T, N, 2, size, size] of a camera that moves before images of Fashion-MNIST."""

    def make() -> Tensor:
        frames = saccade_frames(pk.samples.fashion_mnist()[0][:SEEN], T).float().transpose(0, 1)
        return F.interpolate(frames.flatten(0, 1), size).unflatten(0, frames.shape[:2])

    return make


@torch.no_grad()
def _fired_in_spikingjelly(net: nn.Module, x: Tensor, sequence: bool) -> tuple[list[Tensor], Tensor]:
    from spikingjelly.activation_based import functional

    functional.reset_net(net)
    single = any(getattr(module, "step_mode", "m") == "s" for module in net.modules())
    if hasattr(net, "T"):  # it repeats its input itself
        return _watched(net, lambda: net(x))
    steps = x if sequence else x.expand(T, *x.shape).contiguous()
    return _watched(net, lambda: torch.stack([net(step) for step in steps]) if single else net(steps))


# snnTorch


def _snntorch() -> list[SpikingNet]:
    import snntorch as snn
    from snntorch import surrogate

    def net(name: str, make: Callable[[], nn.Module]) -> SpikingNet:
        return SpikingNet("snnTorch", name, make, images(28, 1), pk.from_snntorch)

    class Tutorial5(nn.Module):
        """snntorch.readthedocs.io, tutorial 5; it flattens its input before the call there."""

        def __init__(self):
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(784, 1000), snn.Leaky(beta=0.95)
            self.fc2, self.lif2 = nn.Linear(1000, 10), snn.Leaky(beta=0.95)

        def forward(self, x: Tensor):
            mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
            spk2_rec, mem2_rec = [], []
            for _ in range(T):
                spk1, mem1 = self.lif1(self.fc1(x.flatten(1)), mem1)
                spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
                spk2_rec.append(spk2)
                mem2_rec.append(mem2)
            return torch.stack(spk2_rec, dim=0), torch.stack(mem2_rec, dim=0)

    class ConvolutionalLif(nn.Module):
        """Convolutions with normalisation, a threshold that is learnt, and an average at the end of the images."""

        def __init__(self):
            super().__init__()
            options = {"init_hidden": True, "spike_grad": surrogate.atan()}
            self.conv1, self.bn1 = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
            self.lif1 = snn.Leaky(beta=0.9, reset_mechanism="zero", learn_threshold=True, **options)
            self.conv2, self.bn2 = nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32)
            self.lif2 = snn.Leaky(beta=0.8, reset_mechanism="zero", **options)
            self.fc, self.lif3 = nn.Linear(32 * 49, 10), snn.Leaky(beta=0.9, threshold=0.2, output=True, **options)

        def forward(self, x: Tensor):
            x = F.max_pool2d(self.lif1(self.bn1(self.conv1(x))), 2)
            x = self.lif2(self.bn2(self.conv2(x)))
            return self.lif3(self.fc(x.view(x.size(0), -1)))

    def tutorial6() -> nn.Sequential:
        options = {"beta": 0.5, "spike_grad": surrogate.fast_sigmoid(slope=25), "init_hidden": True}
        return nn.Sequential(
            nn.Conv2d(1, 12, 5), nn.MaxPool2d(2), snn.Leaky(**options),
            nn.Conv2d(12, 64, 5), nn.MaxPool2d(2), snn.Leaky(**options),
            nn.Flatten(), nn.Linear(64 * 4 * 4, 10), snn.Leaky(**options, output=True),
        )  # fmt: skip

    class Tutorial6(nn.Module):
        """Its second form, one step with the potentials in its hands."""

        def __init__(self):
            super().__init__()
            beta, spike_grad = 0.5, surrogate.fast_sigmoid(slope=25)
            self.conv1, self.lif1 = nn.Conv2d(1, 12, 5), snn.Leaky(beta=beta, spike_grad=spike_grad)
            self.conv2, self.lif2 = nn.Conv2d(12, 64, 5), snn.Leaky(beta=beta, spike_grad=spike_grad)
            self.fc1, self.lif3 = nn.Linear(64 * 4 * 4, 10), snn.Leaky(beta=beta, spike_grad=spike_grad)

        def forward(self, x: Tensor):
            mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
            spikes, potentials = [], []
            for _ in range(T):
                spk1, mem1 = self.lif1(F.max_pool2d(self.conv1(x), 2), mem1)
                spk2, mem2 = self.lif2(F.max_pool2d(self.conv2(spk1), 2), mem2)
                spk3, mem3 = self.lif3(self.fc1(spk2.view(spk2.size(0), -1)), mem3)
                spikes.append(spk3)
                potentials.append(mem3)
            return torch.stack(spikes), torch.stack(potentials)

    return [
        net("tutorial 5, loop in forward", Tutorial5),
        net("tutorial 6, nn.Sequential", tutorial6),
        net("tutorial 6, loop in forward", Tutorial6),
        net("convolutional LIF net", ConvolutionalLif),
    ]


@torch.no_grad()
def _fired_in_snntorch(net: nn.Module, x: Tensor, sequence: bool) -> tuple[list[Tensor], Tensor]:
    from snntorch import utils

    hidden = any(getattr(module, "init_hidden", False) for module in net.modules())
    if not hidden:
        return _watched(net, lambda: net(x)[0])
    utils.reset(net)
    return _watched(net, lambda: torch.stack([_first(net(step)) for step in (x if sequence else [x] * T)]))


def _watched(net: nn.Module, run: Callable[[], Tensor]) -> tuple[list[Tensor], Tensor]:
    """What neurons gave while ``run`` ran, in the order in which they were first called, and what it returned."""
    given: dict[nn.Module, list[Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda module, _, y: given.setdefault(module, []).append(_first(y).clone()))
        for module in net.modules()
        if is_neuron(module)
    ]
    output = run()
    for hook in hooks:
        hook.remove()
    return [steps[0] if len(steps) == 1 else torch.stack(steps) for steps in given.values()], output


def _first(value):
    return value[0] if isinstance(value, tuple) else value


def prepared(net: SpikingNet) -> tuple[nn.Module, Tensor]:
    """The network with random weights, whose normalisations have seen real inputs, and inputs to compare on."""
    torch.manual_seed(0)
    made, x = net.make(), net.inputs()
    held = x.ndim == 4
    seen = x[:SEEN] if held else x
    if any(isinstance(module, nn.BatchNorm2d) for module in made.modules()):
        repeats = "T" in vars(made)
        multi = any(getattr(module, "step_mode", "s") == "m" for module in made.modules()) and not repeats
        see(made, seen.expand(4, *seen.shape).contiguous() if multi and held else seen)
    return made.eval(), x[:N] if held else x[:, :N]
