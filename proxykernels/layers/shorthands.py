"""The layers by the names of their neurons: those of fused.py and sums.py with the fields of IFNeuron or LIFNeuron."""

from torch import Tensor, nn

from ..neurons import IFNeuron, LIFNeuron, LINeuron
from .fused import FusedConv1d, FusedConv2d, FusedLinear, Population
from .sums import FusedSum


class FusedIFConv2d(FusedConv2d):
    """Convolution and IF neurons over all steps: in place of nn.Conv2d and a multi-step IF neuron.

    Equations and their source: :mod:`proxykernels.functional`. Takes nn.Conv2d's arguments and parameters and loads its
    state_dict, and then those of :class:`FusedConv2d` with, in place of ``neuron``:

    Args:
        v_threshold: threshold > 0, a number or one value an output channel.
        v_reset: potential after a spike, below the threshold; None subtracts the threshold (soft reset).

    Shapes: x (T, N, C_in, H, W), Spikes or a tensor; y (T, N, C_out, H_out, W_out); v [N, C_out, H_out, W_out].

    Raises:
        TypeError, ValueError: as :class:`FusedConv2d`.
    """

    def __init__(self, *conv2d, v_threshold: float | Tensor = 1.0, v_reset: float | None = 0.0, **options):
        super().__init__(*conv2d, neuron=IFNeuron(v_threshold, v_reset), **options)


class FusedIFConv1d(FusedConv1d):
    """Convolution along one axis and IF neurons over all steps: nn.Conv1d's arguments and parameters, and then those of
    :class:`FusedConv1d`, with v_threshold and v_reset of :class:`FusedIFConv2d` in place of ``neuron``.

    Shapes: x (T, N, C_in, L), Spikes or a tensor; y (T, N, C_out, L_out); v [N, C_out, L_out].

    Raises:
        TypeError, ValueError: as :class:`FusedConv1d`.
    """

    def __init__(self, *conv1d, v_threshold: float | Tensor = 1.0, v_reset: float | None = 0.0, **options):
        super().__init__(*conv1d, neuron=IFNeuron(v_threshold, v_reset), **options)


class FusedIFLinear(FusedLinear):
    """Fully connected layer of IF neurons over all steps: nn.Linear's arguments and parameters, and then those of
    :class:`FusedLinear`, with v_threshold and v_reset of :class:`FusedIFConv2d` in place of ``neuron``.

    Shapes: x (T, N, in), Spikes or a tensor; y (T, N, out); v [N, out].

    Raises:
        TypeError, ValueError: as :class:`FusedLinear`.
    """

    def __init__(self, *linear, v_threshold: float | Tensor = 1.0, v_reset: float | None = 0.0, **options):
        super().__init__(*linear, neuron=IFNeuron(v_threshold, v_reset), **options)


class FusedIFSum(FusedSum):
    """IF neurons on the sum of several synapses: the joining layer of a residual block. The arguments of
    :class:`FusedSum`, with v_threshold and v_reset of :class:`FusedIFConv2d` in place of ``neuron``.

    Shapes: those of :class:`FusedSum`.

    Raises:
        TypeError, ValueError: as :class:`FusedSum`.
    """

    def __init__(self, *synapses: nn.Module, v_threshold: float | Tensor = 1.0, v_reset: float | None = 0.0, **options):
        super().__init__(*synapses, neuron=IFNeuron(v_threshold, v_reset), **options)


class IF(Population):
    """IF neurons alone, on currents that come from elsewhere, such as :class:`AvgPool2d`.

    Args:
        v_threshold, v_reset: as in :class:`FusedIFConv2d`. v_init: as in :class:`FusedConv2d`.

    Shapes: x (T, N, ...), currents in units of the threshold, or Spikes, which count as 1; y (T, N, ...); v [N, ...].

    Raises:
        TypeError, ValueError: as :func:`proxykernels.if_scan`.
    """

    def __init__(
        self, v_threshold: float | Tensor = 1.0, v_reset: float | None = 0.0, v_init: float | Tensor | None = None
    ):
        super().__init__(IFNeuron(v_threshold, v_reset), v_init)


class FusedLIFConv2d(FusedConv2d):
    """Convolution and leaky IF neurons over all steps: h = v_rest + decay (v - v_rest) + I.

    Equations: :class:`proxykernels.neurons.LIFNeuron`, which also takes the time constants of other libraries. Takes
    nn.Conv2d's arguments and parameters and loads its state_dict, and then those of :class:`FusedConv2d` with, in the
    place of ``neuron``:

    Args:
        decay: share of the potential that is left after a step, from 0 to 1; a number or one value an output channel.
        v_threshold, v_reset: as in :class:`FusedIFConv2d`.
        v_rest: the potential that neurons decay to, and start from; below the threshold.

    Shapes: those of :class:`FusedIFConv2d`.

    Raises:
        TypeError, ValueError: as :class:`FusedConv2d`.
    """

    def __init__(
        self,
        *conv2d,
        decay: float | Tensor = 0.5,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_rest: float = 0.0,
        **options,
    ):
        super().__init__(*conv2d, neuron=LIFNeuron(v_threshold, v_reset, decay, v_rest), **options)


class FusedLIFConv1d(FusedConv1d):
    """Convolution along one axis and leaky IF neurons: nn.Conv1d's arguments and parameters, and then those of
    :class:`FusedConv1d`, with decay, v_threshold, v_reset, v_rest of :class:`FusedLIFConv2d` in place of ``neuron``.

    Shapes: those of :class:`FusedIFConv1d`.

    Raises:
        TypeError, ValueError: as :class:`FusedConv1d`.
    """

    def __init__(
        self,
        *conv1d,
        decay: float | Tensor = 0.5,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_rest: float = 0.0,
        **options,
    ):
        super().__init__(*conv1d, neuron=LIFNeuron(v_threshold, v_reset, decay, v_rest), **options)


class FusedLIFLinear(FusedLinear):
    """Fully connected layer of leaky IF neurons: nn.Linear's arguments and parameters, and then those of
    :class:`FusedLinear`, with decay, v_threshold, v_reset, v_rest of :class:`FusedLIFConv2d` in place of ``neuron``.

    Shapes: those of :class:`FusedIFLinear`.

    Raises:
        TypeError, ValueError: as :class:`FusedLinear`.
    """

    def __init__(
        self,
        *linear,
        decay: float | Tensor = 0.5,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_rest: float = 0.0,
        **options,
    ):
        super().__init__(*linear, neuron=LIFNeuron(v_threshold, v_reset, decay, v_rest), **options)


class FusedLIFSum(FusedSum):
    """Leaky IF neurons on the sum of several synapses: the arguments of :class:`FusedSum`, with decay, v_threshold,
    v_reset, v_rest of :class:`FusedLIFConv2d` in place of ``neuron``.

    Shapes: those of :class:`FusedSum`.

    Raises:
        TypeError, ValueError: as :class:`FusedSum`.
    """

    def __init__(
        self,
        *synapses: nn.Module,
        decay: float | Tensor = 0.5,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_rest: float = 0.0,
        **options,
    ):
        super().__init__(*synapses, neuron=LIFNeuron(v_threshold, v_reset, decay, v_rest), **options)


class LIF(Population):
    """Leaky IF neurons alone, on currents that come from elsewhere, such as :class:`AvgPool2d`.

    Args:
        decay, v_threshold, v_reset, v_rest: as in :class:`FusedLIFConv2d`. v_init: as in :class:`FusedConv2d`.

    Shapes: those of :class:`IF`.

    Raises:
        TypeError, ValueError: as :func:`proxykernels.if_scan`.
    """

    def __init__(
        self,
        decay: float | Tensor = 0.5,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_rest: float = 0.0,
        v_init: float | Tensor | None = None,
    ):
        super().__init__(LIFNeuron(v_threshold, v_reset, decay, v_rest), v_init)


class FusedLILinear(FusedLinear):
    """Fully connected readout of leaky integrators, which never fire: v = v_rest + decay (v - v_rest) + I. For the last
    layer of a network: ``simulate(...).potentials`` has them after every step.

    nn.Linear's arguments and parameters, and then those of :class:`FusedLinear` with, in place of ``neuron``:

    Args:
        decay: share of the potential that is left after a step, from 0 to 1 (all of it: a sum of currents); a number or
            one value an output.
        v_rest: the potential that they decay to, and start from.

    Shapes: x (T, N, in), Spikes or a tensor; y [T, N, out], potentials in float32; v [N, out].

    Raises:
        TypeError, ValueError: as :class:`FusedLinear`.
    """

    def __init__(self, *linear, decay: float | Tensor = 1.0, v_rest: float = 0.0, **options):
        super().__init__(*linear, neuron=LINeuron(decay, v_rest), **options)


class LI(Population):
    """Leaky integrators alone, on currents that come from elsewhere; for the last layer of a network.

    Args:
        decay, v_rest: as in :class:`FusedLILinear`. v_init: as in :class:`FusedConv2d`.

    Shapes: x (T, N, ...), currents, or Spikes, which count as 1; y [T, N, ...], potentials in float32; v [N, ...].

    Raises:
        TypeError, ValueError: as :func:`proxykernels.if_scan`.
    """

    def __init__(self, decay: float | Tensor = 1.0, v_rest: float = 0.0, v_init: float | Tensor | None = None):
        super().__init__(LINeuron(decay, v_rest), v_init)
