"""Bad input: an error that names the argument and says what was expected, before any work."""

import pytest
import torch
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.kernels import reference

NAN, INF = float("nan"), float("inf")
CURRENT = torch.zeros(4, 2, 3, 5, 5)
SPIKES = pk.pack(CURRENT)
WEIGHT = torch.zeros(6, 3, 3, 3)
FEATURES = pk.pack(torch.zeros(4, 2, 7))
MATRIX = torch.zeros(5, 7)
NET = nn.Sequential(pk.FusedIFConv2d(3, 4, 3), pk.Flatten(), pk.FusedIFLinear(36, 5))
IMAGES = torch.zeros(2, 3, 5, 5)


def with_value(tensor, value):
    tensor = tensor.clone()
    tensor.view(-1)[0] = value
    return tensor


def meta(tensor):
    """A tensor on another device, without another device."""
    return tensor.to("meta")


def without_statistics():
    layer = pk.FusedIFConv2d(3, 4, 3, batch_norm=True).eval()
    layer.bn = nn.BatchNorm2d(4, track_running_stats=False)
    return layer


CASES = {
    "scan-integer-current": (lambda: pk.if_scan(CURRENT.int()), TypeError, "current must be floating point"),
    "scan-spikes": (lambda: pk.if_scan(SPIKES), TypeError, "current must be a float tensor, got Spikes"),
    "scan-list": (lambda: pk.if_scan([1.0]), TypeError, "current must be a torch.Tensor"),
    "scan-one-dimension": (lambda: pk.if_scan(torch.zeros(3)), ValueError, r"current must have the shape \[T, N"),
    "scan-no-step": (lambda: pk.if_scan(torch.zeros(0, 3)), ValueError, "T >= 1"),
    "scan-nan": (lambda: pk.if_scan(with_value(CURRENT, NAN)), ValueError, "current must be finite"),
    "scan-infinite": (lambda: pk.if_scan(with_value(CURRENT, -INF)), ValueError, "current must be finite"),
    "scan-v-shape": (lambda: pk.if_scan(CURRENT, torch.zeros(2, 3, 5)), ValueError, r"v must have the shape"),
    "scan-v-integer": (lambda: pk.if_scan(CURRENT, CURRENT[0].int()), TypeError, "v must be floating point"),
    "scan-v-nan": (lambda: pk.if_scan(CURRENT, with_value(CURRENT[0], NAN)), ValueError, "v must be finite"),
    "scan-v-device": (lambda: pk.if_scan(CURRENT, meta(CURRENT[0])), ValueError, "v is on meta"),
    "hold-T-zero": (lambda: pk.if_hold(IMAGES, 0), ValueError, "T must be at least 1"),
    "hold-T-negative": (lambda: pk.if_hold(IMAGES, -3), ValueError, "T must be at least 1"),
    "hold-T-float": (lambda: pk.if_hold(IMAGES, 4.0), TypeError, "T must be an integer"),
    "hold-T-bool": (lambda: pk.if_hold(IMAGES, True), TypeError, "T must be an integer"),
    "hold-nan": (lambda: pk.if_hold(with_value(IMAGES, NAN), 4), ValueError, "current must be finite"),
    "threshold-zero": (lambda: pk.if_scan(CURRENT, v_threshold=0.0), ValueError, "v_threshold must be positive"),
    "threshold-negative": (lambda: pk.if_scan(CURRENT, v_threshold=-1), ValueError, "v_threshold must be positive"),
    "threshold-nan": (lambda: pk.if_scan(CURRENT, v_threshold=NAN), ValueError, "v_threshold must be positive"),
    "threshold-infinite": (lambda: pk.if_scan(CURRENT, v_threshold=INF), ValueError, "v_threshold must be positive"),
    "threshold-word": (lambda: pk.if_scan(CURRENT, v_threshold="1"), TypeError, "v_threshold must be a number"),
    "threshold-none": (lambda: pk.if_scan(CURRENT, v_threshold=None), TypeError, "v_threshold must be a number"),
    "threshold-channels": (
        lambda: pk.if_scan(CURRENT, v_threshold=torch.ones(4)), ValueError, "one value for each of 3 channels, got 4"
    ),
    "threshold-shape": (lambda: pk.if_scan(CURRENT, v_threshold=torch.ones(1, 3)), TypeError, "v_threshold must be"),
    "threshold-integer": (
        lambda: pk.if_scan(CURRENT, v_threshold=torch.ones(3).int()), TypeError, "v_threshold must be"
    ),
    "threshold-one-negative": (
        lambda: pk.if_scan(CURRENT, v_threshold=torch.tensor([1.0, -1.0, 1.0])), ValueError, "must be positive"
    ),
    "threshold-one-nan": (
        lambda: pk.if_scan(CURRENT, v_threshold=torch.tensor([1.0, NAN, 1.0])), ValueError, "must be positive"
    ),
    "threshold-device": (
        lambda: pk.if_conv2d(SPIKES, WEIGHT, v_threshold=meta(torch.ones(6))), ValueError, "v_threshold is on meta"
    ),
    "threshold-silently-zero": (lambda: pk.if_scan(CURRENT, v_threshold=1e-46), ValueError, "positive .* float32, got 1e-46"),
    "threshold-silently-infinite": (lambda: pk.if_scan(CURRENT, v_threshold=1e39), ValueError, "finite in float32, got 1e"),
    "threshold-huge": (lambda: pk.if_scan(CURRENT, v_threshold=10**400), ValueError, "v_threshold must be positive"),
    "threshold-float64-zero": (
        lambda: pk.if_scan(CURRENT, v_threshold=torch.tensor(1e-46).double() * 1e-46), ValueError, "must be positive"
    ),
    "threshold-float64-infinite": (
        lambda: pk.if_scan(CURRENT, v_threshold=torch.full((3,), 1e39, dtype=torch.float64)), ValueError, "be .* finite"
    ),
    "threshold-bool": (lambda: pk.if_scan(CURRENT, v_threshold=True), TypeError, "v_threshold must be a number"),
    "threshold-complex": (lambda: pk.if_scan(CURRENT, v_threshold=1j), TypeError, "v_threshold must be a number"),
    "reset-rounded-to-threshold": (lambda: pk.if_scan(CURRENT, v_reset=1 - 1e-9), ValueError, "in float32, below v_thr"),
    "reset-rounded-to-float64-threshold": (
        lambda: pk.if_scan(CURRENT, v_threshold=torch.ones(3).double(), v_reset=1 - 1e-9), ValueError, "in float32, below"
    ),
    "reset-silently-infinite": (lambda: pk.if_scan(CURRENT, v_reset=-1e39), ValueError, "v_reset must be finite"),
    "reset-huge": (lambda: pk.if_scan(CURRENT, v_reset=-(10**400)), ValueError, "v_reset must be finite"),
    "reset-bool": (lambda: pk.if_scan(CURRENT, v_reset=False), TypeError, "v_reset must be a number"),
    "scan-v-silently-infinite": (lambda: pk.if_scan(CURRENT, 1e39), ValueError, "v must be finite in float32"),
    "scan-v-huge": (lambda: pk.if_scan(CURRENT, 10**400), ValueError, "v must be finite in float32"),
    "scan-v-float64": (lambda: pk.if_scan(CURRENT, CURRENT[0].double() + 1e39), ValueError, "v must be finite in float32"),
    "scan-float64": (lambda: pk.if_scan(CURRENT.double() + 1e39), ValueError, "current must be finite in float32"),
    "scan-sparse": (lambda: pk.if_scan(CURRENT.to_sparse()), TypeError, "current must be a dense tensor"),
    "scan-complex": (lambda: pk.if_scan(CURRENT.to(torch.complex64)), TypeError, "current must be floating point"),
    "hold-T-huge": (lambda: pk.if_hold(IMAGES, 2**62), ValueError, r"T must be at most 2\*\*31"),
    "hold-memory": (lambda: pk.if_hold(torch.zeros(2, 10**6), 2**31 - 1), ValueError, "GiB for spikes and potentials"),
    "reset-at-threshold": (lambda: pk.if_scan(CURRENT, v_reset=1.0), ValueError, "v_reset must be .* below v_threshold"),
    "reset-above": (lambda: pk.if_scan(CURRENT, v_reset=2), ValueError, "v_reset must be .* below v_threshold"),
    "reset-above-one": (
        lambda: pk.if_scan(CURRENT, v_threshold=torch.tensor([1.0, 2.0, 0.5]), v_reset=0.75), ValueError, "v_reset must be"
    ),
    "reset-nan": (lambda: pk.if_scan(CURRENT, v_reset=NAN), ValueError, "v_reset must be finite"),
    "reset-word": (lambda: pk.if_scan(CURRENT, v_reset="soft"), TypeError, "v_reset must be a number"),
    "conv-list": (lambda: pk.if_conv2d([0], WEIGHT), TypeError, "x must be Spikes or a tensor"),
    "conv-dimensions": (lambda: pk.if_conv2d(FEATURES, WEIGHT), ValueError, r"x must have the shape \[T, N, C_in, H, W\]"),
    "conv-complex": (lambda: pk.if_conv2d(CURRENT.to(torch.complex64), WEIGHT), TypeError, "x must be floating point, got"),
    "conv-nan": (lambda: pk.if_conv2d(with_value(CURRENT, NAN), WEIGHT), ValueError, "x must be finite"),
    "conv-held-infinite": (
        lambda: pk.if_conv2d(with_value(IMAGES, INF).expand(4, 2, 3, 5, 5), WEIGHT), ValueError, "x must be finite"
    ),
    "conv-no-step": (lambda: pk.if_conv2d(CURRENT[:0], WEIGHT), ValueError, "at least one step"),
    "conv-weight-dimensions": (lambda: pk.if_conv2d(SPIKES, MATRIX), ValueError, "weight must have the shape"),
    "conv-weight-channels": (lambda: pk.if_conv2d(SPIKES, WEIGHT[:, :2]), ValueError, "x must have C_in = 2, .* got 3"),
    "conv-weight-empty": (lambda: pk.if_conv2d(SPIKES, WEIGHT[:0]), ValueError, "weight must have the shape"),
    "conv-weight-integer": (lambda: pk.if_conv2d(SPIKES, WEIGHT.int()), TypeError, "weight must be floating point"),
    "conv-weight-device": (lambda: pk.if_conv2d(SPIKES, meta(WEIGHT)), ValueError, "weight is on meta and the input on cpu"),
    "conv-bias-shape": (lambda: pk.if_conv2d(SPIKES, WEIGHT, torch.zeros(5)), ValueError, r"bias must have the shape \[6\]"),
    "conv-bias-device": (lambda: pk.if_conv2d(SPIKES, WEIGHT, meta(torch.zeros(6))), ValueError, "bias is on meta"),
    "conv-v-shape": (lambda: pk.if_conv2d(SPIKES, WEIGHT, v=IMAGES), ValueError, r"v must have the .* \[2, 6, 3, 3\]"),
    "conv-stride": (lambda: pk.if_conv2d(SPIKES, WEIGHT, stride=0), ValueError, "stride must be at least 1, got 0"),
    "conv-stride-type": (lambda: pk.if_conv2d(SPIKES, WEIGHT, stride=1.5), TypeError, "stride must be an integer"),
    "conv-dilation": (lambda: pk.if_conv2d(SPIKES, WEIGHT, dilation=(1, 0)), ValueError, "dilation must be at least 1"),
    "conv-padding": (lambda: pk.if_conv2d(SPIKES, WEIGHT, padding=-1), ValueError, "padding must be at least 0"),
    "conv-padding-word": (lambda: pk.if_conv2d(SPIKES, WEIGHT, padding="full"), ValueError, "padding must be a number"),
    "conv-padding-same-stride": (
        lambda: pk.if_conv2d(SPIKES, WEIGHT, padding="same", stride=2), ValueError, "padding='same' needs stride 1"
    ),
    "conv-kernel-too-large": (lambda: pk.if_conv2d(SPIKES, WEIGHT, dilation=3), ValueError, "kernel_size .* is larger"),
    "conv-groups": (lambda: pk.if_conv2d(SPIKES, WEIGHT, groups=2), ValueError, "groups must be at least 1 and divide"),
    "conv-groups-type": (lambda: pk.if_conv2d(SPIKES, WEIGHT, groups=1.0), TypeError, "groups must be an integer"),
    "conv-stride-huge": (lambda: pk.if_conv2d(SPIKES, WEIGHT, stride=2**62), ValueError, "stride must be at most 32768"),
    "conv-padding-huge": (lambda: pk.if_conv2d(SPIKES, WEIGHT, padding=2**63), ValueError, "padding must be at most 32768"),
    "conv-dilation-huge": (
        lambda: pk.if_conv2d(SPIKES, WEIGHT, dilation=2**62, padding="same"), ValueError, "dilation must be at most 32768"
    ),
    "conv-memory": (lambda: pk.if_conv2d(CURRENT + 0.5, WEIGHT, padding=2**15), ValueError, "GiB for spikes and potentials"),
    "conv-sparse": (lambda: pk.if_conv2d(CURRENT.to_sparse(), WEIGHT), TypeError, "x must be a dense tensor"),
    "conv-weight-sparse": (lambda: pk.if_conv2d(SPIKES, WEIGHT.to_sparse()), TypeError, "weight must be a dense tensor"),
    "conv-weight-complex": (
        lambda: pk.if_conv2d(SPIKES, WEIGHT.to(torch.complex64)), TypeError, "weight must be floating point"
    ),
    "conv-weight-nan": (lambda: pk.if_conv2d(SPIKES, with_value(WEIGHT, NAN)), ValueError, "weight must be finite"),
    "conv-weight-float64": (lambda: pk.if_conv2d(SPIKES, WEIGHT.double() + 1e39), ValueError, "weight must be finite"),
    "conv-weight-huge": (lambda: pk.if_conv2d(SPIKES, WEIGHT + 1e38), ValueError, "weight must be finite .*holds values beyond"),
    "linear-bias-huge": (lambda: pk.if_linear(pk.pack(torch.ones(2, 1, 7)), MATRIX, MATRIX[:, 0] - 1e38), ValueError, "bias must be finite .*holds values beyond"),
    "simulate-huge": (lambda: pk.simulate(NET, IMAGES + 1e38, 4), ValueError, "x must be finite .*holds values beyond"),
    "scan-huge": (lambda: pk.if_scan(CURRENT + 1e38), ValueError, "current must be finite .*holds values beyond"),
    "conv-bias-nan": (lambda: pk.if_conv2d(SPIKES, WEIGHT, torch.full((6,), NAN)), ValueError, "bias must be finite"),
    "pack-meta": (lambda: pk.pack(meta(CURRENT)), TypeError, "dense must be a tensor that holds its values, got one on meta"),
    "pack-sparse": (lambda: pk.pack(CURRENT.to_sparse()), TypeError, "dense must be a tensor that holds its values"),
    "linear-dimensions": (lambda: pk.if_linear(SPIKES, MATRIX), ValueError, r"x must have the shape \[T, N, features\]"),
    "linear-features": (lambda: pk.if_linear(FEATURES, MATRIX[:, :6]), ValueError, r"x must have 6 features, as weights \[.*\] take them, got 7"),
    "linear-nan": (lambda: pk.if_linear(torch.full((2, 1, 7), NAN), MATRIX), ValueError, "x must be finite"),
    "pool-dense": (lambda: pk.max_pool2d(CURRENT, 2), TypeError, "x must be Spikes, got Tensor; proxykernels.pack"),
    "pool-dimensions": (lambda: pk.max_pool2d(FEATURES, 2), ValueError, "x must have the shape"),
    "pool-kernel": (lambda: pk.max_pool2d(SPIKES, 0), ValueError, "kernel_size must be at least 1"),
    "pool-too-large": (lambda: pk.max_pool2d(SPIKES, 6), ValueError, "kernel_size .* is larger than the input"),
    "pool-stride": (lambda: pk.max_pool2d(SPIKES, 2, 0), ValueError, "stride must be at least 1"),
    "pool-padding": (lambda: pk.max_pool2d(SPIKES, 2, 2, 2), ValueError, "padding must be at most half of kernel_size"),
    "pool-stride-huge": (lambda: pk.max_pool2d(SPIKES, 2, 2**62), ValueError, "stride must be at most 32768"),
    "layer-statistics": (lambda: without_statistics()(SPIKES), ValueError, "bn must keep running statistics .*: track_running_stats=True"),
    "layer-pool-kernel": (lambda: pk.MaxPool2d(0), ValueError, "kernel_size must be at least 1"),
    "layer-pool-padding": (lambda: pk.MaxPool2d(2, padding=2), ValueError, "padding must be at most half of kernel_size"),
    "layer-average-kernel": (lambda: pk.AvgPool2d(0), ValueError, "kernel_size must be at least 1, got 0"),
    "layer-average-stride": (lambda: pk.AvgPool2d(2, stride=0), ValueError, "stride must be at least 1, got 0"),
    "layer-average-divisor": (lambda: pk.AvgPool2d(2, divisor_override=0), ValueError, "divisor_override must not be 0"),
    "layer-average-word": (lambda: pk.AvgPool2d("2"), TypeError, "kernel_size must be an integer or two of them"),
    "layer-flatten-number": (lambda: pk.Flatten()(3), TypeError, r"x must be Spikes or a tensor \(T, N, C, ...\), got int"),
    "layer-flatten-scalar": (lambda: pk.Flatten()(torch.tensor(3.0)), ValueError, r"x must have the shape .*, got \[\]"),
    "layer-flatten-dimensions": (lambda: pk.Flatten()(MATRIX), ValueError, r"x must have the shape .*, got \[5, 7\]"),
    "layer-pool-number": (lambda: pk.MaxPool2d(2)(3), TypeError, "x must be Spikes or a tensor .*, got int"),
    "layer-average-number": (lambda: pk.AvgPool2d(2)(3), TypeError, "x must be Spikes or a tensor .*, got int"),
    "layer-average-dimensions": (
        lambda: pk.AvgPool2d(2)(FEATURES), ValueError, r"x must have the shape \(T, N, C, H, W\), got \[4, 2, 7\]"
    ),
    "layer-adaptive-number": (lambda: pk.AdaptiveAvgPool2d(2)(3), TypeError, "x must be Spikes or a tensor .*, got int"),
    "count-float": (lambda: SPIKES.count(2.0), TypeError, "until must be an integer number of steps, got 2.0"),
    "count-bool": (lambda: SPIKES.count(True), TypeError, "until must be an integer number of steps, got True"),
    "dense-word": (lambda: SPIKES.dense("float"), TypeError, "dtype must be a torch.dtype, .* got 'float'"),
    "dense-device": (lambda: SPIKES.dense("cpu"), TypeError, "dtype must be a torch.dtype, .* got 'cpu'"),
    "to-dtype": (lambda: SPIKES.to(torch.float64), TypeError, r"device must be .* got torch.float64; .dense\(dtype\)"),
    "to-nowhere": (lambda: SPIKES.to("nowhere"), RuntimeError, "device type at start of device string: nowhere"),
    "layer-stride-huge": (lambda: pk.FusedIFConv2d(3, 4, 3, stride=2**62), ValueError, "stride must be at most 32768"),
    "layer-v_init": (lambda: pk.FusedIFConv2d(3, 4, 3, v_init=1e39), ValueError, "v_init must be finite in float32"),
    "layer-padding-mode": (
        lambda: pk.FusedIFConv2d(3, 4, 3, padding_mode="reflect"), ValueError, "padding_mode must be 'zeros', got 'reflect'"
    ),
    "layer-threshold": (lambda: pk.FusedIFConv2d(3, 4, 3, v_threshold=0), ValueError, "v_threshold must be positive"),
    "layer-stride": (lambda: pk.FusedIFConv2d(3, 4, 3, stride=0), ValueError, "stride must be at least 1"),
    "layer-padding": (lambda: pk.FusedIFConv2d(3, 4, 3, padding=-1), ValueError, "padding must be at least 0"),
    "layer-reset": (lambda: pk.FusedIFLinear(3, 4, v_reset=1.0), ValueError, "v_reset must be"),
    "neuron-threshold": (lambda: pk.IF(v_threshold=NAN), ValueError, "v_threshold must be positive"),
    "simulate-T": (lambda: pk.simulate(NET, IMAGES, 0), ValueError, "T must be at least 1"),
    "simulate-chunk": (lambda: pk.simulate(NET, IMAGES, 4, chunk=0), ValueError, "chunk must be at least 1"),
    "simulate-nan": (lambda: pk.simulate(NET, with_value(IMAGES, NAN), 4), ValueError, "x must be finite"),
    "simulate-integer": (
        lambda: pk.simulate(NET, IMAGES.int(), 4), TypeError, "x must be floating point, .* constant input.* Integers are spikes and"
    ),
    "simulate-complex": (lambda: pk.simulate(NET, CURRENT.to(torch.complex64), 4), TypeError, "x must be floating point"),
    "simulate-batch-first": (
        lambda: pk.simulate(NET, CURRENT.transpose(0, 1), 4), ValueError, "2 steps, and T is 4; .*pass proxykernels.time_fi"
    ),
    "time-first-spikes": (lambda: pk.time_first(SPIKES), TypeError, "got Spikes, which are .T, N, .... already"),
    "time-first-array": (lambda: pk.time_first(CURRENT.numpy()), TypeError, "got ndarray; torch.as_tensor makes"),
    "time-first-samples": (lambda: pk.time_first(torch.zeros(3, 4)), ValueError, r"frames must have the shape \[N, T, feat"),
    "simulate-dimensions": (lambda: pk.simulate(NET, torch.zeros(3), 4), ValueError, "x must be a constant input"),
    "simulate-steps": (lambda: pk.simulate(NET, CURRENT, 5), ValueError, "x is a sequence of 4 steps, and T is 5"),
    "simulate-layer": (lambda: pk.simulate(NET, IMAGES[:, :2], 4), ValueError, "layer 0: x must have C_in = .*, as weights .* take it, got 2 channels"),
    "simulate-state": (lambda: pk.simulate(NET, IMAGES, 4, state={"9": []}), ValueError, r"state holds layers .*\['9'\]"),
    "simulate-net": (lambda: pk.simulate(None, IMAGES, 4), TypeError, "net must be a torch.nn.Module, got NoneType"),
    "simulate-state-list": (lambda: pk.simulate(NET, IMAGES, 4, state=[]), TypeError, "state must be the .state of"),
    "simulate-record": (lambda: pk.simulate(NET, IMAGES, 4, record=[3]), TypeError, "record must be a list .* got 3"),
    "simulate-record-true": (lambda: pk.simulate(NET, IMAGES, 4, record=True), TypeError, "record must be a list of layer names, got True; net has"),
    "learn-nothing": (lambda: pk.learn_neurons(NET), TypeError, "names must say what is learned, got none; write learn_neurons"),
    "simulate-memory": (
        lambda: pk.simulate(pk.IF(), torch.zeros(9, 10**4), 2**31 - 1, chunk=1), ValueError, "GiB; take fewer steps or samples"
    ),
    "simulate-ends-dense": (
        lambda: pk.simulate(nn.Sequential(pk.IF(), pk.AvgPool2d(2)), IMAGES, 4), TypeError, "net must end in"
    ),
    "proxy-T": (lambda: pk.ProxyNet(NET, 0), ValueError, "T must be at least 1"),
    "proxy-list": (lambda: pk.ProxyNet(NET, 4)([1.0]), TypeError, "x must be a torch.Tensor, got list"),
    "proxy-integer": (lambda: pk.ProxyNet(NET, 4)(IMAGES.int()), TypeError, "x must be floating point, got torch.int32"),
    "proxy-channels": (
        lambda: pk.ProxyNet(NET, 4)(IMAGES[:, :2]), ValueError, r"layer 0 takes inputs .* \[N, 3, H, W\], got \[2, 2, 5, 5\]"
    ),
    "proxy-features": (
        lambda: pk.ProxyNet(NET, 4)(torch.zeros(2, 3, 6, 6)), ValueError, r"layer 2 takes .* \[N, 36\], got \[2, 64\]"
    ),
    "proxy-images-for-features": (
        lambda: pk.ProxyNet(pk.FusedIFLinear(5, 2), 4)(IMAGES), ValueError, r"takes inputs .* \[N, 5\], got \[2, 3, 5, 5\]"
    ),
    "proxy-meta": (lambda: pk.ProxyNet(NET, 4)(meta(IMAGES)), TypeError, "x is on meta, .* for the shapes call the layers"),
    "simulate-meta": (lambda: pk.simulate(NET, meta(IMAGES), 4), TypeError, "x is on meta, .* for the shapes call the la"),
    "decay-above-one": (lambda: pk.LIF(decay=1.5), ValueError, "decay must be from 0 to 1, got 1.5"),
    "decay-negative": (lambda: pk.FusedLIFConv2d(3, 4, 3, decay=-0.1), ValueError, "decay must be from 0 to 1, got -0.1"),
    "decay-nan": (lambda: pk.FusedLIFLinear(3, 4, decay=NAN), ValueError, "decay must be from 0 to 1, got nan"),
    "decay-one-nan": (
        lambda: pk.LIF(decay=torch.tensor([0.5, NAN])), ValueError, "decay must be from 0 to 1, got nan"
    ),
    "decay-one-above": (
        lambda: pk.LIF(decay=torch.tensor([0.5, 2.0])), ValueError, "decay must be from 0 to 1, got 2.0"
    ),
    "decay-word": (lambda: pk.LIF(decay="slow"), TypeError, "decay must be a number or a tensor"),
    "decay-bool": (lambda: pk.LIF(decay=True), TypeError, "decay must be a number or a tensor"),
    "decay-shape": (lambda: pk.LIF(decay=torch.ones(1, 3)), TypeError, "decay must be a number or a float tensor"),
    "decay-channels": (
        lambda: pk.LIF(decay=torch.ones(4))(CURRENT), ValueError, "decay must have one value for each of 3 channels, got 4"
    ),
    "decay-device": (
        lambda: pk.LIF(decay=meta(torch.ones(3)))(CURRENT), ValueError, "decay is on meta and the input on cpu"
    ),
    "decay-gradient": (
        lambda: pk.LIF(decay=torch.ones(3, requires_grad=True)), ValueError, "decay requires a gradient"
    ),
    "current-decay": (
        lambda: pk.Population(pk.neurons.CubaLIFNeuron(current_decay=2)), ValueError, "current_decay must be from 0 to 1"
    ),
    "adaptation-decay": (
        lambda: pk.Population(pk.neurons.ALIFNeuron(adaptation_decay=NAN)), ValueError, "adaptation_decay must be from 0"
    ),
    "adaptation-negative": (
        lambda: pk.Population(pk.neurons.ALIFNeuron(adaptation=-1)), ValueError, "adaptation must be at least 0 and finite"
    ),
    "refractory-float": (
        lambda: pk.Population(pk.neurons.RefractoryLIFNeuron(refractory=1.5)), TypeError, "refractory must be an integer"
    ),
    "refractory-negative": (
        lambda: pk.Population(pk.neurons.RefractoryLIFNeuron(refractory=-1)), ValueError, "refractory must be at least 0"
    ),
    "rest-at-threshold": (lambda: pk.LIF(v_rest=1.0), ValueError, "v_rest must be below v_threshold = 1, .* got 1.0"),
    "rest-nan": (lambda: pk.LIF(v_rest=NAN), ValueError, "v_rest must be finite"),
    "rest-word": (lambda: pk.LI(v_rest="0"), TypeError, "v_rest must be a number"),
    "tau-below-one": (lambda: pk.neurons.LIFNeuron.from_tau(0.5), ValueError, "tau must be at least 1 step .* got 0.5"),
    "tau-nan": (lambda: pk.neurons.LIFNeuron.from_tau(NAN), ValueError, "tau must be at least 1 step .* got nan"),
    "tau-infinite": (lambda: pk.neurons.LIFNeuron.from_tau(INF), ValueError, "tau must be at least 1 step and finite"),
    "tau-by-channel": (
        lambda: pk.neurons.LIFNeuron.from_tau(torch.tensor([2.0, 4.0]), v_reset=-0.5), ValueError, "differ by channel"
    ),
    "tau-mem-zero": (lambda: pk.neurons.LIFNeuron.from_tau_mem(0.0), ValueError, "tau_mem must be above 0"),
    "tau-mem-dt": (lambda: pk.neurons.LIFNeuron.from_tau_mem(2.0, 0), ValueError, "dt must be above 0"),
    "neuron-class": (lambda: pk.Population(pk.neurons.LIFNeuron), TypeError, "neuron must be one of proxykernels.neurons"),
    "neuron-layer": (lambda: pk.FusedLinear(3, 4, neuron=pk.LIF()), TypeError, "neuron must be one of .*, got LIF"),
    "two-states-v": (
        lambda: pk.Population(pk.neurons.CubaLIFNeuron())(CURRENT, CURRENT[0]), ValueError, r"state, \[2, 2, 3, 5, 5\]"
    ),
    "proxy-no-neurons": (lambda: pk.ProxyNet(nn.Linear(2, 2), 4), ValueError, "at least one layer of neurons"),
}  # fmt: skip


@pytest.mark.parametrize("call, error, message", CASES.values(), ids=CASES)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("held", [False, True], ids=["sequence", "held"])
@pytest.mark.parametrize("value", [0.0, 0.5], ids=["spikes", "values"])
@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)], ids=str)
def test_images_without_pixels_are_all_padding(size, value, held):
    """What a window finds there is the bias."""
    bias = torch.linspace(-0.5, 1.0, 6)
    x = torch.full((2, 3, *size), value).expand(4, 2, 3, *size)
    x = x if held else x.clone()
    spikes, v = pk.if_conv2d(x, WEIGHT + 1, bias, padding=2)
    assert spikes.shape == (4, 2, 6, size[0] + 2, size[1] + 2)
    expected, last = reference.if_hold(bias.view(1, 6, 1, 1).expand(spikes.shape[1:]), 4)
    assert equal(spikes.dense(), expected) and equal(v, last) and expected.any()


def test_meta_tensors_have_shapes():
    spikes, v = pk.if_conv2d(meta(CURRENT), meta(WEIGHT), padding=1)
    assert spikes.shape == (4, 2, 6, 5, 5) and v.shape == (2, 6, 5, 5) and v.is_meta
    assert pk.if_hold(meta(IMAGES), 4)[0].shape == (4, 2, 3, 5, 5)
