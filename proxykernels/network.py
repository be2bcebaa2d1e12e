"""A network of layers in any order: what conversion and import make."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from . import checks
from .layers.layer_graph import LayerGraph
from .running import kept_plans
from .spikes import Spikes


class Part(NamedTuple):
    """One of the results of the model that a network was made of: values ``span`` of an output [N, features], as
    [N, *shape]."""

    span: tuple[int, int]
    shape: tuple[int, ...]


class Network(LayerGraph):
    """Layers in a graph. Every layer takes the outputs of earlier ones; the last one's output is the network's.

    Made by :func:`convert`, :func:`from_nir`, :func:`from_spikingjelly` and :func:`from_snntorch`. Its layers are
    attributes, ``net.layer1_0_conv2`` for example, and ``net.layers()`` lists them with what they take. By hand:

        net = pk.Network()
        net.append("stem", pk.FusedIFConv2d(1, 8, 3, padding=1), (pk.Network.INPUT,))
        net.append("join", pk.FusedIFSum(nn.Conv2d(8, 8, 3, padding=1), nn.Identity()), ("stem", "stem"))

    In evaluation mode and on a CPU, where no gradient is wanted or layers have no surrogate derivative, a call runs the
    network as a whole, as :func:`simulate` does. A call of an nn.Sequential or of a module of your own is torch's and
    runs layer by layer; ``pk.Network(module)`` calls it as a whole.

    Args:
        net: a module of this package's layers, which becomes the layer ``net``, with its parameters; None: no layer.

    Shapes: x (T, N, ...), as its first layers take it; y (T, N, ...), as its last layer gives it.
    """

    _parts: Any = None  # of the output: a Part for each tensor that the converted model returned
    _made: dict[str, str] = {}  # by convert: from what and how, as a model card says it

    def __init__(self, net: nn.Module | None = None):
        super().__init__()
        if net is not None:
            checks.module("net", net)
            self.append("net", net, (self.INPUT,))
            self.train(net.training)

    def _whole(self, x: Any) -> Spikes | Tensor | None:
        return kept_plans.output(self, x)

    def outputs(self, y: Tensor) -> Any:
        """What :func:`convert`'s model returned, of an output here: its tuples, lists and dicts.

        Args:
            y: [N, ...], ``result.logits`` for example, or counts or rates.

        Returns:
            A tensor [N, ...] for each that the model returned, a view of y; y itself if it returned one alone.
        """

        def unpacked(parts: Any) -> Any:
            if isinstance(parts, Part):
                values = y.flatten(1)[:, slice(*parts.span)]
                return values.unflatten(1, parts.shape) if parts.shape else values.squeeze(1)
            if isinstance(parts, dict):
                return {key: unpacked(part) for key, part in parts.items()}
            return None if parts is None else type(parts)(map(unpacked, parts))

        return y if self._parts is None else unpacked(self._parts)


def free_name(wanted: str, taken: Iterable[str]) -> str:
    """A name for a layer of a :class:`Network`: ``wanted``, with underscores for dots, and a number if it is taken."""
    taken = {*taken, *_ATTRIBUTES, ""}
    wanted, k = wanted.replace(".", "_"), 0
    name = wanted
    while name in taken:
        k += 1
        name = f"{wanted or 'layer'}_{k}"
    return name


_ATTRIBUTES = frozenset(dir(Network()))
