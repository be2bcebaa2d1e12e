"""A ReLU network whose layers take only inputs that have changed, as CBinfer and DeltaCNN do: the control of video.py.

CBinfer (arXiv:1704.04313), DeltaCNN (arXiv:2203.03996). They decide for pixels, with all their channels; here each
value is decided for itself, which takes fewer products. Layers are computed densely, on the inputs as far as they have
been taken: what is counted is what a sparse kernel would multiply.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = nn.Conv1d | nn.Conv2d | nn.Linear


class DeltaNetwork:
    """A copy of a network that keeps, of each layer of weights, the inputs that it has taken.

    Args:
        images: [N, C, H, W], by which each layer's largest input is found.
        share: of this, the change from which an input is taken; 0: each change.

    Attributes:
        products: of all calls.
    """

    def __init__(self, ann: nn.Module, images: Tensor, share: float):
        self.net, self.products = copy.deepcopy(ann).eval(), 0.0
        self._layers = [_Layer(module) for module in self.net.modules() if isinstance(module, LAYERS)]
        hooks = [layer.module.register_forward_pre_hook(layer.look) for layer in self._layers]
        with torch.no_grad():
            self.net(images)
        for hook, layer in zip(hooks, self._layers, strict=True):
            hook.remove()
            layer.least = share * layer.largest
            layer.module.register_forward_pre_hook(self._take(layer))

    @torch.no_grad()
    def __call__(self, frame: Tensor) -> Tensor:
        return self.net(frame)

    def _take(self, layer: "_Layer"):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            taken, products = layer.take(inputs[0])
            self.products += products
            return (taken,)

        return hook


class _Layer:
    def __init__(self, module: Any):
        self.module, self.largest, self.least = module, 0.0, 0.0
        self.taken: Tensor | None = None

    def look(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.largest = max(self.largest, inputs[0].abs().max().item())

    def take(self, x: Tensor) -> tuple[Tensor, float]:
        """The inputs as far as they are taken, and the products that those taken now cost."""
        if self.taken is None:
            self.taken, self.reach = torch.zeros_like(x), reach(self.module, x)
        changed = (x - self.taken).abs() > self.least
        self.taken = torch.where(changed, x, self.taken)
        return self.taken, (changed * self.reach).sum(dtype=torch.float64).item()


def reach(module: Any, x: Tensor) -> Tensor:
    """The number of products that each input [N, ...] takes part in."""
    ones = copy.deepcopy(module)
    with torch.enable_grad():
        for parameter in ones.parameters():
            parameter.data.fill_(1.0)
        inputs = torch.zeros_like(x).requires_grad_()
        (found,) = torch.autograd.grad(ones.forward(inputs).sum(), inputs)  # not a call: copies have the hooks too
    return found
