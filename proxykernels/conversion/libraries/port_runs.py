"""Runs a network of another library for a few steps, and records the inputs and outputs of its neurons."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..graph.compare import RATE, Watched
from ..graph.prepared import copied
from .recurrence import BiasAlone, cut
from .spikingjelly_neurons import ALL_STEPS, is_delay
from .time_axes import TimeAxes


class Original:
    """A copy of a network of another library, in evaluation mode.

    Attributes:
        net: the copy.
        one_call: whether a call runs all steps, [T, N, ...]: of SpikingJelly's multi-step mode, or of a loop over time.
        takes_steps: whether such a call is given [T, N, ...], or an input that it repeats itself.
        own_steps: whether such a call runs a number of steps that the network sets.
        states: whether it takes what its neurons give apart, spikes and potentials.
        axes: which axis of what such a call takes and gives is that of the steps.
        starts_anew: whether its neurons start from rest at each call of one step, as a run has shown.
    """

    def __init__(
        self, net: nn.Module, one_call: bool, takes_steps: bool, own_steps: bool, states: bool, axes: TimeAxes
    ):  # fmt: skip
        self.source, self.axes = net, axes
        self.one_call, self.takes_steps, self.own_steps, self.states = one_call, takes_steps, own_steps, states
        self.starts_anew = False
        self.net = self.fresh()

    def undelayed(self) -> "Original":
        """The same network without its delays, which give what they are given."""
        net = copied(self.source, {})
        for path in self._delays(net):
            net.set_submodule(path, nn.Identity())
        return Original(net, self.one_call, self.takes_steps, self.own_steps, self.states, self.axes)

    @property
    def delay(self) -> int:
        """Steps of all its delays together."""
        modules: list[Any] = [self.net.get_submodule(path) for path in self._delays(self.net)]
        return sum(int(module.delay_steps) for module in modules)

    @staticmethod
    def _delays(net: nn.Module) -> list[str]:
        return [path for path, module in net.named_modules() if is_delay(module)]

    def fresh(self) -> nn.Module:
        """Another copy, which has not run; without what comes back to neurons, which is compared by itself."""
        net = cut(copied(self.source, {}))
        for module in net.modules():
            if getattr(module, "backend", "torch") != "torch":
                module.backend = "torch"  # type: ignore[assignment]  # SpikingJelly's kernels of a GPU
        return net

    @torch.no_grad()
    def watched(
        self, x: Tensor, neurons: Mapping[str, str], gains: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Watched], Any]:
        """Run it on x [T, N, ...] with random spikes in the place of those that its neurons give.

        ``neurons``: the path of each layer's neurons; ``gains``: of each layer. Returns the input [T, N, ...] that has
        been run, what the neurons of each layer were given and gave, and the output.
        """
        calls: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {path: [] for path in neurons.values()}
        with self._spikes_at_random(calls):
            output = self._run(x)
        if self.starts_anew:
            for path in calls:
                del calls[path][1:]
        watched = {}
        for name, path in neurons.items():
            of_all_steps = takes_all_steps(self.net.get_submodule(path))
            parts = zip(*calls[path], strict=True)
            current, fired, given = (part[0] if of_all_steps else torch.stack(part) for part in parts)
            watched[name] = Watched(current, fired, given, gains[name])
        T = max(len(there.current) for there in watched.values())
        ran = x[:T] if self.takes_steps or not self.one_call else x[:1].expand(T, *x.shape[1:])
        return ran, watched, output

    def _run(self, x: Tensor) -> Any:
        reset(self.net)
        if self.one_call:
            return self.call(self.net, x)
        steps = []
        for step in x:
            self.starts_anew = False
            steps.append(tensor_of(self.net(step)))
            if steps[1:] and self.starts_anew:
                steps = steps[:1]
                break
        return torch.stack(steps) if all(isinstance(step, Tensor) for step in steps) else None

    def call(self, net: nn.Module, x: Tensor) -> Any:
        """What one call of ``net``, a copy, gives for the steps x [T, N, ...], of which it may take the first only."""
        if not self.one_call or not self.takes_steps:
            return self.axes.of_output(net(x[0]))
        return self.axes.of_output(net(self.axes.of_input(x)))

    @contextmanager
    def _spikes_at_random(self, calls: Mapping[str, list[tuple[Tensor, Tensor, Tensor]]]) -> Iterator[None]:
        """Neurons, by their paths, hand on random spikes; ``calls``: what they are given, what they give, what these
        are."""
        generator = torch.Generator().manual_seed(0)

        def hook(path: str) -> Callable:
            def watch(module: Any, arguments: tuple, given: Any) -> Any:
                self.starts_anew |= not self.one_call and at_rest(arguments)
                fired = first(module, arguments, given)
                if hasattr(module, "decode"):  # a readout, which gives its potentials
                    calls[path].append((current_of(module, arguments).clone(), fired, fired))
                    return given
                spikes = (torch.rand(fired.shape, generator=generator) < RATE).to(fired)
                calls[path].append((current_of(module, arguments).clone(), fired, spikes))
                spikes = spikes.clone()  # lest the net changes them
                return (spikes, *given[1:]) if self.states and isinstance(given, tuple) else spikes

            return watch

        with ExitStack() as hooks:
            for path in calls:
                hooks.enter_context(self.net.get_submodule(path).register_forward_hook(hook(path)))
            yield

    @torch.no_grad()
    def with_a_forward_of_its_own(self, x: Tensor, neurons: Mapping[str, str]) -> tuple[str, str, str] | None:
        """The first module, in the order of calls, whose output differs from that of the torch class it is based on.

        Its path, its class and torch's. Only those are asked that have a forward of their own.
        """
        found: list[tuple[str, str, str]] = []

        def hook(path: str, base: Any) -> Callable:
            def compare(module: Any, arguments: tuple, given: Any) -> None:
                taken = arguments[0]
                steps = getattr(module, "step_mode", "s") == "m"
                try:
                    plain = base.forward(module, taken.flatten(0, 1) if steps else taken)
                    plain = plain.unflatten(0, taken.shape[:2]) if steps else plain
                    same = plain.shape == given.shape and torch.allclose(plain, given, 1e-4, 1e-5)
                except Exception:  # torch's class does not even run
                    same = False
                if not same:
                    found.append((path, type(module).__name__, base.__name__))

            return compare

        with ExitStack() as hooks:
            asks = False
            for path, module in self.net.named_modules():
                kinds = (kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules"))
                base = next(kinds, None)
                if base not in (None, nn.Module, nn.Sequential, nn.ModuleList) and has_own_forward(module):
                    hooks.enter_context(module.register_forward_hook(hook(path, base)))
                    asks = True
            if asks:
                hooks.enter_context(self._spikes_at_random({path: [] for path in neurons.values()}))
                self._run(x)
        return found[0] if found else None


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
