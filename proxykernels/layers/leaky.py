"""Layers of leaky neurons: shorthands for the layers of fused.py and sums.py with a LIFNeuron or LINeuron."""

from typing import Literal

from torch import Tensor, nn

from ..checks.keywords import taken_by_position
from ..neurons import LIFNeuron, LINeuron
from .fused import FusedConv1d, FusedConv2d, FusedConvolution, FusedLinear, Population
from .other_names import explain_other_names
from .sums import FusedSum


class _Convolution(FusedConvolution):
    """The arguments of both convolutions."""

    @explain_other_names
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros"] = "zeros",
        device=None,
        dtype=None,
        *,
        decay: float | Tensor = 0.5,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_rest: float = 0.0,
        v_init: float | Tensor | None = None,
        batch_norm: bool = False,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device,
            dtype, neuron=LIFNeuron(v_threshold=v_threshold, v_reset=v_reset, decay=decay, v_rest=v_rest),
            v_init=v_init, batch_norm=batch_norm,
        )  # fmt: skip


class FusedLIFConv2d(_Convolution, FusedConv2d):
    """Convolution followed by leaky IF neurons, over all T steps: h = v_rest + decay (v - v_rest) + I.

    Takes the arguments of nn.Conv2d, has the same parameters, and loads the same state_dict. Equations:
    :class:`proxykernels.neurons.LIFNeuron`. The current I is not divided by a time constant. For the neurons of
    libraries that do so, such as SpikingJelly's LIFNode, use
    ``FusedConv2d(..., neuron=proxykernels.neurons.LIFNeuron.from_tau(tau))``.

    Args:
        decay: factor of the potential per step, from 0 to 1; a number or one value per output channel.
        v_threshold: threshold > 0, a number or one value per output channel.
        v_reset: potential after a spike, below the threshold; None subtracts the threshold (soft reset).
        v_rest: resting potential, which is also the initial potential; below the threshold.
        v_init, batch_norm: as in :class:`FusedConv2d`; the others as in nn.Conv2d.

    Shapes: those of :class:`FusedIFConv2d`.

    Raises:
        TypeError, ValueError: as :class:`FusedConv2d`.
    """


class FusedLIFConv1d(_Convolution, FusedConv1d):
    """Convolution along one axis and leaky IF neurons, with nn.Conv1d's arguments and parameters.

    Args:
        decay, v_threshold, v_reset, v_rest: as in :class:`FusedLIFConv2d`. v_init, batch_norm: as in
            :class:`FusedConv1d`.

    Shapes: those of :class:`FusedIFConv1d`.

    Raises:
        TypeError, ValueError: as :class:`FusedConv1d`.
    """


class FusedLIFLinear(FusedLinear):
    """Fully connected layer of leaky IF neurons, with nn.Linear's arguments and parameters.

    Args:
        decay, v_threshold, v_reset, v_rest: as in :class:`FusedLIFConv2d`. v_init, batch_norm: as in
            :class:`FusedLinear`.

    Shapes: those of :class:`FusedIFLinear`.

    Raises:
        TypeError, ValueError: as :class:`FusedLinear`.
    """

    @explain_other_names
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device=None,
        dtype=None,
        *,
        decay: float | Tensor = 0.5,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_rest: float = 0.0,
        v_init: float | Tensor | None = None,
        batch_norm: bool = False,
    ):
        neuron = LIFNeuron(v_threshold=v_threshold, v_reset=v_reset, decay=decay, v_rest=v_rest)
        super().__init__(
            in_features, out_features, bias, device, dtype, neuron=neuron, v_init=v_init, batch_norm=batch_norm
        )


class FusedLIFSum(FusedSum):
    """Leaky IF neurons on the sum of several synapses.

    Args:
        synapses: as in :class:`FusedSum`. decay, v_threshold, v_reset, v_rest: as in :class:`FusedLIFConv2d`.
        v_init: as in :class:`FusedConv2d`.

    Shapes: those of :class:`FusedSum`.

    Raises:
        TypeError, ValueError: as :class:`FusedSum`.
    """

    @explain_other_names
    def __init__(
        self,
        *synapses: nn.Module,
        decay: float | Tensor = 0.5,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_rest: float = 0.0,
        v_init: float | Tensor | None = None,
    ):
        super().__init__(
            *synapses,
            neuron=LIFNeuron(v_threshold=v_threshold, v_reset=v_reset, decay=decay, v_rest=v_rest),
            v_init=v_init,
        )


class LIF(Population):
    """Leaky IF neurons without weights. The input are their currents, for example the output of :class:`AvgPool2d`.

    Args:
        decay, v_threshold, v_reset, v_rest: as in :class:`FusedLIFConv2d`. v_init: as in :class:`FusedConv2d`.

    Shapes: those of :class:`IF`.

    Raises:
        TypeError, ValueError: as :func:`proxykernels.if_scan`.
    """

    @taken_by_position
    @explain_other_names
    def __init__(
        self,
        *,
        decay: float | Tensor = 0.5,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_rest: float = 0.0,
        v_init: float | Tensor | None = None,
    ):
        super().__init__(LIFNeuron(v_threshold=v_threshold, v_reset=v_reset, decay=decay, v_rest=v_rest), v_init=v_init)


class FusedLILinear(FusedLinear):
    """Fully connected readout of leaky integrators, which never fire: v = v_rest + decay (v - v_rest) + I. For the last
    layer of a network: ``simulate(...).potentials`` has them after every step.

    Args:
        decay: share of the potential that is left after a step, from 0 to 1 (all of it: a sum of currents); a number or
            one value an output.
        v_rest: the potential that they decay to, and start from.
        v_init, batch_norm: as in :class:`FusedLinear`; the others as in nn.Linear.

    Shapes: x (T, N, in), Spikes or a tensor; y [T, N, out], potentials in float32; v [N, out].

    Raises:
        TypeError, ValueError: as :class:`FusedLinear`.
    """

    @explain_other_names
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device=None,
        dtype=None,
        *,
        decay: float | Tensor = 1.0,
        v_rest: float = 0.0,
        v_init: float | Tensor | None = None,
        batch_norm: bool = False,
    ):
        neuron = LINeuron(decay=decay, v_rest=v_rest)
        super().__init__(
            in_features, out_features, bias, device, dtype, neuron=neuron, v_init=v_init, batch_norm=batch_norm
        )


class LI(Population):
    """Leaky integrators without weights. The input are their currents. For the last layer of a network.

    Args:
        decay, v_rest: as in :class:`FusedLILinear`. v_init: as in :class:`FusedConv2d`.

    Shapes: x (T, N, ...), currents, or Spikes, which count as 1; y [T, N, ...], potentials in float32; v [N, ...].

    Raises:
        TypeError, ValueError: as :func:`proxykernels.if_scan`.
    """

    @taken_by_position
    @explain_other_names
    def __init__(self, *, decay: float | Tensor = 1.0, v_rest: float = 0.0, v_init: float | Tensor | None = None):
        super().__init__(LINeuron(decay=decay, v_rest=v_rest), v_init=v_init)
