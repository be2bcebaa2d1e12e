"""What users' networks have besides layers and ReLUs: the converted network's logits become the outputs as T grows."""

from collections import OrderedDict

import layerwise
import pytest
import torch
import torch.nn.functional as F
from cases import many
from equality import equal
from torch import nn
from torchvision.ops import StochasticDepth

import proxykernels as pk


class Model(nn.Module):
    """Modules by letters, and what the forward pass does with them."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.steps = forward
        for name, module in modules.items():
            self.register_buffer(name, module) if isinstance(module, torch.Tensor) else self.add_module(name, module)

    def forward(self, x):
        return self.steps(self, x)


def images(*size: int) -> torch.Tensor:
    return torch.rand(4, *(size or (2, 8, 8)), generator=torch.Generator().manual_seed(0))


def conv(inputs=2, outputs=3, kernel=3, **options):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def row(inputs=2, outputs=3, kernel=3):
    return nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2)


def seen(norm: nn.Module) -> nn.Module:
    norm.running_mean.normal_(0, 0.2), norm.running_var.uniform_(0.5, 2)
    if norm.weight is not None:
        norm.weight.data.normal_(), norm.bias.data.uniform_(0, 0.5)
    return norm


def body(forward, **modules):
    """A convolution in front, and one behind."""
    return Model(lambda m, x: m.z(forward(m, m.a(x).relu())), a=conv(), z=conv(3), **modules)


def of_rows(forward, **modules):
    return Model(lambda m, x: m.z(forward(m, m.a(x.flatten(2)).relu())), a=row(), z=row(3), **modules)


class Patched(nn.Conv2d):
    def forward(self, x):
        return super().forward(2 * x)


def patched() -> nn.Module:
    net = body(lambda m, y: m.b(y), b=nn.Conv2d(3, 3, 3, padding=1))
    net.b.forward = lambda x: F.conv2d(x, net.b.weight, padding=1).relu()
    return net


def option_a(m, x):
    """The shortcut of the paper's ResNet for CIFAR-10: every second pixel, and channels of zeros."""
    y = m.a(x).relu()
    return (m.b(y) + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))).relu()


def heads(m, x):
    y = m.a(x).relu()
    return torch.cat([head(y).flatten(2) for head in (m.b, m.c)], 2)


def joined_with_zeros(m, x):
    y = m.a(x).relu()
    return m.b(torch.cat([y, torch.zeros_like(y)], 1)) + torch.cat([torch.zeros_like(y[:, :1]), y], 1)


def assigned(channel, value):
    """A channel that is another one, or a number; with a tuple, a sample."""

    def forward(m, y):
        z = value(m, y) if callable(value) else value
        y[channel if isinstance(channel, tuple) else (slice(None), channel)] = z
        return y

    return forward


def shifted(m, x):
    """The shift of channels along an axis of TSM, written into zeros."""
    y = m.a(x).relu()
    out = torch.zeros_like(y)
    out[:, :1, 1:], out[:, 1:2, :-1], out[:, 2:] = y[:, :1, :-1], y[:, 1:2, 1:], y[:, 2:]
    return m.b(out)


def read_after_relu(m, x):
    """A shortcut beside a ReLU in place, which is the ReLU's result."""
    y = m.b(m.a(x).relu())
    return m.c(m.r(y)) + y


def where_positive(y):
    return torch.where(y > 0, y, torch.zeros_like(y)) + torch.where(y > 0, y, 0.1 * y)


def added_in_place(m, x):
    y = z = m.a(x).relu()
    z += m.b(y)
    return (m.c(z.relu()) + y).relu()


ZOO = {
    # the bugs: passed over in silence, or errors of torch
    "option A": lambda: Model(option_a, a=conv(), b=nn.Conv2d(3, 6, 3, 2, 1)),
    "pad in front": lambda: Model(lambda m, x: m.a(F.pad(x, (1, 0, 2, 1, 1, 0))).relu(), a=conv(3)),
    "crop": lambda: body(lambda m, y: F.pad(y, (-1, 2, 0, -2))),
    "reflect": lambda: body(lambda m, y: m.p(F.pad(y, (1, 1, 1, 1), mode="reflect")), p=nn.ReplicationPad2d(1)),
    "recomputed factor": lambda: body(
        lambda m, y: F.interpolate(y, scale_factor=1.3, mode="bilinear", recompute_scale_factor=True)
    ),
    "recomputed factor, module": lambda: body(
        lambda m, y: m.u(y), u=nn.Upsample(scale_factor=1.7, mode="bilinear", recompute_scale_factor=True)
    ),
    "output size": lambda: Model(
        lambda m, x: m.b(m.a(x).relu(), output_size=(16, 15)), a=conv(), b=nn.ConvTranspose2d(3, 2, 3, 2, 1)
    ),
    "output size by position": lambda: Model(
        lambda m, x: m.b(m.a(x).relu(), [15, 16]), a=conv(), b=nn.ConvTranspose2d(3, 2, 3, 2, 1)
    ),
    "patched forward": patched,
    "subclass": lambda: nn.Sequential(conv(), nn.ReLU(), Patched(3, 4, 3)),
    "index_select": lambda: body(lambda m, y: y.index_select(1, m.i), i=torch.tensor([2, 0, 1])),
    "index": lambda: body(lambda m, y: y[:, m.i], i=torch.tensor([2, 0, 2])),
    "mean of rows": lambda: Model(lambda m, x: m.b(m.a(x).relu().mean(2)), a=conv(), b=row(3)),
    "mean of channels": lambda: Model(
        lambda m, x: m.b(m.a(x).relu().mean(1, keepdim=True)), a=conv(), b=conv(1)
    ),
    "mean of all": lambda: Model(
        lambda m, x: m.b(m.a(x).relu().mean((1, 2, 3)).unsqueeze(1)), a=conv(), b=nn.Linear(1, 3)
    ),
    "averages, one size left": lambda: body(lambda m, y: F.adaptive_avg_pool2d(y, (None, 4))),
    "averages of rows as images": lambda: of_rows(lambda m, y: F.adaptive_avg_pool2d(y, (None, 4))),
    "rows padded": lambda: of_rows(lambda m, y: F.pad(y, (2, 1))),
    "rows padded, module": lambda: of_rows(lambda m, y: m.p(y), p=nn.ZeroPad1d(2)),
    "rows enlarged": lambda: of_rows(lambda m, y: F.interpolate(y, scale_factor=2)),
    "rows interpolated": lambda: of_rows(lambda m, y: F.interpolate(y, size=50, mode="linear")),
    "ceil mode by position": lambda: body(lambda m, y: torch.max_pool2d(y, 3, 2, 0, 1, True)),
    "bicubic, then ReLU": lambda: body(lambda m, y: F.interpolate(y, scale_factor=2, mode="bicubic").relu()),
    # what was refused for no good reason
    **{f"padding by {mode}": lambda mode=mode: body(
        lambda m, y: m.b(m.b(y).relu()), b=conv(3, padding_mode=mode)) for mode in ("reflect", "replicate", "circular")
    },
    "rows that repeat": lambda: of_rows(
        lambda m, y: m.b(y).relu(), b=nn.Conv1d(3, 3, 3, padding=2, padding_mode="circular")
    ),
    "clamp(max=a) of a convolution": lambda: body(lambda m, y: m.b(y).clamp(max=0.1), b=conv(3)),
    "clamps from below": lambda: body(
        lambda m, y: m.b(y).clamp(-0.1) + m.h(m.b(y)), b=conv(3), h=nn.Hardtanh(-0.2, 0.2)
    ),
    "a threshold that keeps its value": lambda: body(lambda m, y: F.threshold(m.b(y), 0.1, 0.1), b=conv(3)),
    "maxima of two": lambda: body(
        lambda m, y: torch.maximum(m.b(y), m.c(y)) + torch.minimum(m.b(y), torch.tensor(0.05)), b=conv(3), c=conv(3)
    ),
    "maxima along axes": lambda: Model(
        lambda m, x: m.b(torch.cat([m.a(x).amax((2, 3)), m.a(x).relu().max(2)[0].flatten(1)], 1)), a=conv(),
        b=nn.Linear(27, 4),
    ),
    "where and comparisons": lambda: body(
        lambda m, y: where_positive(m.b(y)) + (lambda z: z * (z > 0))(m.c(y)) + m.b(y).abs(), b=conv(3), c=conv(3)
    ),
    "products of rows": lambda: of_rows(
        lambda m, y: (m.w @ (y @ m.v)).relu(), w=torch.randn(3, 3), v=torch.randn(64, 64) / 8
    ),
    "einsum": lambda: body(lambda m, y: torch.einsum("dc,nchw->ndhw", m.w, y).relu(), w=torch.randn(3, 3)),
    "einsum of rows": lambda: body(
        lambda m, y: torch.einsum("nchw,wk->nhck", y, m.w).transpose(1, 2), w=torch.randn(8, 5)
    ),
    "a channel of zeros": lambda: body(assigned(1, 0.0)),
    "a channel of another layer": lambda: body(assigned(0, lambda m, y: m.b(y)[:, 1].relu()), b=conv(3)),
    "a channel of the same layer": lambda: body(assigned(0, lambda m, y: y[:, 2].flip(2))),
    "channels shifted into zeros": lambda: Model(shifted, a=conv(), b=conv(3)),
    "in-place ReLU beside a shortcut": lambda: Model(read_after_relu, a=conv(), b=conv(3), c=conv(3), r=nn.ReLU(True)),
    "stochastic depth": lambda: body(lambda m, y: m.s(m.b(y)) + y, b=conv(3), s=StochasticDepth(0.5, "row")),
    "sums in place": lambda: Model(added_in_place, a=conv(), b=conv(3), c=conv(3)),
    "clamp(min=0)": lambda: Model(lambda m, x: m.b(m.a(x).clamp(min=0)).clamp_min(0), a=conv(), b=conv(3)),
    "clamp(max=a) of a ReLU": lambda: body(
        lambda m, y: m.r(m.b(y.clamp(max=0.2).clamp_max(0.15))).clip(max=0.1), r=nn.ReLU(), b=conv(3),
    ),
    "thresholds of 0": lambda: body(lambda m, y: F.threshold(m.b(m.t(m.b(y))), 0, 0), t=nn.Threshold(0, 0), b=conv(3)),
    "RReLU in evaluation": lambda: body(lambda m, y: F.rrelu(m.b(m.r(m.b(y)))), r=nn.RReLU(0.1, 0.3), b=conv(3)),
    "sums over pixels": lambda: Model(
        lambda m, x: m.b((lambda y: y.sum((2, 3)) / (y.shape[2] * y.shape[3]))(m.a(x).relu())),
        a=conv(), b=nn.Linear(3, 5),
    ),
    "sums over channels": lambda: Model(lambda m, x: m.b(m.a(x).relu().sum(1, keepdim=True)), a=conv(), b=conv(1)),
    "matrix products of buffers": lambda: Model(
        lambda m, x: torch.addmm(m.c, (m.a(x).relu().mean((2, 3)) @ m.w).relu().mm(m.v.t()), m.v),
        a=conv(), w=torch.randn(3, 4), v=torch.randn(5, 4), c=torch.randn(4),
    ),
    "einsum with a buffer": lambda: Model(
        lambda m, x: torch.einsum(
            "bj, jk -> bk", torch.einsum("nc,oc->no", m.a(x).relu().mean((2, 3)), m.w).relu(), m.v
        ),
        a=conv(), w=torch.randn(4, 3), v=torch.randn(4, 5),
    ),
    "[N, 1, features] to a matrix product and to others": lambda: Model(
        lambda m, x: (lambda y: torch.cat([f(y).flatten(1) for f in (m.a, m.l, m.b, m.p, m.n)], 1))(
            x.flatten(1).unsqueeze(1) - 0.5
        ),
        a=nn.Linear(128, 5), l=nn.LeakyReLU(0.2), b=row(1, 2), p=nn.AvgPool1d(4), n=seen(nn.BatchNorm1d(1)),
    ),
    "[N, 1, features] that a call leaves as they are": lambda: Model(
        lambda m, x: m.b(F.interpolate(m.l(m.a(x.flatten(1).unsqueeze(1))), size=8)),
        a=nn.Linear(128, 8), l=nn.LeakyReLU(0.2), b=row(1, 2),
    ),
    "maximum of LeakyReLU": lambda: nn.Sequential(conv(), nn.LeakyReLU(0.1), nn.MaxPool2d(2), conv(3)),
    "maximum of BN(ReLU)": lambda: nn.Sequential(conv(), nn.ReLU(), seen(nn.BatchNorm2d(3)), nn.MaxPool2d(2), conv(3)),
    "maximum of sums": lambda: Model(
        lambda m, x: m.c(F.max_pool2d(m.a(x).relu() + m.b(x).relu(), 2)), a=conv(), b=conv(), c=conv(3)
    ),
    "maximum of currents": lambda: nn.Sequential(conv(), nn.MaxPool2d(3, 2, 1), conv(3)),
    "maximum at the end": lambda: nn.Sequential(conv(), nn.MaxPool2d(2)),
    "maximum, then negative norm": lambda: nn.Sequential(
        conv(), nn.MaxPool2d(2), seen(nn.BatchNorm2d(3)), nn.ReLU(), conv(3)
    ),
    "maximum of rows": lambda: nn.Sequential(
        nn.Flatten(1), nn.Unflatten(1, (2, 64)), row(), nn.LeakyReLU(0.2), nn.MaxPool1d(2), row(3)
    ),
    "sum of pooled currents": lambda: Model(
        lambda m, x: (F.max_pool2d(m.a(x), 2) + m.b(F.avg_pool2d(x, 2))).relu(), a=conv(), b=conv()
    ),
    "mean and std": lambda: Model(
        lambda m, x: m.a((x - m.mean) / m.std).relu(),
        a=conv(), mean=torch.tensor([0.4, 0.6]).view(1, 2, 1, 1), std=torch.tensor([[[0.2]], [[0.3]]]),
    ),
    "a constant for each value": lambda: Model(
        lambda m, x: m.b((m.a(x) + m.c) * m.d), a=conv(), b=conv(3), c=torch.rand(3, 8, 8), d=torch.rand(8, 8)
    ),
    "gray in colour": lambda: Model(lambda m, x: m.a(x[:, :1] * m.c + 0.1), a=conv(3), c=torch.rand(1, 3, 1, 1)),
    "instance norm": lambda: nn.Sequential(
        conv(), seen(nn.InstanceNorm2d(3, affine=True, track_running_stats=True)), nn.ReLU(), conv(3),
        seen(nn.InstanceNorm2d(3, track_running_stats=True)),
    ),
    "norm by function": lambda: Model(
        lambda m, x: F.batch_norm(m.a(x), m.n.running_mean, m.n.running_var, m.n.weight, m.n.bias, False).relu(),
        a=conv(), n=seen(nn.BatchNorm2d(3)),
    ),
    "two scales": lambda: Model(
        lambda m, x: (lambda y, z: m.a(y) + m.b(z))(2 * x, -x), a=conv(), b=conv()
    ),
    "add(alpha)": lambda: Model(
        lambda m, x: torch.sub(m.a(x), m.b(x), alpha=0.3).add(m.c(x).relu(), alpha=2), a=conv(), b=conv(), c=conv()
    ),
    "context": lambda: body(lambda m, y: y + y.mean((2, 3), keepdim=True)),
    "one map for all": lambda: Model(lambda m, x: (m.a(x).relu() + m.b(x).relu()).relu(), a=conv(), b=conv(2, 1)),
    "squeeze": lambda: Model(
        lambda m, x: m.b(F.adaptive_avg_pool2d(m.a(x).relu(), 1).squeeze()), a=conv(), b=nn.Linear(3, 4)
    ),
    "squeeze(2)": lambda: Model(
        lambda m, x: m.b(F.max_pool2d(m.a(x).relu(), (8, 1)).squeeze(2)), a=conv(), b=row(3, 4)
    ),
    "heads": lambda: Model(heads, a=conv(), b=conv(3, 4), c=nn.Conv2d(3, 4, 3, 2)),
    "stack": lambda: Model(
        lambda m, x: m.c(torch.stack([m.a(x).relu(), m.b(x).relu()], 2).flatten(1, 2)), a=conv(), b=conv(), c=conv(6)
    ),
    "zeros beside": lambda: Model(joined_with_zeros, a=conv(), b=conv(6, 4)),
    "transposed rows": lambda: Model(
        lambda m, x: m.b(m.a(x.flatten(2)).relu(), output_size=[128]), a=row(), b=nn.ConvTranspose1d(3, 4, 5, 2, 2)
    ),
    "negative outputs": lambda: Model(lambda m, x: -m.b(m.a(x).relu()).relu() - 1, a=conv(), b=conv(3)),
    "rows of features": lambda: Model(
        lambda m, x: m.c(m.b(m.a(x).relu().flatten(2).transpose(1, 2)).relu()),
        a=conv(), b=nn.Linear(3, 5), c=nn.Linear(5, 2),
    ),
    "rows of images": lambda: nn.Sequential(nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 2, bias=False)),
    "standardised weights": lambda: Model(
        lambda m, x: F.conv2d(x, (m.a.weight - m.a.weight.mean()) / m.a.weight.std(), m.a.bias).relu(), a=conv()
    ),
    "moved at the end": lambda: Model(lambda m, x: m.a(x).relu().permute(0, 2, 3, 1), a=conv()),
    "expanded": lambda: body(lambda m, y: y[:, :1].expand_as(y)),
    "slopes by function": lambda: Model(
        lambda m, x: m.b(F.prelu(m.a(x), m.p.weight)), a=conv(), b=conv(3), p=nn.PReLU(3)
    ),
    "images, then rows": lambda: Model(
        lambda m, x: m.b(m.a(x).relu().flatten(2)), a=conv(), b=row(3)
    ),
    "features, then rows": lambda: Model(
        lambda m, x: m.b(m.a(x.flatten(1)).relu().view(-1, 3, 8)), a=nn.Linear(128, 24), b=row(3)
    ),
}  # fmt: skip


def make(name: str) -> nn.Module:
    torch.manual_seed(1)
    return ZOO[name]().eval()


@torch.no_grad()
def relative_error(logits: torch.Tensor, expected: torch.Tensor) -> float:
    assert logits.shape == expected.shape
    return ((logits - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", many(ZOO, 3))
def test_logits_become_the_outputs(name):
    """Also of images that the calibration has not seen, so far as it reaches."""
    ann, x = make(name), images()
    net = pk.convert(ann, x, method="max")
    assert not net.training and not any(module.training for module in net.modules())
    result = pk.simulate(net, x[:2], 200)
    with torch.no_grad():
        expected = ann(x[:2])
    assert expected.any() and relative_error(result.logits, expected) < 0.03


@pytest.mark.parametrize("name", ["maximum of LeakyReLU", "maximum of BN(ReLU)", "maximum of rows", "option A"])
def test_the_error_fades(name):
    ann, x = make(name), images()
    net = pk.convert(ann, x, method="max")
    with torch.no_grad():
        expected = ann(x)
    errors = [relative_error(layerwise.simulate(net, x, T, chunk=50).logits, expected) for T in (20, 500)]
    assert errors[1] < 0.005 and errors[1] < errors[0]


def test_several_results():
    def forward(m, x):
        y = m.a(x).relu()
        boxes = m.b(y)
        return {"boxes": boxes, "scores": [m.c(y).softmax(1), None], "features": (y,)}

    torch.manual_seed(0)
    ann, x = Model(forward, a=conv(), b=conv(3, 4), c=nn.Conv2d(3, 5, 8)).eval(), images()
    net = pk.convert(ann, x, method="max")
    with torch.no_grad():
        expected, scores = ann(x), ann.c(ann.a(x).relu())
    found = net.outputs(pk.simulate(net, x, 300).logits)
    assert list(found) == list(expected) and found["scores"][1] is None
    assert relative_error(found["boxes"], expected["boxes"]) < 0.02
    assert relative_error(found["scores"][0], scores) < 0.02 and isinstance(found["features"], tuple)
    assert relative_error(found["features"][0], expected["features"][0]) < 0.02


def test_one_result_in_a_dict_and_none():
    torch.manual_seed(0)
    net = pk.convert(Model(lambda m, x: OrderedDict(out=m.a(x)), a=conv()), images(), method="max")
    logits = pk.simulate(net, images(), 20).logits
    assert logits.shape == (4, 3, 8, 8) and equal(net.outputs(logits)["out"], logits) and logits.any()
    plain = pk.convert(conv(), images())
    assert plain.outputs(logits) is logits
    with pytest.raises(TypeError, match="Model must return a tensor, its forward returns None"):
        pk.convert(Model(lambda m, x: None, a=conv()), images())


def test_a_silent_layer_of_neurons_is_an_error_still():
    ann = nn.Sequential(conv(), nn.ReLU())
    nn.init.constant_(ann[0].bias, -100.0)
    with pytest.raises(ValueError, match="module '0' is silent on the calibration data"):
        pk.convert(ann, images())


REFUSED = {
    "antialias": (
        body(lambda m, y: F.interpolate(y, size=4, mode="bilinear", antialias=True)),
        r"interpolate\(\) is called in a way .* antialias must be False, got True",
    ),
    "constants put into a tensor": (body(assigned(0, 1.0)), r"set_part\(\) puts constants into a tensor"),
    "samples put into a tensor": (
        Model(lambda m, x: assigned((0,), 0.0)(m, m.a(x).relu()), a=conv()), "set_part.. gives .* mixing or dropping",
    ),
    "a view that is put into": (
        Model(lambda m, x: (lambda y: (assigned(0, 0.0)(m, y[:, :2]), m.b(y))[1])(m.a(x).relu()), a=conv(), b=conv(3)),
        r"set_part\(\) changes a tensor in place that is used again",
    ),
    "a threshold above 0": (body(lambda m, y: F.threshold(y, 0.5, 0)), "threshold=0.5, value=0; only a ReLU"),
    "a module of it": (body(lambda m, y: m.t(y), t=nn.Threshold(0.5, 0)), r"module 't': got threshold=0.5, value=0"),
    "RReLU in training": (body(lambda m, y: F.rrelu(y, training=True)), "slopes are random in evaluation too"),
    "einsum of two results": (
        body(lambda m, y: torch.einsum("nchw,nchw->nchw", y, y)), r"einsum\(\) has no counterpart",
    ),
    "dropout in evaluation": (body(lambda m, y: F.dropout(y)), r"dropout\(\) is called .*pass training=self.training"),
    "mean of all": (
        Model(lambda m, x: (m.a(x), m.a(x).mean()), a=conv()), r"must return tensors .*mean\(\) gives one value of all"
    ),
    "samples joined": (body(lambda m, y: torch.cat([y, y])), r"cat\(\) joins along the axis of samples"),
    "samples stacked": (body(lambda m, y: torch.stack([y, y]).mean(0)), r"stack\(\) joins along the axis of samples"),
    "mean over samples": (body(lambda m, y: y - y.mean(0, keepdim=True)), r"mean\(\) takes the mean over samples"),
    "constants beside": (
        body(lambda m, y: torch.cat([y[:, :1], torch.ones_like(y[:, 1:])], 1)),
        r"cat\(\) takes values that are not its input's; only zeros can be joined",
    ),
    "samples mixed": (body(lambda m, y: y + y.flip(0)), r"flip\(\) gives \[2, 3, 8, 8\] of 2 samples, mixing"),
    "instance norm": (
        body(lambda m, y: m.n(y), n=nn.InstanceNorm2d(3)), "'n' is a InstanceNorm2d.*replace it by BatchNorm"
    ),
    "ones around": (body(lambda m, y: m.p(y), p=nn.ConstantPad2d(1, 1.0)), "'p' is a ConstantPad2d, which has no"),
    "divided by 0": (body(lambda m, y: y / m.c, c=torch.zeros(3, 1, 1)), r"truediv\(\) divides by 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    ann, message = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=message):
        pk.convert(ann, images())
