"""Layers of ours and operators of torch in any order, on tensors that stay packed and on dense ones: the same values.

A case is a program over a few tensors, views of each other among them. It is run twice side by side: as it is, and with
a dense tensor made at once of what each layer gives. Values are compared without a look at what is still packed.
"""

from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.spikes import spike_tensor

from . import draw, ways
from .case import Case, same
from .words import DTYPES

STEPS = (
    "conv", "conv", "linear", "sum", "pool", "average", "flatten", "dropout", "concatenate", "spikes",  # of ours
    "slice", "slice", "slice", "flat view", "detach", "clone", "cat time", "cat channels", "to", "evaluated dropout",
    "add", "zero", "write", "write rows", "numpy", "image", "total", "count", "copy", "data", "out", "expand",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Mixture(Case):
    """A program, each step the name of what is done and three random numbers."""

    T: int = 1
    N: int = 1
    C: int = 1
    size: tuple[int, int] = (1, 1)
    rate: float = 0.5
    dtype: str = "float32"
    program: tuple = ()

    @classmethod
    def draw(cls, random: Random, **common) -> "Mixture":
        steps = [
            (random.choice(STEPS), *(random.randint(0, 999) for _ in range(3))) for _ in range(random.randint(2, 14))
        ]
        return cls(
            **common, T=random.choice((1, 2, 5, 9, 17)), N=random.choice((1, 2, 3)), C=random.choice((1, 3, 8, 9, 17)),
            size=(random.randint(1, 6), random.randint(1, 6)), rate=draw.rate(random),
            dtype=random.choice((*DTYPES, "float32", "float32", "bfloat16")), program=tuple(steps),
        )  # fmt: skip

    def smaller(self):
        for k in range(len(self.program)):
            yield type(self)(**{**self.__dict__, "program": self.program[:k] + self.program[k + 1 :]})
        yield from super().smaller()

    def check(self) -> bool:
        few, spike_tensor.FEWEST = spike_tensor.FEWEST, 0
        try:
            with ways.use(self.way, self.threads), torch.no_grad():
                given, wanted = Run(self, packed=True), Run(self, packed=False)
                for step in self.program:
                    before = len(wanted.tensors)
                    wanted.do(*step)
                    given.do(*step)
                    if len(wanted.tensors) > before:
                        last, dense = given.tensors[-1], wanted.tensors[-1]
                        same(f"{step} of a copy", Run.copy(last), dense)
                for k, (a, b) in enumerate(zip(given.tensors, wanted.tensors, strict=True)):
                    same(f"tensor {k}", a + 0 if a.dtype != torch.bool else a | False, b)
        finally:
            spike_tensor.FEWEST = few
        return any(bool(x.any()) for x in wanted.tensors)


class Run:
    """The tensors of a program; ``packed``: whether they may stay so."""

    def __init__(self, case: Mixture, *, packed: bool):
        self.packed, self.g = packed, draw.generator(case.seed)
        x = draw.spikes((case.T, case.N, case.C, *case.size), "rate", case.rate, self.g)
        self.tensors = [x.to(getattr(torch, case.dtype))]
        self.tensors.append(self.made(pk.IF(v_threshold=1.0)(self.tensors[0])))

    @staticmethod
    def copy(x: Tensor) -> Tensor:
        """The values, without a look at the tensor itself."""
        bits = x.packed() if isinstance(x, spike_tensor.SpikeTensor) else None
        return x.clone() if bits is None else bits.dense(x.dtype)

    def made(self, y: Tensor) -> Tensor:
        return y.dense() if isinstance(y, spike_tensor.SpikeTensor) and not self.packed else y

    def weights(self, layer: nn.Module) -> nn.Module:
        for parameter in layer.parameters():
            parameter.copy_(draw.whole(tuple(parameter.shape), 3, self.g))
        return layer.eval()

    def do(self, name: str, which: int, a: int, b: int) -> None:
        x, other = self.tensors[which % len(self.tensors)], self.tensors[a % len(self.tensors)]
        y = self.ours(name, x, other, a) if name in STEPS[:10] else self.of_torch(name, x, other, a, b)
        if y is not None and y.numel() < 200_000:
            self.tensors.append(self.made(y) if name in STEPS[:10] else y)

    def ours(self, name: str, x: Tensor, other: Tensor, a: int) -> Tensor | None:
        images, features = x.ndim == 5, x.shape[2] if x.ndim > 2 else 0
        if x.numel() == 0 or not bool(((self.copy(x).float().abs()) <= 64).all()):
            return None
        if name == "conv" and images:
            return self.weights(
                pk.FusedIFConv2d(features, 1 + a % 17, 1 + 2 * (a % 2), padding=a % 2, v_threshold=2.0)
            )(x)
        if name == "linear" and x.ndim == 3:
            return self.weights(pk.FusedIFLinear(features, 1 + a % 40, v_threshold=2.0))(x)
        if name == "sum" and x.shape == other.shape and x.ndim > 2:
            return pk.FusedIFSum(nn.Identity(), nn.Identity(), v_threshold=2.0)((x, other))
        if name == "pool" and images and min(x.shape[3:]) > 1:
            return pk.MaxPool2d(2)(x)
        if name == "average" and images and min(x.shape[3:]) > 1 and x.is_floating_point():
            return pk.AvgPool2d(2)(x)
        if name == "flatten" and x.ndim > 3:
            return pk.Flatten()(x)
        if name == "dropout" and x.ndim > 2 and x.dtype == torch.float32:
            torch.manual_seed(a)
            return pk.Dropout(0.5)(x)
        if name == "concatenate" and _fit(x, other):
            return pk.Concatenate()((x, other))
        if name == "spikes":
            return pk.IF(v_threshold=1.0)(x)
        return None

    def of_torch(self, name: str, x: Tensor, other: Tensor, a: int, b: int) -> Tensor | None:
        T, at, value = x.shape[0], a % x.shape[0], b % 2
        alike = x.dtype == other.dtype and x.ndim == other.ndim > 2
        match name:
            case "slice":
                return x[at : at + 1 + b % T]
            case "flat view":
                return x.flatten(2) if x.ndim > 3 else x[:]
            case "detach":
                return x.detach()
            case "clone":
                return x.clone()
            case "cat time" if alike and x.shape[1:] == other.shape[1:]:
                return torch.cat([x, other, x])
            case "cat channels" if alike and _fit(x, other):
                return torch.cat([x, other], 2)
            case "to":
                return x.to(getattr(torch, DTYPES[a % len(DTYPES)]))
            case "evaluated dropout" if x.is_floating_point():
                return F.dropout(x, 0.5, False)
            case "add" if x.dtype != torch.bool:
                return x + value
            case "zero":
                x.zero_()
            case "write":
                x[at] = value
            case "write rows" if x.ndim > 2:
                x.flatten(2)[:, :, b % 5 :].fill_(value)
            case "numpy" if x.dtype != torch.bfloat16:
                x.numpy()[at] = value
            case "image":
                return x.transpose(0, 1).contiguous().transpose(0, 1)
            case "total":
                return x.sum().view(1, 1)
            case "count":
                return x.sum(0, keepdim=False) if x.ndim > 3 else None
            case "copy" if x.shape == other.shape:
                x.copy_(other)
            case "data":
                return x.data
            case "out" if x.dtype == torch.float32:
                torch.mul(torch.ones(x.shape), value, out=x)
            case "expand":
                return x[:1].expand(3, *x.shape[1:]).clone()
        return None


def _fit(x: Tensor, other: Tensor) -> bool:
    """Whether two tensors differ in their channels alone."""
    return x.ndim == other.ndim > 2 and (*x.shape[:2], *x.shape[3:]) == (*other.shape[:2], *other.shape[3:])
