"""Tensors that stay packed, where others follow what is done with them: compilers, export, traced graphs, networks."""

import packed_cases
import pytest
import torch
from equality import equal
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import proxykernels as pk
from proxykernels.spikes import spike_tensor
from proxykernels.spikes.spike_tensor import SpikeTensor


@pytest.fixture
def layer(generator):
    return packed_cases.layer(generator)


@pytest.fixture
def following(generator):
    return packed_cases.following(generator)


@pytest.fixture
def x(generator):
    return packed_cases.values(generator)


@pytest.fixture
def expected(layer, x):
    return packed_cases.dense_spikes(layer, x)


@pytest.mark.costly
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_parts_of_torch_take_it(layer, x, expected, backend):
    def head(y):
        return (y * 2).sum(0) + y.flatten(2)[0, 0, 0]

    compiled = torch.compile(head, backend=backend, fullgraph=True)
    y = layer(x)
    for _ in range(2):  # packed, and seen
        assert equal(compiled(y), head(expected))
    if not torch.__version__.startswith("2.10."):  # which cannot make a fake view of a tensor's subclass: drop_in.md
        assert equal(compiled(layer(x)[:4]), head(expected[:4]))
    assert equal(compiled(layer(x)[:4].clone()), head(expected[:4]))
    y = layer(x)
    torch.compile(lambda y: y.add_(1), backend=backend, fullgraph=True)(y)
    assert equal(y, expected + 1)


@pytest.mark.costly
@pytest.mark.parametrize("strict", [True, False])
def test_it_is_an_example_for_export(layer, following, x, expected, strict):
    """What was exported with it takes dense tensors, too, and it is taken by what was exported with one."""
    exported = torch.export.export(nn.Flatten(2), (layer(x),), strict=strict)
    assert equal(exported.module()(expected + 1), expected.flatten(2) + 1)
    wanted = following(expected)
    assert wanted.any()
    for example in (layer(x), expected):
        exported = torch.export.export(following, (example,), strict=strict).module()
        for given in (expected, layer(x)):
            assert equal(exported(given), wanted)


def test_a_network_called_on_its_own(generator):
    """As in simulate, and no layer's output is ever dense but the last one's."""
    net = nn.Sequential(
        pk.FusedIFConv2d(1, 16, 3, padding=1, batch_norm=True), pk.MaxPool2d(2), pk.FusedIFConv2d(16, 32, 3, padding=1),
        pk.Flatten(), pk.FusedIFLinear(32 * 49, 100, batch_norm=True), pk.FusedIFLinear(100, 40, v_threshold=0.5),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for layer in net:
            if hasattr(layer, "weight"):
                layer.weight.mul_(3)
    image = torch.rand(2, 1, 14, 14, generator=generator)
    made, whole = [], spike_tensor.Memory.look
    try:
        spike_tensor.Memory.look = lambda self: (made.append(self), whole(self))[1]
        for x in (image.expand(20, *image.shape), (torch.rand(20, 2, 1, 14, 14, generator=generator) < 0.4).float()):
            y = net(x)
            assert not made
            wanted = pk.simulate(net, image if x.stride(0) == 0 else x, 20).spikes.dense()
            assert wanted.any() and equal(y, wanted)
            made.clear()
    finally:
        spike_tensor.Memory.look = whole


@pytest.mark.parametrize("how", ["jit", "fx"])
@pytest.mark.parametrize(
    "function",
    [
        lambda y: y * 2,
        lambda y: y[1:3].sum(0),
        lambda y: torch.cat([y, y]),
        lambda y: pk.MaxPool2d(2)(y),
        lambda y: y.flatten(2).mean(0),
        lambda y: y.clone().half(),
    ],
    ids=["times", "slice", "cat", "pool", "mean", "clone"],
)
def test_a_traced_graph_takes_other_values_than_its_example(generator, layer, x, function, how):
    example = layer(x)
    assert isinstance(example, SpikeTensor)
    traced = torch.jit.trace(function, (example,), check_trace=False) if how == "jit" else make_fx(function)(example)
    other = (torch.rand(example.shape, generator=generator) < 0.3).float()
    assert equal(traced(other), function(other)) and not torch.equal(function(other), function(example))
