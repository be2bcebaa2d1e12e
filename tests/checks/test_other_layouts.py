"""Tensors of other layouts, nested, quantized or sparse: refused by all that takes a tensor, each with its remedy."""

import pytest
import torch
from torch import nn

import proxykernels as pk

CURRENT = torch.zeros(4, 2, 3, 5, 5)
SPIKES = pk.pack(CURRENT)
WEIGHT = torch.zeros(6, 3, 3, 3)
MATRIX = torch.zeros(5, 7)
NET = nn.Sequential(pk.FusedIFConv2d(3, 4, 3), pk.Flatten(), pk.FusedIFLinear(36, 5))
IMAGES = torch.zeros(2, 3, 5, 5)
LAYOUTS = {
    "nested": (
        lambda t: torch.nested.nested_tensor(list(t)),
        r"a nested one; pad it with torch.nested.to_padded_tensor\(",
    ),
    "quantized": (
        lambda t: torch.quantize_per_tensor(t, 0.5, 0, torch.qint8),
        r"torch.qint8; convert it with .dequantize",
    ),
    "sparse": (lambda t: t.to_sparse(), r"torch.sparse_coo; convert it with .to_dense\(\)"),
}
TAKING = {
    "scan": (CURRENT, lambda x: pk.if_scan(x), "current"),
    "hold": (IMAGES, lambda x: pk.if_hold(x, 4), "current"),
    "conv": (CURRENT, lambda x: pk.if_conv2d(x, WEIGHT), "x"),
    "linear": (torch.zeros(4, 2, 7), lambda x: pk.if_linear(x, MATRIX), "x"),
    "weight": (WEIGHT, lambda w: pk.if_conv2d(SPIKES, w), "weight"),
    "state": (IMAGES, lambda v: pk.if_scan(CURRENT, v), "v"),
    "threshold": (torch.ones(3), lambda v: pk.if_scan(CURRENT, v_threshold=v), "v_threshold"),
    "decay": (torch.ones(3), lambda d: pk.LIF(decay=d), "decay"),
    "population": (CURRENT, pk.IF(), "x"),
    "sum": (CURRENT, lambda x: pk.FusedIFSum(nn.Identity(), nn.Identity())((x, x)), "x"),
    **{type(layer).__name__: (CURRENT, layer, "x") for layer in (
        NET, pk.MaxPool2d(2), pk.AvgPool2d(2), pk.RunningMaxPool2d(2), pk.Flatten(), pk.Dropout(0.5)
    )},
    "MaxRatePool2d": (CURRENT, pk.MaxRatePool2d(2), "x"),
    "Concatenate": (CURRENT, lambda x: pk.Concatenate()((x, x)), "x"),
    "pack": (CURRENT, pk.pack, "dense"),
    "time_first": (CURRENT, pk.time_first, "frames"),
    "simulate": (IMAGES, lambda x: pk.simulate(NET, x, 4), "x"),
    "sequence": (CURRENT, lambda x: pk.simulate(NET, x, 4), "x"),
    "proxy": (IMAGES, lambda x: pk.ProxyNet(NET, 4)(x), "x"),
    "compile": (IMAGES, lambda x: pk.compile(NET, x), "x"),
    "engine": (IMAGES, lambda x: pk.compile(NET, IMAGES)(x, 4), "x"),
    "stream": (IMAGES, lambda x: pk.compile(NET, IMAGES).stream(2)(x), "x"),
    "convert": (torch.ones(4, 3), lambda x: pk.convert(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), x), "calibration"),
    "encode": (IMAGES, lambda x: pk.encode.rate(x, 4), "x"),
    "events": (torch.ones(3), lambda t: pk.events(t, [0] * 3, [0] * 3, [1] * 3, size=(2, 2), T=2), "t"),
}  # fmt: skip


@pytest.mark.parametrize("call", TAKING)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore:.*([nN]ested|quantized)")
@torch.no_grad()
def test_other_layouts_are_refused(call, layout):
    (make, remedy), (tensor, function, name) = LAYOUTS[layout], TAKING[call]
    given = make(tensor)
    wanted = f"a dense tensor, got {remedy}" if name != "dense" else "a tensor that holds its values"
    with pytest.raises(TypeError, match=f"^{name} must be {wanted}"):
        function(given)
