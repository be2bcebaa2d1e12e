"""What all layers here share.

A layer is stateless: every call starts at rest. ``layer(x)`` is Spikes for Spikes; for a tensor it is a tensor of 0 and
1 in the input's dtype, or in float32 where it carries a gradient and the input's dtype cannot. ``layer(x, v)`` starts
from the state ``v`` and returns ``(y, v)``.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .. import checks
from ..kernels import value_checks_cache
from ..spikes import Spikes
from ..spikes.spike_tensor import dense_like, packed
from ..surrogates import Surrogate
from .attributes import NeuronAttributes
from .parametrized import parametrized_again, with_plain_weights
from .synapses import Synapse

UNPACKED_BYTES = 16 << 20  # of spikes as float32 values, at a time

_warned: set[type] = set()  # classes that have warned of a missing gradient

BatchStatistics = bool | Literal["means"]  # see SpikingLayer.spike


class SpikingLayer(nn.Module):
    """A layer that gives spikes, and whose state a caller may carry from call to call."""

    synapse: type[Synapse] = Synapse  # computes its currents
    surrogate: Surrogate | None = None
    has_twin = True  # whether ProxyNet trains it

    def forward(self, x: Spikes | Tensor, v: Tensor | None = None):
        if v is None and passes:
            check_layer(self)
        if self.training:
            self._warn_without_gradient(x)
        given = x if type(x) is Tensor or type(x) is Spikes else packed(x)
        spikes, state = self.spike(given, v, batch_statistics=self.training)
        y = dense_like(spikes, x) if isinstance(x, Tensor) and isinstance(spikes, Spikes) else spikes
        return y if v is None else (y, state)

    def spike(
        self, x: Spikes | Tensor, v: Tensor | None = None, *, batch_statistics: BatchStatistics = False
    ) -> tuple[Spikes, Tensor]:
        """Spikes (T, N, ...) and the last potentials, whatever ``x`` is.

        ``batch_statistics`` normalises by the statistics of this batch, and updates the running ones (as BatchNorm does
        in training): True: those of the currents of all steps; "means": of the currents' means over the steps.
        """
        return self._fire(x, v, batch_statistics)

    def _warn_without_gradient(self, *inputs: Spikes | Tensor) -> None:
        """Warn, once for each class of layers, that a call in training cuts off the gradient."""
        if self.surrogate is not None:
            return
        if not torch.is_grad_enabled() or torch.compiler.is_compiling() or type(self) in _warned:
            return
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        if any(tensor.requires_grad for tensor in (*self.parameters(), *tensors)):
            _warned.add(type(self))
            warnings.warn(
                f"{type(self).__name__} was called in training, and its spikes have no gradient: its weights and its "
                f"input get none from this call. Train {'through ProxyNet, or ' * self.has_twin}with a surrogate "
                "derivative (proxykernels.use_surrogate(net, proxykernels.ATan())); where no gradient is wanted, call "
                "it after .eval() or under torch.no_grad()",
                UserWarning,
                stacklevel=2,
            )

    def _fire(
        self, x: Spikes | Tensor, v: Tensor | float | None, batch_statistics: BatchStatistics
    ) -> tuple[Spikes, Tensor]:
        raise NotImplementedError

    def affine(self, x: Tensor) -> Tensor:
        """The layer's currents for one step [N, ...], before any normalisation; differentiable."""
        raise NotImplementedError

    def terms(self, x: Spikes | Tensor) -> list[tuple[Synapse, Spikes | Tensor]]:
        """The synapses whose currents add up, each with the input that it takes."""
        return [(self.synapse(self), x)]

    def returning(self, y: Spikes | Tensor) -> list[tuple[Synapse, Spikes | Tensor]]:
        """The recurrent synapses, each with the layer's own output as its input; most layers have none."""
        return []

    def repeats(self, device: torch.device, T: int) -> bool:
        """Whether its spikes on a constant input of T steps are kept as periods."""
        return False


class WithoutSynapses(SpikingLayer):
    """Base of layers without weights or neurons, such as pooling layers with a state."""

    def terms(self, x: Spikes | Tensor) -> list:
        return []

    def _warn_without_gradient(self, *inputs: Spikes | Tensor) -> None:
        """No warning: such layers either have a gradient or raise an error."""


def kept_values(v: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
    """The state ``v`` of a layer without neurons, in float32.

    Raises:
        TypeError, ValueError: it is of another type, shape or device, or not finite on a CPU.
    """
    checks.floating("v", v)
    checks.same_device("v", v, device)
    if tuple(v.shape) != tuple(shape):
        raise ValueError(f"v must have the shape {list(shape)}, got {list(v.shape)}")
    if not v.is_cuda:  # a look at values on a GPU would wait for it in every chunk of steps
        checks.finite("v", v)
    return v.float()


class Neurons(NeuronAttributes, SpikingLayer):
    """What all layers of neurons share: the neurons, whose parameters are the layer's attributes, and where they start.

    Attributes:
        limit: of the activation in the ReLU network that convert was given (ReLU6), in its units; None: it has none.
        rectifies: whether that network has a ReLU here; its last layer may have none.
        surrogate: the surrogate derivative of the spikes, such as ATan(2.0); None: the layer is not differentiable.
    """

    limit: float | None = None
    rectifies: bool = False

    def stand_for(self, layer: "Neurons") -> None:
        """Take over the start potential of ``layer``, and its facts about the ReLU network."""
        self.v_init, self.scale, self.limit, self.rectifies = layer.v_init, layer.scale, layer.limit, layer.rectifies

    def spike(
        self, x: Spikes | Tensor, v: Tensor | None = None, *, batch_statistics: BatchStatistics = False
    ) -> tuple[Spikes, Tensor]:
        start: Any = v
        if v is None:
            start = self.v_init if self._buffers.get("v_init") is None else self._now("v_init")
            if isinstance(start, Tensor):
                start = self._start(x, start)
        return self._fire(x, start, batch_statistics)

    def _start(self, x: Any, v_init: Tensor) -> Tensor:
        """The potentials that a call without a state starts from, of one value for each channel."""
        synapse, first = self.terms(x)[0]
        N, C, *size = synapse.output_shape(tuple(first.shape))[1:]
        if len(v_init) != C:
            raise ValueError(f"v_init must be a number or one value for each of {C} channels, got {len(v_init)}")
        return value_checks_cache.computed_from(v_init.view(-1, *[1] * len(size)).expand(N, C, *size), v_init)

    @property
    def states(self) -> int:
        """Number of state variables of a neuron, the potential first. The state is [N, ...] for one of them, and
        [N, states, ...] for several."""
        return self.neuron.states

    @property
    def at_rest(self) -> bool:
        """Whether a call without a state starts at rest."""
        return not isinstance(self.v_init, Tensor) and self.v_init == self.neuron.rest

    def repeats(self, device: torch.device, T: int) -> bool:
        return self.at_rest and self.neuron.repeats(device, T)

    def __reduce_ex__(self, protocol):
        """Also pickles parametrized layers (learn_neurons), whose class torch creates at run time."""
        if not parametrize.is_parametrized(self):
            return super().__reduce_ex__(protocol)
        return parametrized_again, (with_plain_weights(self), dict(self.parametrizations.items()))

    def extra_repr(self) -> str:
        described = self.neuron.detach()
        parts = [super().extra_repr()] if super().extra_repr() else []
        for name in described.names():
            value = getattr(described, name)
            if name in described.channelwise:
                value = f"[{len(value)}]" if isinstance(value, Tensor) and value.ndim else f"{float(value):g}"
            parts.append(f"{name}={value}")
        start = f"[{len(self.v_init)}]" if isinstance(self.v_init, Tensor) else f"{self.v_init:g}"
        return ", ".join(parts + ([] if self.at_rest else [f"v_init={start}"]))


def as_images(x: Any) -> Any:
    """Rows (T, N, C, L) as images of one row."""
    return x._sized(1, x.shape[3]) if isinstance(x, Spikes) else x.unsqueeze(3)


def as_row(x: Any) -> Any:
    """Images of one row as rows (T, N, C, L)."""
    return x._sized(x.shape[4]) if isinstance(x, Spikes) else x.squeeze(3)


def each_step(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of [N, ...] to every step of x [T, N, ...].

    Once, if x is one step repeated by expand; what is returned is repeated in the same way, so that the next layer
    works once, too.
    """
    if checks.is_repeated(x):
        return checks.repeated(function(x[0]), x.shape[0])
    return function(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def each_step_of_spikes(function: Callable[[Tensor], Tensor], x: Spikes | Tensor) -> Tensor:
    """Like :func:`each_step`, but unpacks Spikes a few steps at a time, since values take 32 times the memory."""
    if not isinstance(x, Spikes):
        return each_step(function, x)
    words = 1 if x.device.type == "cpu" else 32  # steps per word on this device
    steps = max(1, UNPACKED_BYTES // (4 * words * max(1, math.prod(x.shape[1:])))) * words
    if steps >= x.T or x.requires_grad:
        return value_checks_cache.note(each_step(function, x.dense()))
    first = each_step(function, x[:steps].dense())
    y = first.new_empty(x.T, *first.shape[1:])
    y[:steps] = first
    for start in range(steps, x.T, steps):
        y[start : start + steps] = each_step(function, x[start : start + steps].dense())
    return value_checks_cache.note(y)


_chunked: ContextVar[nn.Module | None] = ContextVar("chunked", default=None)
passes: list[nn.Module] = []  # that run now, of all threads: mostly none, so that a layer's call looks no further


@contextmanager
def chunked_pass(net: nn.Module) -> Iterator[None]:
    """A block in which a simulation runs ``net`` a chunk of steps at a time.

    Its layers are replaced by others that keep their state from chunk to chunk. A function with neurons, or a layer
    that was not replaced, would start at rest in each chunk, so it is refused.
    """
    token = _chunked.set(net)
    passes.append(net)
    try:
        yield
    finally:
        passes.pop()  # whosever it is: they are counted
        _chunked.reset(token)


def is_in_chunked_pass() -> bool:
    """Whether the caller is within such a block."""
    return _chunked.get() is not None


def check_layer(layer: nn.Module) -> None:
    """Refuse a call of a layer from rest within such a block.

    Raises:
        ValueError: within such a block; the message names the layer.
    """
    if torch.compiler.is_compiling():  # simulations run no compiled modules, see uncompiled()
        return
    if (net := _chunked.get()) is not None:
        _refuse_layer(layer, net)


def check_function(name: str, layer: str, v: Any = None, *, takes_state: bool = True) -> None:
    """Refuse a call of a function with neurons without a state ``v`` within such a block.

    Raises:
        ValueError: there is no state; the message names the function, and the ``layer`` to use instead.
    """
    if v is None and not torch.compiler.is_compiling() and _chunked.get() is not None:
        passed_on = ", or keep its potentials in your module and pass them as v, 0.0 at the start" * takes_state
        raise ValueError(
            f"{name} was called without a state in a network that is simulated a chunk of steps at a time, and its "
            f"neurons would start at rest in every chunk: use the layer {layer}{passed_on}"
        )


def _refuse_layer(layer: nn.Module, net: nn.Module) -> NoReturn:
    kind = type(layer).__name__
    name = next((name for name, module in net.named_modules() if module is layer), None)
    who = f"a {kind} that is no submodule of the network" if name is None else f"layer {name or kind} ({kind})"
    raise ValueError(
        f"{who} was called past its attribute, from a plain list for example: a simulation runs a chunk of steps at a "
        "time, keeps the state of the layers that are attributes, and this one would start again in every chunk; call "
        "it as self.name, or keep it in an nn.ModuleList"
    )
