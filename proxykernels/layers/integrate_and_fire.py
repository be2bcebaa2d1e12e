"""Layers of integrate-and-fire neurons: shorthands for the layers of fused.py and sums.py with an IFNeuron."""

from typing import Literal

from torch import Tensor, nn

from ..checks.keywords import taken_by_position
from ..neurons import IFNeuron
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
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_init: float | Tensor | None = None,
        batch_norm: bool = False,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device,
            dtype, neuron=IFNeuron(v_threshold=v_threshold, v_reset=v_reset), v_init=v_init, batch_norm=batch_norm,
        )  # fmt: skip


class FusedIFConv2d(_Convolution, FusedConv2d):
    """Convolution followed by IF neurons, over all T steps. Replaces nn.Conv2d and a multi-step IF neuron module.

    Takes the arguments of nn.Conv2d, has the same parameters, and loads the same state_dict. Equations and their
    source: :mod:`proxykernels.functional`.

    Args:
        v_threshold: threshold > 0, a number or one value per output channel.
        v_reset: potential after a spike, below the threshold; None subtracts the threshold (soft reset).
        v_init, batch_norm: as in :class:`FusedConv2d`; the others as in nn.Conv2d.

    Shapes: x (T, N, C_in, H, W), Spikes or a tensor; y (T, N, C_out, H_out, W_out); v [N, C_out, H_out, W_out].

    Raises:
        TypeError, ValueError: as :class:`FusedConv2d`.
    """


class FusedIFConv1d(_Convolution, FusedConv1d):
    """1-d convolution followed by IF neurons, over all T steps. Takes the arguments of nn.Conv1d.

    Args:
        v_threshold, v_reset: as in :class:`FusedIFConv2d`. v_init, batch_norm: as in :class:`FusedConv1d`.

    Shapes: x (T, N, C_in, L), Spikes or a tensor; y (T, N, C_out, L_out); v [N, C_out, L_out].

    Raises:
        TypeError, ValueError: as :class:`FusedConv1d`.
    """


class FusedIFLinear(FusedLinear):
    """Fully connected layer followed by IF neurons, over all T steps. Takes the arguments of nn.Linear.

    Args:
        v_threshold, v_reset: as in :class:`FusedIFConv2d`. v_init, batch_norm: as in :class:`FusedLinear`.

    Shapes: x (T, N, in), Spikes or a tensor; y (T, N, out); v [N, out].

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
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_init: float | Tensor | None = None,
        batch_norm: bool = False,
    ):
        neuron = IFNeuron(v_threshold=v_threshold, v_reset=v_reset)
        super().__init__(
            in_features, out_features, bias, device, dtype, neuron=neuron, v_init=v_init, batch_norm=batch_norm
        )


class FusedIFSum(FusedSum):
    """IF neurons on the sum of several inputs, as at the end of a residual block.

    Args:
        synapses: as in :class:`FusedSum`. v_threshold, v_reset: as in :class:`FusedIFConv2d`. v_init: as in
            :class:`FusedConv2d`.

    Shapes: those of :class:`FusedSum`.

    Raises:
        TypeError, ValueError: as :class:`FusedSum`.
    """

    @explain_other_names
    def __init__(
        self,
        *synapses: nn.Module,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_init: float | Tensor | None = None,
    ):
        super().__init__(*synapses, neuron=IFNeuron(v_threshold=v_threshold, v_reset=v_reset), v_init=v_init)


class IF(Population):
    """IF neurons without weights. The input are their currents, for example the output of :class:`AvgPool2d`.

    Args:
        v_threshold, v_reset: as in :class:`FusedIFConv2d`. v_init: as in :class:`FusedConv2d`.

    Shapes: x (T, N, ...), currents in units of the threshold, or Spikes (a spike is a current of 1);
    y (T, N, ...); v [N, ...].

    Raises:
        TypeError, ValueError: as :func:`proxykernels.if_scan`.
    """

    @taken_by_position
    @explain_other_names
    def __init__(
        self, *, v_threshold: float | Tensor = 1.0, v_reset: float | None = 0.0, v_init: float | Tensor | None = None
    ):
        super().__init__(IFNeuron(v_threshold=v_threshold, v_reset=v_reset), v_init=v_init)
