"""Layers of integrate-and-fire neurons: shorthands for the layers of fused.py and sums.py with an IFNeuron."""

from typing import Literal

from torch import Tensor, nn

from ..neurons import IFNeuron
from .fused import FusedConv1d, FusedConv2d, FusedConvolution, FusedLinear, Population
from .keywords import explain_other_names, taken_by_position
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
        v_threshold: threshold > 0, a number or one value per output channel [C] (default 1).
        v_reset: potential after a spike, below the threshold (default 0, a hard reset); None subtracts the threshold
            instead (soft reset).
        v_init: initial potential of a call without a state, a number or one value per output channel [C] (default None:
            at rest).
        batch_norm: adds ``bn``, an nn.BatchNorm2d on the currents, folded into the weights in evaluation (default
            False).

    Shapes: x (T, N, C_in, H, W), Spikes or a tensor; y (T, N, C_out, H_out, W_out); v [N, C_out, H_out, W_out].

    Raises:
        TypeError, ValueError: an argument, or x, has the wrong type, shape, device or value; the message names it.

    Example:
        >>> layer = pk.FusedIFConv2d(1, 8, 3, padding=1, v_reset=None).eval()
        >>> layer(torch.rand(16, 2, 1, 28, 28)).shape
        torch.Size([16, 2, 8, 28, 28])
    """


class FusedIFConv1d(_Convolution, FusedConv1d):
    """Convolution along one axis followed by IF neurons, over all T steps.

    Takes the arguments of nn.Conv1d, has the same parameters, and loads the same state_dict. Equations and their
    source: :mod:`proxykernels.functional`.

    Args:
        v_threshold: threshold > 0, a number or one value per output channel [C] (default 1).
        v_reset: potential after a spike, below the threshold (default 0, a hard reset); None subtracts the threshold
            instead (soft reset).
        v_init: initial potential of a call without a state, a number or one value per output channel [C] (default None:
            at rest).
        batch_norm: adds ``bn``, an nn.BatchNorm1d on the currents, folded into the weights in evaluation (default
            False).

    Shapes: x (T, N, C_in, L), Spikes or a tensor; y (T, N, C_out, L_out); v [N, C_out, L_out].

    Raises:
        TypeError, ValueError: an argument, or x, has the wrong type, shape, device or value; the message names it.

    Example:
        >>> layer = pk.FusedIFConv1d(2, 8, 5, padding=2).eval()
        >>> layer(torch.rand(16, 4, 2, 100)).shape
        torch.Size([16, 4, 8, 100])
    """


class FusedIFLinear(FusedLinear):
    """Fully connected layer followed by IF neurons, over all T steps.

    Takes the arguments of nn.Linear, has the same parameters, and loads the same state_dict. Equations and their
    source: :mod:`proxykernels.functional`.

    Args:
        v_threshold: threshold > 0, a number or one value per output (default 1).
        v_reset: potential after a spike, below the threshold (default 0, a hard reset); None subtracts the threshold
            instead (soft reset).
        v_init: initial potential of a call without a state, a number or one value per output (default None: at rest).
        batch_norm: adds ``bn``, an nn.BatchNorm1d on the currents, folded into the weights in evaluation (default
            False).

    Shapes: x (T, N, in), Spikes or a tensor; y (T, N, out); v [N, out].

    Raises:
        TypeError, ValueError: an argument, or x, has the wrong type, shape, device or value; the message names it.

    Example:
        >>> layer = pk.FusedIFLinear(784, 10).eval()
        >>> layer(torch.rand(16, 2, 784)).shape
        torch.Size([16, 2, 10])
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
    """IF neurons on the sum of several inputs, as at the end of a residual block. Equations:
    :mod:`proxykernels.functional`.

    Args:
        synapses: modules of torch, one for each input: nn.Conv2d, nn.Conv1d, nn.Linear or nn.Identity.
        v_threshold: threshold > 0, a number or one value per channel [C] (default 1).
        v_reset: potential after a spike, below the threshold (default 0, a hard reset); None subtracts the threshold
            instead (soft reset).
        v_init: initial potential of a call without a state, a number or one value per channel [C] (default None: at
            rest).

    Shapes: x is a tuple of one input (T, N, ...) for each synapse, Spikes or tensors; all synapses give currents of one
    shape [N, ...] a step, which y (T, N, ...) and v [N, ...] have too.

    Raises:
        TypeError, ValueError: an argument, or x, has the wrong type, shape, device or value; the message names it.

    Example:
        >>> block = pk.FusedIFSum(torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.Identity()).eval()
        >>> x = torch.rand(16, 2, 8, 14, 14)
        >>> block((x, x)).shape
        torch.Size([16, 2, 8, 14, 14])
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
        v_threshold: threshold > 0, a number or one value per channel [C] (default 1).
        v_reset: potential after a spike, below the threshold (default 0, a hard reset); None subtracts the threshold
            instead (soft reset).
        v_init: initial potential of a call without a state, a number or one value per channel [C] (default None: at
            rest).

    Shapes: x (T, N, ...), currents in units of the threshold, or Spikes (a spike is a current of 1); y (T, N, ...);
    v [N, ...].

    Raises:
        TypeError, ValueError: an argument, or x, has the wrong type, shape, device or value; the message names it.

    Example:
        >>> neurons = pk.IF(v_threshold=1.0, v_reset=None)
        >>> neurons(torch.full((4, 1, 1), 0.5)).flatten()  # a spike at every second step
        tensor([0., 1., 0., 1.])
    """

    @taken_by_position
    @explain_other_names
    def __init__(
        self, *, v_threshold: float | Tensor = 1.0, v_reset: float | None = 0.0, v_init: float | Tensor | None = None
    ):
        super().__init__(IFNeuron(v_threshold=v_threshold, v_reset=v_reset), v_init=v_init)
