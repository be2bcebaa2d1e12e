"""Training by proxy: a ReLU network with the same weights produces the backward pass.

"Spiking neural networks trained via proxy" (Kheradpisheh, Mirsadeghi and Masquelier, IEEE Access 10, 2022,
arXiv:2109.13208).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import checks
from .layers import FusedIFConv2d, Neurons
from .simulate import replace_neurons, run


class ProxyNet(nn.Module):
    """A spiking network and its ReLU twin.

    The twins have the same architecture and share every weight; their forward passes are independent. In training the
    output is the spiking network's, and the gradient of the loss with respect to it is handed to the ReLU network's
    output, from where autograd goes back to the shared weights. No backpropagation through time, no surrogate gradient.

    Args:
        net: an nn.Sequential or any nn.Module of the layers of this package. In the twin every layer of IF neurons is a
            ReLU, but for the last one (in the order of ``net.modules()``), which is linear.
        T: steps that the spiking network is simulated for.
        clip: clip the twin's ReLUs at ``v_threshold``, with zero gradient above it. An IF neuron fires at most once a
            step, so a larger activation promises the loss what the spiking network cannot deliver, and training may
            run away: rates go to 1. Clipping cures that. The paper's twin is not clipped.

    Shapes: ``model(x)``, ``model.snn(x)``: spike counts, float32 [N, classes]; ``model.ann(x)``: the twin's output,
    [N, classes]; x [N, C, H, W] or [N, features], a current that is held for T steps.

    With batch normalisation the twins share its weights, and each has running statistics of its own: the spiking
    network's in the layer's ``bn``, the twin's in ``model.statistics``.
    """

    def __init__(self, net: nn.Module, T: int, *, clip: bool = False):
        super().__init__()
        self.net, self.T, self.clip = net, checks.steps(T), clip
        names = []
        self.statistics = nn.ModuleDict()

        def collect(name: str, layer: Neurons) -> Neurons:
            names.append(name)
            if isinstance(layer, FusedIFConv2d) and layer.bn is not None:
                self.statistics[_key(name)] = nn.BatchNorm2d(
                    layer.out_channels,
                    layer.bn.eps,
                    layer.bn.momentum,
                    affine=False,
                    device=layer.weight.device,
                )
            return layer

        replace_neurons(net, collect)
        if not names:
            raise ValueError("net must have at least one layer of IF neurons, such as FusedIFConv2d")
        self._last = names[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Spike counts [N, classes]; in training with the proxy's gradient, else the spiking network alone."""
        if not (self.training and torch.is_grad_enabled()):
            return self.snn(x)
        return _OutputSwap.apply(self.ann(x), self.snn(x))

    @torch.no_grad()
    def snn(self, x: Tensor) -> Tensor:
        """The spiking network's output: spike counts of T steps, float32 [N, classes]."""
        batch_statistics = self.training and len(self.statistics) > 0
        return run(self.net, x, self.T, batch_statistics=batch_statistics).count().float()

    def ann(self, x: Tensor) -> Tensor:
        """The ReLU twin's output [N, classes]; differentiable."""

        def twin(name: str, layer: Neurons) -> _Twin:
            statistics = self.statistics[_key(name)] if _key(name) in self.statistics else None
            return _Twin(layer, statistics, linear=name == self._last, clip=self.clip)

        return replace_neurons(self.net, twin)(x.unsqueeze(0)).squeeze(0)


class _OutputSwap(torch.autograd.Function):
    """The spiking network's output forward; backward, its gradient goes to the ReLU network's output."""

    @staticmethod
    def forward(ctx, ann: Tensor, snn: Tensor) -> Tensor:
        return snn.to(ann.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _Twin(nn.Module):
    """A layer of the ReLU network, on [1, N, ...]: the layer's currents, normalised by the twin's own statistics."""

    def __init__(self, layer: Neurons, statistics: nn.BatchNorm2d | None, linear: bool, clip: bool):
        super().__init__()
        self.layer, self.statistics, self.linear, self.clip = layer, statistics, linear, clip

    def forward(self, x: Tensor | tuple[Tensor, ...]) -> Tensor:
        current = self.layer.affine(tuple(part.squeeze(0) for part in x) if isinstance(x, tuple) else x.squeeze(0))
        if self.statistics is not None:
            current = self.statistics(current)
            bn = self.layer.bn
            current = current * bn.weight.view(-1, 1, 1) + bn.bias.view(-1, 1, 1)
        return self.activation(current).unsqueeze(0)

    def activation(self, current: Tensor) -> Tensor:
        if self.linear:
            return current
        if not self.clip:
            return F.relu(current)
        theta = torch.as_tensor(self.layer.v_threshold, device=current.device)
        theta = theta.view(-1, *[1] * (current.ndim - 2)) if theta.ndim else theta
        return torch.minimum(F.relu(current), theta)


def _key(name: str) -> str:
    return name.replace(".", "/")  # a ModuleDict's keys may not hold dots
