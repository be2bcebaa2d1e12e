"""A network of attention and products, as spiking transformers have them."""

from cases import dyadic

import proxykernels as pk
from proxykernels.layers import Attention, Concatenate, Multiply, Pixels


def attentive(channels: int, heads: int, generator, *, real: bool = False) -> pk.Network:
    """Queries, keys and values of tokens, attention and its neurons, of which one sum of all tokens masks others."""
    net = pk.Network()

    def project(name: str, inputs: int, outputs: int, source: str) -> None:
        layer = pk.FusedIFConv1d(inputs, outputs, 1, v_threshold=0.5)
        layer.weight.data = dyadic(*layer.weight.shape, generator=generator)
        net.append(name, layer, (source,))

    net.append("tokens", Pixels((-1,)), (pk.Network.INPUT,))
    if not real:
        project("qkv", 3, 3 * channels, "tokens")
    net.append("attention", Attention(heads), ("tokens" if real else "qkv",))
    net.append("fire", pk.IF(v_threshold=2.0), ("attention",))
    project("mask", channels, heads, "fire")
    net.append("masked", Multiply(), ("fire", "mask"))
    net.append("both", Concatenate(), ("masked", "fire"))
    net.append("values", Multiply(), ("attention", "fire"))
    net.append("last", pk.FusedIFConv1d(channels, 7, 1, v_threshold=4.0), ("values",))
    net.append("images", Pixels((1, -1)), ("both",))
    net.append("again", Pixels((-1,)), ("images",))
    net.append("first", pk.FusedIFConv1d(2 * channels, 7, 1), ("again",))
    net.append("sides", Concatenate(), ("last", "first"))
    net.append("flat", pk.Flatten(), ("sides",))
    for name in ("last", "first"):
        layer = net.get_submodule(name)
        layer.weight.data = dyadic(*layer.weight.shape, generator=generator)
    return net.eval()
