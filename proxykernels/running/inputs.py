"""Inputs of a network: sequences (T, N, ...), constant inputs, and the frames [N, T, ...] of loaders; then each as the
library has it.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from .. import checks
from ..kernels.table import InputKind
from ..kernels.value_checks_cache import can_be_read
from ..layers import (
    AdaptiveAvgPool1d,
    AllSteps,
    Attention,
    AvgPool1d,
    Channels,
    Concatenate,
    Delay,
    Dropout,
    Flatten,
    FusedSum,
    MaxPool1d,
    MaxRatePool1d,
    Multiply,
    Pixels,
    Population,
    RunningMaxPool1d,
    StepAffine,
    StepAttention,
    StepMixture,
    SynapseFilter,
    ValuedNeurons,
)
from ..layers.layer_graph import LayerGraph, check_sample
from ..plan.library import Given
from ..plan.plan import Plan
from ..plan.quantize import round_input
from ..spikes import Spikes, is_binary, pack_if_binary
from ..spikes.spike_tensor import packed

ONE_AXIS = nn.Conv1d, MaxPool1d, MaxRatePool1d, RunningMaxPool1d, AvgPool1d, AdaptiveAvgPool1d
DECIDING = nn.Conv2d, nn.Linear
ANY_SHAPE = (
    Population, Dropout, Channels, Concatenate, Delay, Flatten, Attention, Multiply, StepAffine, StepAttention,
    StepMixture, AllSteps, SynapseFilter, ValuedNeurons, nn.Identity,
)  # fmt: skip
SAMPLES = {2: "features", 3: "C, L", 4: "C, H, W"}


def time_first(frames: Tensor) -> Tensor:
    """Event frames as loaders give them, [N, T, ...], as networks here take them, [T, N, ...]: a view, no copy.

    ``DataLoader`` stacks samples along a new first dimension, so recordings [T, C, H, W] (of tonic's ``ToFrame``, for
    example) come as [N, T, C, H, W]:

        for frames, labels in loader:
            counts = model(pk.time_first(frames))

    Args:
        frames: [N, T, C, H, W], [N, T, features] or any other [N, T, ...], of any dtype. In ``simulate``, ``ProxyNet``
            and layers, a bool is a spike, and an integer is as many events of its pixel and step: a current of that
            many times the weight, as if it were a float. (So frames of 0 and 1 are spikes in any dtype.)

    Returns:
        ``frames.transpose(0, 1)``, which shares its memory.

    Raises:
        TypeError: ``frames`` is no tensor; Spikes are (T, N, ...) already.
        ValueError: it has fewer than three dimensions.
    """
    if isinstance(frames, Spikes):
        raise TypeError(f"frames must be a tensor [N, T, ...], got Spikes, which are (T, N, ...) already: {frames}")
    if not isinstance(frames, Tensor):
        raise TypeError(
            f"frames must be a torch.Tensor [N, T, ...], got {type(frames).__name__}; torch.as_tensor makes one of an "
            "array"
        )
    checks.strided("frames", frames)
    if frames.ndim < 3:
        raise ValueError(f"frames must have the shape [N, T, features] or [N, T, C, H, W], got {list(frames.shape)}")
    return frames.transpose(0, 1)


def is_sequence(net: nn.Module, x: Tensor | Spikes, T: int) -> bool:
    """Whether x is a sequence of T steps, rather than a constant input.

    Of three and of four dimensions it may be either: a network whose first layer is a convolution or pooling along one
    axis takes [N, C, L], and one that was converted what it was calibrated with. Frames of one axis [T, N, C, L], such
    as a cochlea's, are told from images by the number of features.
    """
    if not isinstance(x, Spikes):
        checks.real("x", x)
    if len(x.shape) == 4 and are_frames(x, features_of(net)):
        return _has_steps(x, T)
    dims, constant = len(x.shape), constant_dims(net)
    if dims in constant or dims - 1 in constant:
        check_sample(net, tuple(x.shape[1 if dims in constant and isinstance(x, Tensor) else 2 :]))
    if dims in (4, 5) and 4 in constant and (first := _first_convolution(net)) is not None:
        if wrong := checks.channels_last("x", tuple(x.shape), first.in_channels):
            raise ValueError(wrong)
    if dims in constant and isinstance(x, Tensor):
        if not x.is_floating_point():
            raise TypeError(
                f"x must be floating point, got {x.dtype} {list(x.shape)}, which is a constant input: convert it "
                f"with .float(). Integers are spikes and event counts in a sequence, {_shapes('T, N', constant)}"
                f"{'; x.flatten(2) makes one of frames of one sample' * (len(x) == T and dims == 4)}"
            )
        return False
    if dims - 1 not in constant:
        raise ValueError(
            f"x must be a constant input, {_shapes('N', constant)}, or a sequence, {_shapes('T, N', constant)}; "
            f"got {list(x.shape)}"
        )
    return _has_steps(x, T)


def _has_steps(x: Tensor | Spikes, T: int) -> bool:
    """Whether a sequence has T steps.

    Raises:
        ValueError: it has others.
    """
    if x.shape[0] != T:
        loader = isinstance(x, Tensor) and x.shape[1] == T
        remedy = "; if it is [N, T, ...], as a DataLoader gives it, pass proxykernels.time_first(x)" if loader else ""
        raise ValueError(f"x is a sequence of {x.shape[0]} steps, and T is {T}{remedy}")
    if isinstance(x, Tensor) and x.shape[1] == T > 1 and x.stride(0) >= x.stride(1) > 0:  # no view by time_first
        warnings.warn(
            f"x {list(x.shape)} has as many steps as samples, {T}, and is taken for [T, N, ...]; if it is [N, T, ...], "
            "as a DataLoader gives it, pass proxykernels.time_first(x)",
            stacklevel=4,
        )
    return True


class Features(NamedTuple):
    """What a network whose first layer is a matrix product takes.

    Attributes:
        number: of its features; None: its first layer is another one.
        only: whether samples with others cannot be right, as far as this is known without a run.
    """

    number: int | None
    only: bool = False


def features_of(net: nn.Module) -> Features:
    """The features that a network takes."""
    if getattr(net, "input_dims", None):
        return Features(None)
    only = isinstance(net, nn.Sequential | LayerGraph)
    for module in _first(net):
        module = module.synapses[0] if isinstance(module, FusedSum) else module
        if isinstance(module, nn.Linear):
            return Features(module.in_features, only)
        if isinstance(module, ONE_AXIS + DECIDING) or (not module._modules and not isinstance(module, ANY_SHAPE)):
            break
        only = only and not isinstance(module, Channels | Concatenate)
    return Features(None)


def are_frames(x: Tensor | Spikes, features: Features) -> bool:
    """Whether x, of four dimensions, is a sequence [T, N, C, L] for a network that takes features, and no images
    [N, C, H, W]: those have other features, and are no spikes."""
    if features.number is None or math.prod(x.shape[2:]) != features.number:
        return False
    if isinstance(x, Spikes) or x.dtype == torch.bool:
        return True
    return math.prod(x.shape[1:]) != features.number and (features.only or not x.is_floating_point())


def constant_dims(net: nn.Module) -> tuple[int, ...]:
    """How many dimensions a constant input of a network may have: [N, features], [N, C, L] or [N, C, H, W]."""
    if getattr(net, "input_dims", None):
        return (net.input_dims,)  # type: ignore[return-value]  # torch's modules are annotated as full of modules
    tokens = False
    for module in _first(net):
        module = module.synapses[0] if isinstance(module, FusedSum) else module
        tokens = tokens or isinstance(module, Attention)
        if isinstance(module, ONE_AXIS) or (isinstance(module, Pixels) and len(module.size) == 2):  # of tokens, images
            return 2, 3
        if isinstance(module, DECIDING) or (not module._modules and not isinstance(module, ANY_SHAPE)):
            return 2, 4
    return (2, 3) if tokens else (2, 4)


def _first_convolution(net: nn.Module) -> nn.Conv2d | None:
    """What takes a network's images, if it is a convolution, and all their channels."""
    for module in _first(net):
        module = module.synapses[0] if isinstance(module, FusedSum) else module
        if isinstance(module, nn.Conv2d):
            return module
        changes_channels = isinstance(module, Channels | Concatenate)
        others = not module._modules and not isinstance(module, ANY_SHAPE)
        if changes_channels or others or isinstance(module, DECIDING):
            break
    return None


def _first(net: nn.Module) -> Iterator[Any]:
    """The layers that may take a network's input, or what others that take any shape make of it, in order."""
    if not isinstance(net, LayerGraph):
        yield from net.modules()  # in the order in which they were made, mostly that of the forward pass
        return
    taken = {LayerGraph.INPUT}
    for name, layer, sources in net.layers():
        if taken.intersection(sources):
            yield from layer.modules()
            taken |= {name} if isinstance(layer, ANY_SHAPE) else set()


def _shapes(leading: str, constant: tuple[int, ...]) -> str:
    return " or ".join(f"[{leading}, {SAMPLES.get(dims, '...')}]" for dims in constant)


def mean_over_time(x: Tensor) -> Tensor:
    """The mean over the steps of x [T, N, ...], float32 for integers and bool."""
    if checks.is_constant(x):
        return x[0] if x.is_floating_point() else x[0].float()
    if x.is_floating_point():
        return x.mean(0, dtype=torch.float32).to(x.dtype)
    total = torch.zeros(x.shape[1:], dtype=torch.float32, device=x.device)
    for step in x:  # torch's mean would convert all steps at once
        total += step
    return total / len(x)


def input_of(
    net: nn.Module, x: Tensor | Spikes, T: int, precision: str | None, *, looks: bool = True
) -> Tensor | Spikes:  # fmt: skip
    """The input as layers take it, a sequence of T steps; a constant input is repeated without a copy.

    Whether a sequence is of spikes is decided here, for all its steps: on a GPU spikes are bool, all else is real.
    ``looks``: whether for NaN and infinity, which a plan looks for itself.
    """
    sequence = is_sequence(net, x, T)
    checks.values("x", x)
    x = packed(x)
    if isinstance(x, Spikes):
        return x
    if sequence and checks.is_repeated(x):
        x, sequence = x[0] if x.is_floating_point() else x[0].float(), False
    elif sequence and x.device.type == "cpu" and can_be_read(x) and (spikes := pack_if_binary(x)) is not None:
        return spikes
    if not x.is_floating_point():
        return x.bool() if x.device.type == "cuda" and is_binary(x) else x
    if looks and x.device.type == "cpu":  # of a GPU all values are looked at together
        checks.finite("x", x)
    if not sequence:
        step: Any = x.detach() if precision is None else round_input(x.detach(), 0)
        return checks.repeated(step, T)
    return x if precision is None else round_input(x, 1)


def lies_ready(x: Any) -> TypeGuard[Tensor]:
    """Whether it is a plain tensor whose memory has its values as the library takes them."""
    if type(x) is not Tensor or x.dtype != torch.float32 or x.is_nested:
        return False
    return x.is_contiguous() and not x.is_neg()


class PlanInputs:
    """The inputs of a plan, as the library takes them.

    Attributes:
        takes_floats: whether they may be real values, and not only spikes.
        rounds: whether real values are taken in 24 bits.
    """

    def __init__(self, plan: Plan):
        self._shape, self._changes, self._needs_spikes = plan.shape, plan.changes, plan.needs_spikes
        self.rounds = plan.precision is not None and not plan.changes  # whose first operation rounds
        self.takes_floats = plan.real or plan.takes_any

    def given(self, x: Any) -> Given:
        """An input (T, N, ...), or [N, ...] at each step.

        Raises:
            TypeError, ValueError: it has another type, shape or device; the message says which.
        """
        shape = self._shape
        if self._changes:
            if not isinstance(x, Tensor) or not x.is_floating_point():
                raise TypeError(
                    "x must be floating point for a network of sigma-delta neurons, images or frames of values"
                )
        elif type(x) is Spikes and x.scale == 1 and x.shape[2:] == shape and x.T and x.device.type == "cpu":
            return Given(x._words.contiguous(), InputKind.PACKED_SPIKES, x.shape[1], x.T)
        elif self.takes_floats and lies_ready(x) and x.shape[1:] == shape and x.is_cpu and not torch._C._is_tracing():
            return Given(x, InputKind.HELD_VALUES, x.shape[0], None, self.rounds, constant=True)
        sequence = self._is_sequence(x)
        T = len(x) if sequence else None
        constant = isinstance(x, Tensor) and (not sequence or checks.is_repeated(x))
        if isinstance(x, Tensor) and sequence and not self._changes:
            x, sequence = self._sequence(x, constant)
        return self.as_given(x, T, sequence, constant and not (self._changes and sequence))

    def _is_sequence(self, x: Tensor | Spikes) -> bool:
        """Whether it is one, by its shape."""
        if not isinstance(x, Spikes):
            checks.real("x", x)
            checks.values("x", x)
        if x.device.type != "cpu":
            raise ValueError(f"x must be on the CPU, where the engine runs, got {x.device}; move it with .to('cpu')")
        dims, sequence = len(self._shape), len(x.shape) == len(self._shape) + 2
        held = isinstance(x, Tensor) and x.ndim == dims + 1
        if not (sequence or held) or tuple(x.shape[-dims:]) != self._shape:
            shape = ", ".join(map(str, self._shape))
            last = checks.channels_last("x", tuple(x.shape), self._shape[0]) if dims == 3 else ""
            raise ValueError(
                f"x must have the shape [N, {shape}] or [T, N, {shape}], got {list(x.shape)}" + (last and f"; {last}")
            )
        if held and not x.is_floating_point():
            raise TypeError(f"x must be floating point, got {x.dtype}, which is held for all steps: use .float()")
        if sequence and not x.shape[0]:
            raise ValueError("x must have at least one step")
        return sequence

    def _sequence(self, x: Tensor, repeated: bool) -> tuple[Tensor | Spikes, bool]:
        """A sequence as simulate takes it, and whether it still is one: a repeated step is held, as an image is. Values
        that are all 0 and 1 are spikes."""
        if repeated and (self.takes_floats or (is_binary(x[0]) and not self._needs_spikes)):
            return x[0], False
        spikes = pack_if_binary(x)
        return (x, True) if spikes is None else (spikes, True)

    def as_given(self, x: Tensor | Spikes, T: int | None, sequence: bool, constant: bool) -> Given:
        """An input of the right shape. ``T``: its steps, None: of an image; ``sequence``: whether they are all in x;
        ``constant``: whether they are alike."""
        if isinstance(x, Spikes) and x.scale == 1:
            return Given(x._words.contiguous(), InputKind.PACKED_SPIKES, x.shape[1], T, constant=constant)
        if isinstance(x, Spikes) and not self._needs_spikes:
            return Given(x.dense().contiguous(), InputKind.VALUES, x.shape[1], T, scaled=True)
        if isinstance(x, Spikes) or not (self.takes_floats or (T and not sequence)):
            raise TypeError(
                "x must be spikes, as in the sample that the engine was compiled with; got other values. An engine "
                "takes both if it is compiled with a sample of floats or integers"
            )
        rounds = self.rounds and x.is_floating_point()
        if rounds and x.dtype == torch.float64:  # float32 would round it once before
            checks.finite("x", x)
            x = round_input(x.detach(), int(sequence))
        x = x if lies_ready(x) else x.detach().resolve_neg().float().contiguous()
        return Given(
            x,
            InputKind.VALUES if sequence else InputKind.HELD_VALUES,
            x.shape[int(sequence)],
            T,
            rounds,
            constant=constant,
        )
