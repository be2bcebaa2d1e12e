"""The operations of random networks: all that pk.convert knows, and options that it might pass over.

An operation is a function of (random, shape, module): it draws one that takes values of ``shape`` [N, ...], adds the
modules that it needs, and returns what the forward pass does with them; None where none fits.
"""

from collections.abc import Callable
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Call = Callable[[Any, Tensor], Tensor]  # of the network and a value


def _conv(random: Random, shape, m: Any, kind=None) -> Call | None:
    if len(shape) not in (3, 4):
        return None
    axes, C = len(shape) - 2, shape[1]
    groups = random.choice([1, 1, 1, *[g for g in (2, 3, C) if C % g == 0]])
    kernel, dilation = random.choice((1, 2, 3)), random.choice((1, 1, 1, 2))
    dilation = 1 if kernel == 1 else dilation  # torch 2.13 crashes: Conv1d(5, 1, 1, 2, 1, 2) of a transposed [N, 1, 5]
    out = groups * random.randint(1, max(1, 6 // groups))
    options: dict[str, Any] = {"groups": groups, "dilation": dilation, "bias": random.random() < 0.7}
    if random.random() < 0.2:
        options["padding"] = "same"
    else:
        options |= {"padding": random.randint(0, kernel), "stride": random.choice((1, 1, 2))}
    if random.random() < 0.05:
        options["padding_mode"] = "reflect"
    module: Any = (nn.Conv1d if axes == 1 else nn.Conv2d)(C, out, kernel, **options)
    module.weight.data *= 1.5
    call, function = m.add(module), F.conv1d if axes == 1 else F.conv2d
    if random.random() < 0.15 and "padding_mode" not in options:
        window = module.stride, module.padding, module.dilation, module.groups
        name = f"part{m.parts - 1}"

        def by_function(m, x):
            part = getattr(m, name)
            return function(x, part.weight, part.bias, *window)

        return by_function
    return call


def _transposed(random: Random, shape, m: Any) -> Call | None:
    if len(shape) not in (3, 4):
        return None
    C = shape[1]
    groups = random.choice((1, 1, C))
    kernel, stride = random.choice((2, 3, 4)), random.choice((1, 2))
    options = {"padding": random.randint(0, 1), "output_padding": random.randint(0, stride - 1), "groups": groups}
    kind: Any = nn.ConvTranspose1d if len(shape) == 3 else nn.ConvTranspose2d
    module = kind(C, groups * random.randint(1, 2), kernel, stride, **options)
    call = m.add(module)
    if stride == 2 and random.random() < 0.4:
        size = [(n - 1) * 2 - 2 * options["padding"] + kernel + random.randint(0, 1) for n in shape[2:]]
        return lambda m, x: call(m, x, output_size=size)
    return call


def _linear(random: Random, shape, m: Any) -> Call | None:
    return m.add(nn.Linear(shape[-1], random.randint(2, 8), bias=random.random() < 0.7))


def _seen(norm: Any) -> Any:
    norm.running_mean.normal_(0, 0.3), norm.running_var.uniform_(0.3, 2)
    if norm.weight is not None:
        norm.weight.data.normal_(0.7, 0.6), norm.bias.data.normal_(0.2, 0.3)
    return norm


def _norm(random: Random, shape, m: Any) -> Call | None:
    options = {"affine": random.random() < 0.8, "eps": random.choice((1e-5, 1e-3))}
    if len(shape) == 4:
        kind: Any = random.choice((nn.BatchNorm2d, nn.BatchNorm2d, nn.InstanceNorm2d))
    else:
        kind = nn.BatchNorm1d if len(shape) == 2 else random.choice((nn.BatchNorm1d, nn.InstanceNorm1d))
    tracked = random.random() < 0.95
    if tracked:
        norm = _seen(kind(shape[1], track_running_stats=True, **options))
    else:
        norm = kind(shape[1], track_running_stats=False, **options)
    if random.random() < 0.15 and tracked and kind in (nn.BatchNorm1d, nn.BatchNorm2d):
        m.add(norm)
        name = f"part{m.parts - 1}"

        def by_function(m, x):
            n = getattr(m, name)
            return F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, False, 0.1, n.eps)

        return by_function
    return m.add(norm)


def _relu(random: Random, shape, m: Any) -> Call:
    limit = random.choice((0.5, 1.0, 3.0))
    forms: list[Any] = [
        m.add(nn.ReLU()), m.add(nn.ReLU()), lambda m, x: F.relu(x), lambda m, x: x.relu(), lambda m, x: x.clamp(min=0),
        lambda m, x: torch.clamp(x, 0, limit), m.add(nn.ReLU6()), m.add(nn.Hardtanh(0, limit)),
        lambda m, x: F.hardtanh(x, 0, limit), lambda m, x: F.relu6(x), lambda m, x: x.clamp_min(0.0),
    ]  # fmt: skip
    return random.choice(forms)


def _leaky(random: Random, shape, m: Any) -> Call:
    slope, C = random.choice((0.1, 0.3, -0.2, 1.5)), shape[1]
    forms: list[Any] = [
        m.add(nn.LeakyReLU(slope)), lambda m, x: F.leaky_relu(x, slope), m.add(nn.PReLU(C, slope)), m.add(nn.PReLU()),
    ]  # fmt: skip
    return random.choice(forms)


def _max_pool(random: Random, shape, m: Any) -> Call | None:
    if len(shape) not in (3, 4):
        return None
    one = len(shape) == 3
    kernel, ceil = random.choice((2, 3)), random.random() < 0.3
    stride, padding = random.choice((None, 1, 2)), random.randint(0, 1)
    dilation = 2 if random.random() < 0.05 else 1
    F_pool, T_pool = (F.max_pool1d, torch.max_pool1d) if one else (F.max_pool2d, torch.max_pool2d)
    forms: list[Any] = [
        m.add((nn.MaxPool1d if one else nn.MaxPool2d)(kernel, stride, padding, dilation, ceil_mode=ceil)),
        lambda m, x: F_pool(x, kernel, stride, padding, dilation, ceil),
        lambda m, x: T_pool(x, kernel, stride or kernel, padding, dilation, ceil),
    ]
    if all(n % 2 == 0 for n in shape[2:]):
        size: Any = shape[2] // 2 if one else (shape[2] // 2, None)
        forms.append(m.add((nn.AdaptiveMaxPool1d if one else nn.AdaptiveMaxPool2d)(size)))
    return random.choice(forms)


def _avg_pool(random: Random, shape, m: Any) -> Call | None:
    if len(shape) not in (3, 4):
        return None
    one = len(shape) == 3
    kernel, stride, padding = random.choice((2, 3)), random.choice((None, 1, 2)), random.randint(0, 1)
    ceil, counted = random.random() < 0.3, random.random() < 0.5
    window: tuple = kernel, stride, padding, ceil, counted
    if not one and random.random() < 0.2:
        window += (random.choice((2, 5)),)
    size: Any = random.choice((1, 2, 3)) if one else random.choice((1, 2, (None, 2), (3, None), (2, 3)))
    forms: list[Any] = [
        m.add((nn.AvgPool1d if one else nn.AvgPool2d)(*window)),
        lambda m, x: (F.avg_pool1d if one else F.avg_pool2d)(x, *window),
        m.add((nn.AdaptiveAvgPool1d if one else nn.AdaptiveAvgPool2d)(size)),
        lambda m, x: (F.adaptive_avg_pool1d if one else F.adaptive_avg_pool2d)(x, size),
    ]
    return random.choice(forms)


def _mean(random: Random, shape, m: Any) -> Call | None:
    axes = random.sample(range(1, len(shape)), random.randint(1, len(shape) - 1))
    keep = random.random() < 0.6 or len(axes) == len(shape) - 1
    dim: Any = axes[0] if len(axes) == 1 and random.random() < 0.5 else axes
    return random.choice((lambda m, x: x.mean(dim, keepdim=keep), lambda m, x: torch.mean(x, dim, keep)))


def _enlarged(random: Random, shape, m: Any) -> Call | None:
    if len(shape) not in (3, 4):
        return None
    smooth = ("linear",) if len(shape) == 3 else ("bilinear", "bicubic", "area")
    mode = random.choice(("nearest", "nearest-exact", *smooth))
    options: dict[str, Any] = {"mode": mode}
    if random.random() < 0.5:
        size = [random.randint(1, 2 * n + 1) for n in shape[2:]]
        options["size"] = size[0] if len(shape) == 3 else tuple(size)
    else:
        options["scale_factor"] = random.choice((2, 1.3, 0.7))
        if random.random() < 0.4:
            options["recompute_scale_factor"] = True
    if mode in ("linear", "bilinear", "bicubic"):
        options["align_corners"] = random.random() < 0.5
    by_function = dict(options)
    if mode in ("bilinear", "bicubic") and random.random() < 0.2:
        by_function["antialias"] = True
    return random.choice((m.add(nn.Upsample(**options)), lambda m, x: F.interpolate(x, **by_function)))


def _pad(random: Random, shape, m: Any) -> Call | None:
    if len(shape) not in (3, 4):
        return None
    axes = random.randint(1, len(shape) - 1)
    pad = [random.choice((0, 0, 1, 2, -1)) for _ in range(2 * axes)]
    four = [abs(n) for n in (pad * 4)[: 2 * (len(shape) - 2)]]
    two = len(shape) == 4
    value = 0.5 if random.random() < 0.05 else 0.0
    forms: list[Any] = [
        lambda m, x: F.pad(x, pad), lambda m, x: F.pad(x, tuple(pad), "constant", value),
        lambda m, x: F.pad(x, four, mode="reflect"), lambda m, x: F.pad(x, four, mode="replicate"),
        m.add((nn.ZeroPad2d if two else nn.ZeroPad1d)(tuple(four))),
        m.add((nn.ConstantPad2d if two else nn.ConstantPad1d)(tuple(four), value)),
        m.add((nn.ReflectionPad2d if two else nn.ReflectionPad1d)(tuple(four))),
        m.add((nn.CircularPad2d if two else nn.CircularPad1d)(tuple(four))),
    ]  # fmt: skip
    return random.choice(forms)


def _move(random: Random, shape, m: Any) -> Call:
    axis, C = random.randrange(1, len(shape)), shape[1]
    order = [0, *random.sample(range(1, len(shape)), len(shape) - 1)]
    index = m.keep(torch.tensor([random.randrange(shape[axis]) for _ in range(random.randint(1, 4))]))
    start = random.randrange(shape[axis])
    forms: list[Any] = [
        lambda m, x: x.permute(order), lambda m, x: x.flip(axis), lambda m, x: torch.roll(x, 1, axis),
        lambda m, x: x.index_select(axis, getattr(m, index)), lambda m, x: x.narrow(axis, start, 1),
        lambda m, x: x[:, start % C :], lambda m, x: x[..., ::2], lambda m, x: x.transpose(1, len(shape) - 1),
        lambda m, x: x.flatten(1), lambda m, x: x.reshape(x.shape[0], -1, shape[-1]), lambda m, x: x.unsqueeze(1),
        lambda m, x: x.squeeze(), lambda m, x: x.squeeze(axis), lambda m, x: x.chunk(2, axis)[0],
        lambda m, x: x.split(1, axis)[0],
        lambda m, x: x.repeat_interleave(2, axis), lambda m, x: x.clone().contiguous().view(x.size(0), C, -1),
        lambda m, x: x[:, getattr(m, index) % C], lambda m, x: x.select(axis, start),
        lambda m, x: x.unflatten(1, (1, C)), lambda m, x: x.flatten(-2), lambda m, x: x.narrow(axis, 0, 1).expand_as(x),
        lambda m, x: x.view(-1, C, *shape[2:]),
    ]  # fmt: skip
    if C % 2 == 0 and len(shape) == 4:
        forms += [m.add(nn.ChannelShuffle(2)), lambda m, x: F.channel_shuffle(x, 2)]
    if C % 4 == 0 and len(shape) == 4:
        forms += [m.add(nn.PixelShuffle(2)), lambda m, x: F.pixel_shuffle(x, 2)]
    return random.choice(forms)


def _scale(random: Random, shape, m: Any) -> Call:
    number = random.choice((0.5, 2, -1.5, 3))
    which = random.choice(("channels", "channels", "values", "one", "last"))
    size = {
        "channels": (shape[1], *[1] * (len(shape) - 2)), "values": shape[1:], "one": (), "last": shape[-1:]
    }[which]  # fmt: skip
    mean, std = m.keep(torch.rand(size)), m.keep(0.5 + torch.rand(size))
    forms: list[Any] = [
        lambda m, x: (x - getattr(m, mean)) / getattr(m, std), lambda m, x: getattr(m, mean) - x * getattr(m, std),
        lambda m, x: number * x, lambda m, x: number - x, lambda m, x: x / number + 0.2, lambda m, x: -x,
        lambda m, x: torch.add(x, getattr(m, mean), alpha=2), lambda m, x: x.mul(number).sub(0.1),
        lambda m, x: torch.rsub(x, 1.5),
    ]  # fmt: skip
    return random.choice(forms)


def _left_alone(random: Random, shape, m: Any) -> Call:
    forms: list[Any] = [
        m.add(nn.Dropout()), m.add(nn.Identity()), lambda m, x: F.dropout(x, training=m.training),
        lambda m, x: x.contiguous(), lambda m, x: x.detach(), lambda m, x: x.clone(),
    ]  # fmt: skip
    return random.choice(forms)


def _strange(random: Random, shape, m: Any) -> Call | None:
    """What convert must refuse, or follow: forward passes of their own, and functions that are not known."""
    if random.random() < 0.6:
        return None
    call = m.add(nn.Conv2d(shape[1], 3, 1) if len(shape) == 4 else nn.Linear(shape[-1], 3))
    name = f"part{m.parts - 1}"
    part = getattr(m, name)
    kind, factor = type(part), random.choice((0.5, 2.0))
    how = random.choice(("patched", "subclass", "leaf", "function"))
    if how == "patched":
        part.forward = lambda x: factor * kind.forward(part, x)
    elif how in ("subclass", "leaf"):
        part.__class__ = type("Own", (kind,), {"forward": lambda self, x: factor * kind.forward(self, x)})
        part.__class__.__module__ = "torch.nn.own" if how == "leaf" else "own"
    else:
        function = random.choice((torch.tanh, torch.abs, F.gelu, torch.sin, F.softplus, torch.square, F.elu))
        return lambda m, x: function(x)
    return call


def _gate(random: Random, shape, m: Any) -> Call:
    """A function of values, or of the means of pixels or channels, which the values are multiplied by."""
    alpha = random.choice((0.1, 1.0))
    plain = torch.sigmoid, F.hardsigmoid, F.hardswish, F.silu, torch.tanh, F.mish, F.softplus, lambda x: F.elu(x, alpha)
    modules = m.add(nn.Softplus(random.choice((0.5, 2.0)), 3.0)), m.add(nn.Hardsigmoid(inplace=True))
    function = random.choice((*(lambda m, x, f=f: f(x) for f in plain), *modules))
    how = "values" if len(shape) == 2 else random.choice(("values", "pixels", "pixels", "some axes"))
    if how == "values":
        return random.choice((function, lambda m, x: x * function(m, x)))
    if how == "pixels":
        axes, layer = tuple(range(2, len(shape))), m.add((nn.Conv1d, nn.Conv2d)[len(shape) - 3](shape[1], shape[1], 1))
        return lambda m, x: x * function(m, layer(m, x.mean(axes, keepdim=True)))
    some = random.sample(range(1, len(shape)), random.randint(1, len(shape) - 2))
    return lambda m, x: function(m, x.mean(some, keepdim=True)) * x


def _add(random: Random, shapes, taken: int) -> Call | None:
    other = random.randrange(len(shapes))
    forms: list[Any] = [
        lambda m, v: v[taken] + v[other], lambda m, v: torch.add(v[taken], v[other], alpha=0.5),
        lambda m, v: v[taken] - v[other], lambda m, v: torch.sub(v[other], v[taken], alpha=2),
        lambda m, v: v[taken].add(v[other]),
    ]  # fmt: skip
    return random.choice(forms)


def _cat(random: Random, shapes, taken: int) -> Call | None:
    axis, others = random.randrange(1, len(shapes[taken])), random.choices(range(len(shapes)), k=random.randint(1, 2))
    forms: list[Any] = [
        lambda m, v: torch.cat([v[taken], *[v[other] for other in others]], axis),
        lambda m, v: torch.cat([v[others[0]], v[taken]], dim=axis - len(shapes[taken])),
        lambda m, v: torch.stack([v[taken], v[others[0]]], axis),
        lambda m, v: torch.cat([v[taken], torch.zeros_like(v[taken])], axis),
    ]
    return random.choice(forms)


def _product(random: Random, shapes, taken: int) -> Call | None:
    other = random.randrange(len(shapes))
    return random.choice((lambda m, v: v[taken] * v[other], lambda m, v: torch.mul(v[other], v[taken])))


JOINS = {"add": _add, "cat": _cat, "product": _product}
GATES: dict[str, Callable[[Random, tuple[int, ...], Any], Call | None]] = {  # which only some neurons have
    **{f"gate {k}": _gate for k in range(6)}, "product": lambda *_: None,
}  # fmt: skip
OPERATIONS: dict[str, Callable[[Random, tuple[int, ...], Any], Call | None]] = {
    "conv": _conv, "conv, again": _conv, "row": _conv, "transposed": _transposed, "linear": _linear, "norm": _norm,
    "relu": _relu, "relu, again": _relu, "relu, once more": _relu, "leaky": _leaky, "max pool": _max_pool,
    "avg pool": _avg_pool, "mean": _mean, "enlarged": _enlarged, "pad": _pad, "move": _move, "move, again": _move,
    "scale": _scale, "left alone": _left_alone, "strange": _strange, **dict.fromkeys(("add", "cat"), lambda *_: None),
}  # fmt: skip
