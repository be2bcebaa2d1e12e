"""Layers of leaky neurons: shorthands for the layers of fused.py and sums.py with a LIFNeuron or LINeuron."""

from typing import Literal

from torch import Tensor, nn

from ..neurons import LIFNeuron, LINeuron
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
        decay: factor of the potential per step, from 0 to 1, a number or one value per output channel [C] (default 0.5;
            1 is no leak).
        v_threshold: threshold > 0, a number or one value per output channel [C] (default 1).
        v_reset: potential after a spike, below the threshold (default 0, a hard reset); None subtracts the threshold
            instead (soft reset).
        v_rest: resting potential, below the threshold, which is also the initial one (default 0).
        v_init: initial potential of a call without a state, a number or one value per output channel [C] (default None:
            at rest).
        batch_norm: adds ``bn``, an nn.BatchNorm2d on the currents, folded into the weights in evaluation (default
            False).

    Shapes: x (T, N, C_in, H, W), Spikes or a tensor; y (T, N, C_out, H_out, W_out); v [N, C_out, H_out, W_out].

    Raises:
        TypeError, ValueError: an argument, or x, has the wrong type, shape, device or value; the message names it.

    Example:
        >>> layer = pk.FusedLIFConv2d(1, 8, 3, decay=0.9).eval()
        >>> layer(torch.rand(16, 2, 1, 28, 28)).shape
        torch.Size([16, 2, 8, 26, 26])
    """


class FusedLIFConv1d(_Convolution, FusedConv1d):
    """Convolution along one axis followed by leaky IF neurons: h = v_rest + decay (v - v_rest) + I.

    Takes the arguments of nn.Conv1d, has the same parameters, and loads the same state_dict. The current I is not
    divided by a time constant.

    Args:
        decay: factor of the potential per step, from 0 to 1, a number or one value per output channel [C] (default 0.5;
            1 is no leak).
        v_threshold: threshold > 0, a number or one value per output channel [C] (default 1).
        v_reset: potential after a spike, below the threshold (default 0, a hard reset); None subtracts the threshold
            instead (soft reset).
        v_rest: resting potential, below the threshold, which is also the initial one (default 0).
        v_init: initial potential of a call without a state, a number or one value per output channel [C] (default None:
            at rest).
        batch_norm: adds ``bn``, an nn.BatchNorm1d on the currents, folded into the weights in evaluation (default
            False).

    Shapes: x (T, N, C_in, L), Spikes or a tensor; y (T, N, C_out, L_out); v [N, C_out, L_out].

    Raises:
        TypeError, ValueError: an argument, or x, has the wrong type, shape, device or value; the message names it.

    Example:
        >>> layer = pk.FusedLIFConv1d(2, 8, 5, padding=2, decay=0.9).eval()
        >>> layer(torch.rand(16, 4, 2, 100)).shape
        torch.Size([16, 4, 8, 100])
    """


class FusedLIFLinear(FusedLinear):
    """Fully connected layer followed by leaky IF neurons: h = v_rest + decay (v - v_rest) + I.

    Takes the arguments of nn.Linear, has the same parameters, and loads the same state_dict. The current I is not
    divided by a time constant.

    Args:
        decay: factor of the potential per step, from 0 to 1, a number or one value per output (default 0.5; 1 is no
            leak).
        v_threshold: threshold > 0, a number or one value per output (default 1).
        v_reset: potential after a spike, below the threshold (default 0, a hard reset); None subtracts the threshold
            instead (soft reset).
        v_rest: resting potential, below the threshold, which is also the initial one (default 0).
        v_init: initial potential of a call without a state, a number or one value per output (default None: at rest).
        batch_norm: adds ``bn``, an nn.BatchNorm1d on the currents, folded into the weights in evaluation (default
            False).

    Shapes: x (T, N, in), Spikes or a tensor; y (T, N, out); v [N, out].

    Raises:
        TypeError, ValueError: an argument, or x, has the wrong type, shape, device or value; the message names it.

    Example:
        >>> layer = pk.FusedLIFLinear(784, 10, decay=0.9).eval()
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
    """Leaky IF neurons on the sum of several inputs: h = v_rest + decay (v - v_rest) + I.

    Args:
        synapses: modules of torch, one for each input: nn.Conv2d, nn.Conv1d, nn.Linear or nn.Identity.
        decay: factor of the potential per step, from 0 to 1, a number or one value per channel [C] (default 0.5; 1 is
            no leak).
        v_threshold: threshold > 0, a number or one value per channel [C] (default 1).
        v_reset: potential after a spike, below the threshold (default 0, a hard reset); None subtracts the threshold
            instead (soft reset).
        v_rest: resting potential, below the threshold, which is also the initial one (default 0).
        v_init: initial potential of a call without a state, a number or one value per channel [C] (default None: at
            rest).

    Shapes: x is a tuple of one input (T, N, ...) for each synapse, Spikes or tensors; all synapses give currents of one
    shape [N, ...] a step, which y (T, N, ...) and v [N, ...] have too.

    Raises:
        TypeError, ValueError: an argument, or x, has the wrong type, shape, device or value; the message names it.

    Example:
        >>> block = pk.FusedLIFSum(torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.Identity(), decay=0.9).eval()
        >>> x = torch.rand(16, 2, 8, 14, 14)
        >>> block((x, x)).shape
        torch.Size([16, 2, 8, 14, 14])
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
    """Leaky IF neurons without weights: h = v_rest + decay (v - v_rest) + I.

    The input are their currents I, for example the output of :class:`AvgPool2d`.

    Args:
        decay: factor of the potential per step, from 0 to 1, a number or one value per channel [C] (default 0.5; 1 is
            no leak).
        v_threshold: threshold > 0, a number or one value per channel [C] (default 1).
        v_reset: potential after a spike, below the threshold (default 0, a hard reset); None subtracts the threshold
            instead (soft reset).
        v_rest: resting potential, below the threshold, which is also the initial one (default 0).
        v_init: initial potential of a call without a state, a number or one value per channel [C] (default None: at
            rest).

    Shapes: x (T, N, ...), currents in units of the threshold, or Spikes (a spike is a current of 1); y (T, N, ...);
    v [N, ...].

    Raises:
        TypeError, ValueError: an argument, or x, has the wrong type, shape, device or value; the message names it.

    Example:
        >>> neurons = pk.LIF(decay=0.5, v_threshold=0.75)
        >>> neurons(torch.full((4, 1, 1), 0.5)).flatten()  # 0.5, then 0.25 + 0.5
        tensor([0., 1., 0., 1.])
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
    """Fully connected readout of leaky integrators, which never fire: v = v_rest + decay (v - v_rest) + I.

    For the last layer of a network: ``simulate(...).potentials`` has them after every step. Takes the arguments of
    nn.Linear, has the same parameters, and loads the same state_dict.

    Args:
        decay: share of the potential that is left after a step, from 0 to 1, a number or one value per output (default
            1: a sum of currents).
        v_rest: the potential that they decay to, and start from (default 0).
        v_init: initial potential of a call without a state, a number or one value per output (default None: at rest).
        batch_norm: adds ``bn``, an nn.BatchNorm1d on the currents, folded into the weights in evaluation (default
            False).

    Shapes: x (T, N, in), Spikes or a tensor; y [T, N, out], potentials in float32; v [N, out].

    Raises:
        TypeError, ValueError: an argument, or x, has the wrong type, shape, device or value; the message names it.

    Example:
        >>> net = torch.nn.Sequential(pk.FusedIFLinear(784, 64), pk.FusedLILinear(64, 10))
        >>> pk.simulate(net, torch.rand(2, 784), T=16).potentials.shape
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
    """Leaky integrators without weights, which never fire: v = v_rest + decay (v - v_rest) + I.

    The input are their currents I. For the last layer of a network.

    Args:
        decay: share of the potential that is left after a step, from 0 to 1, a number or one value per channel [C]
            (default 1: a sum of currents).
        v_rest: the potential that they decay to, and start from (default 0).
        v_init: initial potential of a call without a state, a number or one value per channel [C] (default None: at
            rest).

    Shapes: x (T, N, ...), currents, or Spikes, which count as 1; y [T, N, ...], potentials in float32; v [N, ...].

    Raises:
        TypeError, ValueError: an argument, or x, has the wrong type, shape, device or value; the message names it.

    Example:
        >>> pk.LI(decay=0.5)(torch.ones(3, 1, 1)).flatten()
        tensor([1.0000, 1.5000, 1.7500])
    """

    @taken_by_position
    @explain_other_names
    def __init__(self, *, decay: float | Tensor = 1.0, v_rest: float = 0.0, v_init: float | Tensor | None = None):
        super().__init__(LINeuron(decay=decay, v_rest=v_rest), v_init=v_init)
