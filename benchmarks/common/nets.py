"""The networks that are timed and trained: a small one, those of the proxy-learning paper, and a VGG.

Written C for a convolution's channels, P2 for 2x2 max pooling, and a plain number for a linear layer:

    small    32C3-64C3-P2-64C3-P2-256-10
    paper    128C3-BN-128C3-BN-P2-128C3-BN-P2-2560-1152-256-10, without biases (arXiv 2109.13208)
    cifar10  256C3-512C3-P2-512C3-512C3-512C3-P2-256C3-1024-512-256-10, in the same way; the size of the paper's
             CIFAR-10 network as a re-implementation gives it
    vgg      64C3-64C3-P2-128C3-128C3-P2-256C3-256C3-P2-512-10, in the same way

The last layer has one neuron for each class. Neurons integrate and fire, or leak if they are given a ``decay``.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import proxykernels as pk
from common import firing_rates, weights_file
from common.checkout import WEIGHTS
from proxykernels.training import fi_curve

GRAY = {"shape": (1, 28, 28), "classes": 10}  # of the images, by default
COLOUR = {"shape": (3, 32, 32), "classes": 10}
TWIN = "twin."  # prefix of tensors in a weights file that only the ReLU twin has


def small(v_threshold: float = 1.0, v_reset: float | None = 0.0, **options) -> nn.Sequential:
    """32C3-64C3-P2-64C3-P2-256-10 with biases. ``options``: of ``build``, here and below."""
    return build("32C3-64C3-P2-64C3-P2-256", v_threshold, v_reset, batch_norm=False, **GRAY | options)


def paper(v_threshold: float = 2.0, v_reset: float | None = 0.0, **options) -> nn.Sequential:
    """The paper's for Fashion-MNIST; the threshold is the authors'."""
    return build("128C3-128C3-P2-128C3-P2-2560-1152-256", v_threshold, v_reset, **GRAY | options)


def cifar10(v_threshold: float = 3.0, v_reset: float | None = 0.0, **options) -> nn.Sequential:
    """The paper's for CIFAR-10; the threshold is the re-implementation's."""
    layers = "256C3-512C3-P2-512C3-512C3-512C3-P2-256C3-1024-512-256"
    return build(layers, v_threshold, v_reset, **COLOUR | options)


def vgg(v_threshold: float = 1.0, v_reset: float | None = 0.0, **options) -> nn.Sequential:
    """A VGG with seven layers of weights before the last."""
    layers = "64C3-64C3-P2-128C3-128C3-P2-256C3-256C3-P2-512"
    return build(layers, v_threshold, v_reset, **COLOUR | options)


def build(
    layers: str,
    v_threshold: float,
    v_reset: float | None,
    shape: Sequence[int],
    classes: int,
    batch_norm: bool = True,
    linear_norm: bool = False,
    dropout: float = 0.0,
    width: float = 1.0,
    decay: float | None = None,
    pool: str = "spikes",
) -> nn.Sequential:
    """A network from its notation without the last layer, for images of ``shape`` (C, H, W).

    Args:
        batch_norm: the paper's way: normalisation after each convolution, and no biases anywhere. Else: biases.
        decay: of leaky neurons; None: they integrate and fire. Where leaky neurons have biases, these start at the
            currents from which they fire: without them weights as small as torch's make no spikes, and none learns.
        linear_norm: normalisation also after each linear layer except the last.
        dropout: share of the inputs of each linear layer but the last that is dropped in training.
        pool: of P2: the maximum of "spikes" at each step, or of "rates".
        width: share of each layer's channels or neurons that the network has, except in the last.
    """
    neuron = {"neuron": neurons(v_threshold, v_reset, decay), "bias": not batch_norm}
    modules: OrderedDict[str, nn.Module] = OrderedDict()

    def scaled(size: str, hidden: bool = True) -> int:
        return max(1, round(int(size) * width)) if hidden else int(size)

    def add(kind: str, module: nn.Module) -> None:
        number = sum(name.startswith(kind) for name in modules) + 1
        modules[f"{kind}{number}"] = module

    channels, rows, columns = shape
    features = None
    parts = [*layers.split("-"), str(classes)]
    for index, layer in enumerate(parts):
        hidden = index < len(parts) - 1
        if layer.startswith("P"):
            window = int(layer[1:])
            add("pool", (pk.MaxRatePool2d if pool == "rates" else pk.MaxPool2d)(window))
            rows, columns = rows // window, columns // window
        elif "C" in layer:
            size, kernel = layer.split("C")
            out, kernel = scaled(size), int(kernel)
            padding = kernel // 2
            add("conv", pk.FusedConv2d(channels, out, kernel, padding=padding, batch_norm=batch_norm, **neuron))
            channels = out
        else:
            if features is None:
                modules["flatten"] = pk.Flatten()
                features = channels * rows * columns
            if dropout and hidden:
                add("dropout", pk.Dropout(dropout))
            out = scaled(layer, hidden)
            add("linear", pk.FusedLinear(features, out, batch_norm=linear_norm and hidden, **neuron))
            features = out
    net = nn.Sequential(modules)
    if decay is not None:
        _start_at_onset(net)
    return net


def neurons(v_threshold: float, v_reset: float | None, decay: float | None = None) -> pk.neurons.IFNeuron:
    """Neurons that integrate and fire, or leaky ones."""
    if decay is None:
        return pk.neurons.IFNeuron(v_threshold=v_threshold, v_reset=v_reset)
    return pk.neurons.LIFNeuron(v_threshold=v_threshold, v_reset=v_reset, decay=decay)


def start_at(net: nn.Module, share: float) -> None:
    """Give each layer a share of its threshold as initial potential."""
    for layer in net.modules():
        if isinstance(layer, pk.layers.Fused):
            layer.v_init = share * float(layer.v_threshold)


@torch.no_grad()
def _start_at_onset(net: nn.Sequential) -> None:
    for layer in net:
        if isinstance(layer, pk.layers.Fused):
            for bias in (layer.bias, getattr(layer.bn, "bias", None)):
                if bias is not None:
                    bias += fi_curve.onset(layer.neuron)


NETS = {"small": small, "paper": paper}  # for Fashion-MNIST
TRAINABLE = NETS | {"cifar10": cifar10, "vgg": vgg}  # names of train.py's --net
FORMER_NAMES = {"paper-fashion": "paper", "paper-cifar": "cifar10"}  # in files of 0.1.0


def load(
    name: str, v_reset: float | None, path: Path | None = None, decay: float | None = None, random: bool = False
) -> tuple[nn.Sequential, bool]:
    """The network in eval mode, and whether it is trained.

    It is trained by the weights of ``path``, a file of train.py; without one, by the shipped file ``weights/<name>.*``
    if there is one and neither ``decay`` nor ``random`` is given. Otherwise the weights are random, always the same,
    scaled to realistic firing rates.
    """
    path = path or (shipped().get(name) if decay is None and not random else None)
    if path is None:
        return _random(name, v_reset, decay), False
    net, _ = load_file(path, NETS[name])
    for layer in net.modules():
        if hasattr(layer, "v_reset"):
            layer.v_reset = v_reset
    return net, True


def shipped() -> dict[str, Path]:
    """The files of trained networks that stand beside the benchmarks, by their names in NETS."""
    files = {weights_file.stem(path): path for path in sorted(WEIGHTS.glob("*.safetensors*"))}
    return {name: path for name, path in files.items() if name in NETS}


def net_of(path: Path | None, name: str | None = None) -> str:
    """The name in NETS of the network in ``path``, a file of train.py; without a file ``name``, by default small.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is damaged, or not of the network ``name``.
    """
    if path is None:
        return name or "small"
    _, about = load_file(path, NETS[name or "small"])
    found = about["net"] if about.get("net") in TRAINABLE else name or "small"
    if found not in NETS or name not in (None, found):
        raise ValueError(f"{path} is of the network {about['net']}; needed is {name or 'one of ' + ', '.join(NETS)}")
    return found


def reset_of(name: str, path: Path | None, random: bool) -> str:
    """The reset that the network of ``load`` was trained with; of ``random`` weights: hard.

    Raises:
        FileNotFoundError, ValueError: as of ``load_file``.
    """
    path = path or (None if random else shipped().get(name))
    return "hard" if path is None else weights_file.read(path)[1].get("reset", "hard")


def load_file(path: Path, make=None) -> tuple[nn.Sequential, dict[str, str]]:
    """The network in eval mode that train.py saved in ``path``, and the file's metadata.

    The file (weights_file.py) holds a state_dict; its metadata name the threshold, the reset and the net. ``make``
    makes the net where the metadata do not. The statistics of the ReLU twin are left aside.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is damaged, or of another kind.
    """
    state, about = weights_file.read(Path(path))
    if about.get("net") in FORMER_NAMES:
        about["net"] = FORMER_NAMES[about["net"]]
    told = weights_file.values(path, about, "v_threshold")
    state = {key: tensor for key, tensor in state.items() if not key.startswith(TWIN)}
    if about.get("net", "") not in TRAINABLE and make is None:
        raise ValueError(f"{path} names no known network ({about.get('net')!r}); known: {', '.join(TRAINABLE)}")
    make = TRAINABLE.get(about.get("net", ""), make)
    neuron = {"v_threshold": told["v_threshold"], "v_reset": None if told.get("reset") == "soft" else 0.0}
    kind = {key: told[key] for key in ("shape", "classes", "linear_norm", "pool", "width") if key in told}
    with torch.device("meta"):  # nothing is made of a size that the tensors do not have
        _check_tensors(path, state, make(**neuron, **kind))
    net = make(**neuron, **kind, **{key: told[key] for key in ("decay",) if key in told})
    try:
        net.load_state_dict(state)  # casts to float32
    except RuntimeError as error:
        raise ValueError(f"{path} is of another network: {str(error).splitlines()[1].strip()}") from error
    return net.eval(), about


def _check_tensors(path: Path, state: dict[str, Tensor], net: nn.Module) -> None:
    """ValueError if the tensors of a file are not those of the network; those of its neurons are not looked at."""
    own = _neuron_keys(net)
    for key, expected in net.state_dict().items():
        found = state.get(key)
        if key in own:
            continue
        if found is None:
            raise ValueError(f"{path} is of another network: {key} is missing")
        if found.shape != expected.shape or found.is_floating_point() != expected.is_floating_point():
            raise ValueError(
                f"{path} is of another network: {key} is {found.dtype} {list(found.shape)}, needed is "
                f"{expected.dtype} {list(expected.shape)}"
            )


def _neuron_keys(net: nn.Module) -> set[str]:
    """The keys of a state_dict that are no weights, but the neurons' parameters."""
    layers = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, pk.layers.Neurons)]
    return {f"{name}.{attribute}" for name, layer in layers for attribute in layer.neuron_attributes}


@torch.no_grad()
def take_over(net: nn.Sequential, source: nn.Sequential) -> None:
    """Give ``net`` the weights of ``source``, a network of the same layers whose neurons integrate and fire.

    If its own neurons leak, currents are scaled and shifted so that its ReLU twin computes what that of ``source``
    does, up to the rate 1/2.

    Raises:
        ValueError: other layers, other max pooling, other thresholds, or leaky neurons in a layer without biases.
    """
    own = _neuron_keys(source)
    weights = {key: value for key, value in source.state_dict().items() if key not in own}
    try:
        missing, _ = net.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"the weights to start from are of another network: {error}".splitlines()[0]) from error
    if missing:
        raise ValueError(f"the weights to start from are of another network: {missing[0]} is missing")
    for name, layer in net.named_children():
        if name.startswith("pool") and type(layer) is not type(source.get_submodule(name)):
            pool = "rates" if isinstance(layer, pk.MaxPool2d) else "spikes"
            raise ValueError(f"the weights to start from are of a network that pools {pool}; pass --pool {pool}")
        if not isinstance(layer, pk.layers.Fused):
            continue
        layer.v_init = source.get_submodule(name).v_init
        before = source.get_submodule(name).neuron
        if layer is list(net)[-1] and type(layer.neuron) is type(before) is pk.neurons.IFNeuron:  # of its own
            layer.v_threshold = before.v_threshold
        if type(before) is not pk.neurons.IFNeuron or before.v_threshold != layer.v_threshold:
            raise ValueError(f"the weights to start from are of {before}; needed are IFNeurons of {layer.v_threshold}")
        if isinstance(layer.neuron, pk.neurons.LIFNeuron):
            scaled = layer.bn or layer
            if scaled.bias is None:
                raise ValueError(f"{name} has no biases, which leaky neurons need to start from those that do not leak")
            slope = fi_curve.slope(layer.neuron) * layer.v_threshold
            scaled.weight /= slope
            scaled.bias.copy_(scaled.bias / slope + fi_curve.onset(layer.neuron))


def _random(name: str, v_reset: float | None, decay: float | None = None) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = NETS[name](v_reset=v_reset, decay=decay).eval()
    firing_rates.scale_weights(net)
    return net
