"""Functions and products of values in networks that :func:`convert` makes for sigma-delta and graded neurons: gates."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..kernels import reference, sigma_delta_codes
from .sigma_delta_neurons import Changes, kept_state

SMOOTH = (nn.Sigmoid, nn.Hardsigmoid, nn.Hardswish, nn.SiLU, nn.Tanh, nn.ELU, nn.Softplus, nn.Mish)  # table.Function


class OfSums(nn.Module):
    """A function of one value, such as a sigmoid, or the product of two: of the sums of what arrived so far.

    It gives what its result changes by. So it is exact in a pass of graded neurons whose threshold is 0, and with
    sigma-delta neurons as soon as what it takes has settled, after which it gives nothing. Equations:
    proxykernels/kernels/reference.py.

    Args:
        function: one of ``SMOOTH``; None: the product of two inputs. Axes of size 1 are repeated: the gate [N, C, 1, 1]
            of a squeeze-and-excitation block multiplies all pixels of a channel.

    Shapes: (T, N, C, ...), or a tuple of two; ``forward`` takes values at each step, not changes.

    Raises:
        TypeError: the function is another one.
    """

    def __init__(self, function: nn.Module | None = None):
        super().__init__()
        if function is not None and type(function) not in SMOOTH:
            known = ", ".join(kind.__name__ for kind in SMOOTH)
            raise TypeError(f"function must be one of {known}, or None for a product, got {type(function).__name__}")
        self.function = function

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        if self.function is not None:
            assert isinstance(x, Tensor)
            return reference.function_of_sums(self.function, x)
        first, second = x
        return first * second

    def run(self, inputs: Sequence[Changes], state: list[Tensor] | None) -> Changes:
        """The changes of the result, in as many steps as the inputs have.

        Args:
            state: what the inputs have brought; for a function of one, that and its last value. It is changed in place;
                an empty list is filled. None: nothing was brought, and nothing is kept.
        """
        steps, device = max(x.steps for x in inputs), inputs[0].values.device
        shapes = [(len(x.values), *x.values.shape[2:]) for x in inputs]
        kept = None if state is None else kept_state(state, shapes[0], shapes[-1], device)
        before = None
        if kept is not None:
            states = [part.unsqueeze(1) for part in kept]
            before = states[1].clone() if self.function is not None else self._product(states, inputs)
        sums = [
            sigma_delta_codes.sums_so_far(x.real(), None if kept is None else kept[k], steps)
            for k, x in enumerate(inputs)
        ]
        y = self.forward(sums[0]) if self.function is not None else self._product(sums, inputs)
        if kept is not None and self.function is not None:
            kept[1].copy_(y[:, -1])
        size = torch.broadcast_shapes(*(x.size for x in inputs))
        first = torch.zeros_like(y[:, :1]) if before is None else before
        return Changes(torch.diff(y, dim=1, prepend=first), tuple(size))

    def _product(self, sums: Sequence[Tensor], inputs: Sequence[Changes]) -> Tensor:
        """The product [N, steps, P, C] of two sums, each with the pixels of its input."""
        images = [part.unflatten(2, x.size or (1,)) for part, x in zip(sums, inputs, strict=True)]
        return self.forward(images).flatten(2, -2)

    def extra_repr(self) -> str:
        return "a product" if self.function is None else ""
