"""Networks of Lava's files: integer layers and neurons of Loihi, as lava-dl's ``netx.hdf5`` reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ... import checks
from ...layers import Flatten
from ...network import Network
from ...neurons import LoihiNeuron, Value
from ..graph.rewrites import build_layer, build_recurrent

UNIT = 64  # of weights, biases and thresholds: Loihi shifts them by 6 bits
DECAYS = 4096
LARGEST_WEIGHT = 256
Shape = tuple[int, ...]

REFUSED = {
    "SDNN": "Lava's sigma-delta neurons send the whole difference, an integer, where it reaches a threshold; those "
    "here send a signed power of two",
    "RF": "there are no resonate-and-fire neurons here",
    "ADLIF": "there are no adaptive integer neurons here",
}


def from_lava(path: str | Path) -> Network:
    """Import a network from a ``.net`` file of lava-dl (HDF5): integers, bit for bit as Lava's "fixed_pt" has them.

    Args:
        path: the file. Its layers: ``input``, ``conv``, ``dense``, ``dense_rec`` and ``flatten``; neurons LOIHI or CUBA
            (LIF). Neurons of an ``input`` take x as Lava's ``bias_mant``: whole numbers, made of an image by the file's
            ``weight`` and ``bias``, which lava-dl leaves to the caller, too.

    Returns:
        A :class:`Network` of layers with :class:`neurons.LoihiNeuron`, named ``layer0``, ``layer1``, ... as in the
        file. Weights, biases and thresholds are 64 times the file's. Shapes: x (T, N, C, H, W) or (T, N, features).
        Where Lava's images are [W, H, C], those here are [C, H, W]. A spike arrives in the same step here, and in Lava
        one step later in each layer: Lava's output of layer k is this one k steps later.

    Raises:
        ImportError: h5py is not installed.
        ValueError: the file cannot be read, or a layer lacks a value, or has one that is no integer or out of range.
        TypeError: it has layers or neurons of another kind, delays, refractory periods or graded spikes. The message
            names the layer.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            layers = _read(file)["layer"]
            entries = [layers[str(k)] for k in range(len(layers))]
    except (OSError, KeyError, TypeError, UnicodeError) as error:
        raise ValueError(f"{path} cannot be read as a network of Lava: {error}") from error
    builder = _Builder()
    for k, entry in enumerate(entries):
        with checks.at(f"{path}: layer {k}"):
            if not isinstance(entry, dict):
                raise ValueError("it is no group of values")
            builder.add(f"layer{k}", entry)
    if not builder.net.layers():
        raise ValueError(f"{path} has no layers")
    return builder.net.eval()


class _Builder:
    """The network, layer by layer; ``shape``: of what the last one gives, as far as the file tells it."""

    def __init__(self) -> None:
        self.net, self.source = Network(), Network.INPUT
        self.shape: Shape | None = None

    def add(self, name: str, entry: dict[str, Any]) -> None:
        kind = entry.get("type")
        if kind not in _KINDS:
            raise TypeError(f"a layer of type {kind!r} is not supported; {', '.join(_KINDS)} are")
        if "delay" in entry and np.any(entry["delay"]):
            raise TypeError("delays are not supported; put a pk.Delay behind the layer")
        layer = _KINDS[kind](self, entry)
        if layer is not None:
            self.net.append(name, layer, (self.source,))
            self.source = name

    def input(self, entry: dict[str, Any]) -> nn.Module | None:
        self.shape = tuple(int(n) for n in np.atleast_1d(_needed(entry, "shape")))
        if "neuron" not in entry:
            return None
        if len(self.shape) not in (1, 3):
            raise TypeError(f"an input must be (features,) or (C, H, W), got {self.shape}")
        C = self.shape[0]
        image = len(self.shape) == 3
        scaling: Any = nn.Conv2d(C, C, 1, groups=C, bias=False) if image else nn.Linear(C, C, bias=False)
        _set(scaling, UNIT * (torch.ones(C, 1, 1, 1) if image else torch.eye(C)))
        # What Lava adds to the potential arrives as the current of the step, of which nothing is kept.
        return build_layer([scaling], _neuron(_needed(entry, "neuron"), None, keeps_current=False))

    def conv(self, entry: dict[str, Any]) -> nn.Module:
        weight = _weights(entry, "weight")
        if weight.ndim == 5 and weight.shape[4] == 1:
            weight = weight[..., 0]
        if weight.ndim != 4:
            raise ValueError(f"weight must be [out, in, height, width], got {list(weight.shape)}")
        groups = int(np.atleast_1d(entry.get("groups", 1))[0])
        stride, padding, dilation = (
            _pair(entry, key, n) for key, n in (("stride", 1), ("padding", 0), ("dilation", 1))
        )
        height, width = weight.shape[2:]
        module = nn.Conv2d(
            weight.shape[1] * groups, len(weight), (height, width), stride, padding, dilation, groups, bias=False
        )
        _set(module, UNIT * weight)
        self.shape = tuple(int(n) for n in np.atleast_1d(_needed(entry, "shape")))
        return build_layer([module], _neuron(_needed(entry, "neuron"), _bias(entry, len(weight))))

    def dense(self, entry: dict[str, Any]) -> nn.Module:
        module, neuron = self._product(entry)
        return build_layer([module], neuron)

    def dense_rec(self, entry: dict[str, Any]) -> nn.Module:
        module, neuron = self._product(entry)
        back = _weights(entry, "weight_rec").reshape(module.out_features, -1)
        return build_recurrent(module, neuron, UNIT * back)

    def flatten(self, entry: dict[str, Any]) -> nn.Module | None:
        return None if self.shape is not None and len(self.shape) == 1 else Flatten()

    def _product(self, entry: dict[str, Any]) -> tuple[nn.Linear, LoihiNeuron]:
        C = int(np.prod(_needed(entry, "shape")))
        weight = _weights(entry, "weight")
        if weight.numel() % C:
            raise ValueError(f"weight of {weight.numel()} values is none of {C} neurons")
        weight = weight.reshape(C, -1)
        module = nn.Linear(weight.shape[1], C, bias=False)
        _set(module, UNIT * weight)
        self.shape = (C,)
        return module, _neuron(_needed(entry, "neuron"), _bias(entry, C))


_KINDS: dict[str, Callable[[_Builder, dict[str, Any]], nn.Module | None]] = {
    "input": _Builder.input,
    "conv": _Builder.conv,
    "dense": _Builder.dense,
    "dense_rec": _Builder.dense_rec,
    "flatten": _Builder.flatten,
}


def _neuron(entry: Any, bias: Tensor | None, *, keeps_current: bool = True) -> LoihiNeuron:
    if not isinstance(entry, dict):
        raise ValueError("neuron is no group of values")
    kind = str(entry.get("type"))
    if kind not in ("LOIHI", "CUBA"):
        known = next((why for name, why in REFUSED.items() if kind.startswith(name)), "LOIHI and CUBA are")
        raise TypeError(f"neurons of type {kind!r} are not supported; {known}")
    if np.any(entry.get("gradedSpike", False)):
        raise TypeError("graded spikes are not supported; spikes here are 0 or 1")
    if np.any(np.asarray(entry.get("refDelay", 1)) != 1):
        raise TypeError(f"a refractory period (refDelay {entry['refDelay']}) is not supported; Lava has none either")
    v_decay, i_decay = (_whole(_needed(entry, name), name) for name in ("vDecay", "iDecay"))
    threshold = _whole(_needed(entry, "vThMant"), "vThMant")
    return LoihiNeuron(
        v_threshold=_value(UNIT * threshold + 1),  # Lava fires above the threshold, and not at it
        decay=_value(1 - v_decay / DECAYS),
        current_decay=_value(1 - i_decay / DECAYS) if keeps_current else 0.0,
        v_bias=0.0 if bias is None else _value(UNIT * bias),
    )


def _value(values: Tensor) -> Value:
    """A number, or one a channel, as neurons take them."""
    return values.item() if values.numel() == 1 else values.float()


def _read(group: Any) -> dict[str, Any]:
    """What an entry of a file holds: texts, arrays and entries."""
    import h5py

    found: dict[str, Any] = {}
    for name, item in group.items():
        if isinstance(item, h5py.Group):
            found[name] = _read(item)
            continue
        value = item[()]
        first = value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size else value
        found[name] = first.decode() if isinstance(first, bytes) else value
    return found


def _needed(entry: dict[str, Any], name: str) -> Any:
    if name not in entry:
        raise ValueError(f"it has no {name}")
    return entry[name]


def _whole(values: Any, name: str) -> Tensor:
    """Whole numbers of a file, as float64."""
    tensor = torch.as_tensor(np.asarray(values, np.float64))
    if not bool((tensor == tensor.round()).all()):
        raise ValueError(
            f"{name} must be whole numbers, got {tensor[tensor != tensor.round()].reshape(-1)[0].item():g}"
        )
    return tensor


def _weights(entry: dict[str, Any], name: str) -> Tensor:
    weight = _whole(_needed(entry, name), name)
    if not weight.numel():
        raise ValueError(f"{name} has no values")
    if weight.abs().max() > LARGEST_WEIGHT:
        raise ValueError(f"{name} must fit Loihi's 8 bits and a sign, got {weight.abs().max().item():g}")
    return weight


def _bias(entry: dict[str, Any], C: int) -> Tensor | None:
    if "bias" not in entry:
        return None
    bias = _whole(entry["bias"], "bias").reshape(-1)
    if len(bias) != C:
        raise ValueError(f"bias must have one value for each of {C} channels, got {len(bias)}")
    return bias


def _pair(entry: dict[str, Any], name: str, default: int) -> tuple[int, int]:
    """Height and width."""
    values = [int(n) for n in np.atleast_1d(entry.get(name, default))]
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


@torch.no_grad()
def _set(module: Any, weight: Tensor) -> None:
    module.weight.copy_(weight)
