"""Synapses: shapes, currents and the reach of a spike, against torch's own modules, with windows of uneven numbers."""

import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.layers.synapses import synapse_of

T, N = 5, 2
CONVOLUTIONS = {  # options of nn.Conv2d(4, 6, ...), on images of 9 x 12
    "plain": {"kernel_size": 3},
    "padding": {"kernel_size": 3, "padding": (2, 1)},
    "other padding": {"kernel_size": 3, "padding": (0, 2)},
    "flat": {"kernel_size": (1, 5), "padding": (0, 3)},
    "high": {"kernel_size": (4, 2), "padding": (3, 0), "stride": (2, 1)},
    "stride": {"kernel_size": (2, 3), "stride": (3, 2), "padding": (1, 2)},
    "dilation": {"kernel_size": (3, 2), "dilation": (2, 3), "padding": (1, 3)},
    "same": {"kernel_size": (3, 5), "padding": "same"},
    "same, even": {"kernel_size": (2, 4), "padding": "same", "dilation": (1, 3)},
    "valid": {"kernel_size": (3, 2), "padding": "valid"},
    "groups": {"kernel_size": (3, 1), "padding": (1, 0), "groups": 2},
    "no bias": {"kernel_size": (2, 1), "bias": False},
}
ROWS = {  # options of nn.Conv1d(4, 6, ...), on rows of 12
    "plain": {"kernel_size": 3},
    "all": {"kernel_size": 4, "stride": 2, "padding": 3, "dilation": 2, "groups": 2},
    "same": {"kernel_size": 4, "padding": "same"},
}
MODULES = {
    **{f"images, {name}": (lambda o=o: nn.Conv2d(4, 6, **o), (4, 9, 12)) for name, o in CONVOLUTIONS.items()},
    **{f"rows, {name}": (lambda o=o: nn.Conv1d(4, 6, **o), (4, 12)) for name, o in ROWS.items()},
    "product": (lambda: nn.Linear(7, 5), (7,)),
    "product, no bias": (lambda: nn.Linear(7, 5, bias=False), (7,)),
    "itself": (nn.Identity, (4, 9, 12)),
}


@pytest.fixture(params=MODULES)
def case(request, generator):
    """A module with dyadic weights, and spikes for it."""
    make, size = MODULES[request.param]
    module = make()
    for parameter in module.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    return module, spikes(T, N, *size, generator=generator, rate=0.4)


def expected_of(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2]).detach()


def test_shapes_and_currents_are_torchs(case):
    module, x = case
    synapse, expected = synapse_of(module), expected_of(module, x)
    assert synapse.output_shape(tuple(x.shape)) == expected.shape
    for given in (x, pk.pack(x)):
        assert expected.any() and equal(synapse.currents(given), expected)
    values = x * 0.75 - 0.25
    assert equal(synapse.currents(values), expected_of(module, values))


def test_how_often_a_weight_is_added(case):
    """By weights of 1: a spike's share in all currents is the number of synapses that it goes through."""
    module, x = case
    synapse = synapse_of(module)
    ones = synapse.plain()
    for parameter in ones.parameters():
        parameter.data = torch.ones_like(parameter)
    if getattr(ones, "bias", None) is not None:
        ones.bias.data.zero_()
    assert int(synapse.accumulates(pk.pack(x))) == int(expected_of(ones, x).sum()) > 0
    for place in ((0,) * (x.ndim - 2), tuple(n - 1 for n in x.shape[2:])):  # the first and the last pixel's
        one = torch.zeros_like(x)
        one[(T - 1, 0, *place)] = 1
        assert int(synapse.accumulates(pk.pack(one))) == int(expected_of(ones, one).sum())


def test_what_each_pixel_reaches(case):
    """Outputs of one channel that read a pixel; None: one for each."""
    module, x = case
    synapse = synapse_of(module)
    reach = synapse.reach(pk.pack(x))
    pixels = int(torch.tensor(x.shape[3:]).prod())
    if reach is None:
        return
    ones = synapse.plain()
    ones.weight.data, ones.bias = torch.ones_like(ones.weight), None
    each = torch.zeros(1, pixels, 4, pixels)
    each[0, torch.arange(pixels), 0, torch.arange(pixels)] = 1  # a sample for each pixel of the first channel
    outputs = expected_of(ones, each.view(1, pixels, 4, *x.shape[3:]))[0, :, 0]
    assert reach.dtype == torch.int32 and equal(reach.long(), outputs.flatten(1).sum(1).long())
    assert len(set(reach.tolist())) > 1  # at the edges fewer


def test_the_same_as_torchs_module_and_as_a_layer(case):
    """With the same parameters, and every argument."""
    module, x = case
    synapse, expected = synapse_of(module), expected_of(module, x)
    assert type(synapse.plain()) is type(module) and equal(expected_of(synapse.plain(), x), expected)
    if isinstance(module, nn.Identity):
        assert synapse.fan_in == 0 and synapse.parameters() == (None, None)
        return
    layers = (pk.FusedIFConv2d, pk.FusedIFConv1d, pk.FusedIFLinear)
    layer = synapse.into(next(kind for kind in layers if issubclass(kind, type(module))), v_threshold=2.0)
    assert layer.weight is module.weight and layer.bias is module.bias and layer.v_threshold == 2
    spiking = layer.eval()(pk.pack(x))
    wanted, _ = pk.if_scan(expected, v_threshold=2.0)
    assert spiking.rate() > 0 and equal(spiking.dense(), wanted.dense())
    assert synapse.fan_in == module.weight[0].numel()


@pytest.mark.parametrize("kind, size", [(pk.FusedIFConv2d, (4, 9, 12)), (pk.FusedIFLinear, (7,))])
def test_a_layers_normalisation_is_folded(generator, kind, size):
    window = {"kernel_size": (3, 2), "padding": (2, 0)} if len(size) > 1 else {}
    layer = kind(size[0], 6, **window, batch_norm=True, bias=False).eval()
    layer.bn.running_mean.uniform_(), layer.bn.running_var.uniform_(0.5, 2.0), layer.bn.weight.data.uniform_(0.5, 2.0)
    x = spikes(T, N, *size, generator=generator)
    synapse = synapse_of(layer)
    wanted = layer.bn(layer.affine(x.flatten(0, 1))).unflatten(0, (T, N)).detach()
    for y in (synapse.currents(pk.pack(x)), expected_of(synapse.plain(), x)):
        torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5)
    assert synapse.plain().bias is not None


def test_what_is_no_synapse():
    with pytest.raises(TypeError, match="a synapse must be nn.Conv2d, .* got Conv3d"):
        synapse_of(nn.Conv3d(1, 1, 1))
    for module in (nn.Conv2d(1, 1, 3, padding_mode="circular"), nn.Conv1d(1, 1, 3, padding_mode="reflect")):
        with pytest.raises(ValueError, match="padding_mode must be 'zeros', got '(circular|reflect)'; pad the input"):
            synapse_of(module)
    for module, wanted in ((nn.Conv2d(1, 1, 3), "T, N, C, H, W"), (nn.Conv1d(1, 1, 3), "T, N, C, L")):
        with pytest.raises(ValueError, match=rf"must have the shape \({wanted}\), got \(1, 2, 3\)"):
            synapse_of(module).output_shape((1, 2, 3))
