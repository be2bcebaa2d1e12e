"""A network of another library that is run: copies of it, and what its neurons take and give."""

from typing import Any

import torch
from torch import Tensor, nn

from ..graph.prepared import copied
from .recurrence import BiasAlone, cut
from .spikingjelly_neurons import ALL_STEPS, is_delay
from .time_axes import TimeAxes


class Original:
    """A network of another library, of which copies are run, in evaluation mode.

    Attributes:
        source: the network itself.
        one_call: whether a call runs all steps, [T, N, ...]: of SpikingJelly's multi-step mode, or of a loop over time.
        takes_steps: whether such a call is given [T, N, ...], or an input that it repeats itself.
        states: whether it takes what its neurons give apart, spikes and potentials.
        axes: which axis of what such a call takes and gives is that of the steps.
    """

    def __init__(self, net: nn.Module, one_call: bool, takes_steps: bool, states: bool, axes: TimeAxes):
        self.source, self.axes = net, axes
        self.one_call, self.takes_steps, self.states = one_call, takes_steps, states

    @property
    def delay(self) -> int:
        """Steps of all its delays together."""
        modules: list[Any] = [module for module in self.source.modules() if is_delay(module)]
        return sum(int(module.delay_steps) for module in modules)

    def fresh(self) -> nn.Module:
        """Another copy, which has not run; without what comes back to neurons, which is compared by itself."""
        net = cut(copied(self.source, {}))
        for module in net.modules():
            if getattr(module, "backend", "torch") != "torch":
                module.backend = "torch"  # type: ignore[assignment]  # SpikingJelly's kernels of a GPU
        return net

    def call(self, net: nn.Module, x: Tensor) -> Any:
        """What one call of ``net``, a copy, gives for the steps x [T, N, ...], of which it may take the first only."""
        if not self.one_call or not self.takes_steps:
            return self.axes.of_output(net(x[0]))
        return self.axes.of_output(net(self.axes.of_input(x)))


def reset(net: nn.Module) -> None:
    for module in net.modules():
        its_reset: Any = getattr(module, "reset_mem", getattr(module, "reset", None))
        if callable(its_reset):  # snnTorch's neurons have a tensor of that name
            its_reset()


def current_of(module: nn.Module, arguments: tuple) -> Tensor:
    """What neurons are given, with the bias of what would come back to them (recurrence.py)."""
    back = getattr(module, "recurrent", None)
    return arguments[0] + back.bias if isinstance(back, BiasAlone) and back.bias is not None else arguments[0]


def at_rest(arguments: tuple) -> bool:
    """Whether neurons are called with potentials, and these are 0."""
    return len(arguments) > 1 and not any(bool(torch.as_tensor(state).any()) for state in arguments[1:])


def has_own_forward(module: nn.Module) -> bool:
    """Whether a call of the module is not what its library's class does."""
    definer = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    own = not definer.__module__.startswith(("torch.", "spikingjelly.", "snntorch."))
    return own or "forward" in vars(module)


def takes_all_steps(neurons: nn.Module) -> bool:
    """Whether a call of them takes [T, N, ...]; else one step."""
    kinds = (kind.__name__ for kind in type(neurons).__mro__)
    by_name = any(kind.startswith(ALL_STEPS) and kind.endswith("Node") for kind in kinds)
    return by_name or hasattr(neurons, "decode") or getattr(neurons, "step_mode", "s") == "m"


def first(module: Any, arguments: tuple, given: Any) -> Tensor:
    """What neurons gave: spikes, or all potentials of a readout, which may give a part of them only."""
    if not hasattr(module, "decode"):
        return tensor_of(given)
    decode, module.decode = module.decode, None
    try:
        return torch.stack(module.forward(*arguments))
    finally:
        module.decode = decode


def tensor_of(given: Any) -> Any:
    return given[0] if isinstance(given, tuple | list) else given
