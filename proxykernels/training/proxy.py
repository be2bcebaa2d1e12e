"""Training by proxy: the backward pass goes through a network of rates (ReLU, or those of leaky neurons) with the same
weights.

"Spiking neural networks trained via proxy" (Kheradpisheh, Mirsadeghi and Masquelier, IEEE Access 10, 2022,
arXiv:2109.13208).
"""

import copy
import math
from collections.abc import Mapping
from numbers import Real
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .. import checks
from ..kernels import value_checks_cache
from ..kernels.weight_layouts import is_finite
from ..layers import Neurons, RecurrentGraph, SpikingLayer
from ..layers.base import BatchStatistics, chunked_pass
from ..layers.parametrized import shallow_copy, with_plain_weights
from ..neurons import IFNeuron
from ..running.inputs import is_sequence, mean_over_time
from ..running.prepared_network import replace_neurons
from ..running.result import LayerResult
from ..running.simulate import run, samples
from ..running.stateful_layer import HeldDropout, Masks, read_counters
from ..spikes import Spikes
from .twin import PASSES, NotBelowZero, OutputSwap, Twin, Watch, check_twin

READOUTS = ("count", "rate", "potential")
STATISTICS = ("steps", "means")
PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class ProxyNet(nn.Module):
    """Training by proxy: a spiking network and a ReLU network, its twin, that shares its weights.

    Both have the same architecture; their forward passes are independent. In training the output is that of the spiking
    network. The gradient of the loss with respect to this output is passed to the output of the twin, and autograd
    takes it back to the shared weights. This needs no backpropagation through time and no surrogate gradient.

    Source: Kheradpisheh, Mirsadeghi and Masquelier, "Spiking neural networks trained via proxy", IEEE Access 10, 2022,
    arXiv:2109.13208. ``clip``, ``readout``, ``precision`` and ``statistics_of`` are additions. The defaults are those
    that learn best (docs/recipes.md); ``ProxyNet(net, T, **ProxyNet.PAPER)`` has the paper's.

    Args:
        net: an nn.Sequential or any nn.Module of this package's layers. In the twin, IF neurons become ReLUs, and leaky
            neurons their firing rate as a function of the current, from 0 to 1 (training/fi_curve.py). The last layer
            of ``net.modules()`` becomes linear.
        T: steps of the spiking network.
        clip: clip the twin's ReLUs at ``v_threshold``, the default; the gradient above is zero. An IF neuron fires at
            most once per step. Without the clip, as in the paper, the loss may demand higher rates, and training may
            diverge: all rates go to 1. At the output, the gradient of counts and rates does not lower values below
            zero. No count is below zero, so nothing would raise them again. Activations of leaky neurons are always
            clipped, their output only with ``clip``.
        readout: the output of the spiking network. "count": spikes in T steps, as in the paper. "rate": count / T.
            "potential": the potential after T steps of a last layer that never fires. It is the sum of the currents, in
            units of the input, except for a leak; divided by T it corresponds to the twin's output.
        precision: None, "int16" or "int8": the spiking network is simulated with rounded weights, as by
            :func:`simulate`, in training too. The learnt weights are not rounded. While batch normalisation learns its
            statistics, nothing is rounded.
        statistics_of: what batch normalisation of the spiking network takes its statistics of in training. "means", the
            default: each current's mean over the steps, which corresponds to the twin's. "steps": the currents of all
            N * T steps, as in the paper; they vary more than the twin's by the spikes' timing, and so are scaled down.

    Shapes: ``model(x)``, ``model.snn(x)``: the readout, float32 [N, classes]; ``model.ann(x)``: the twin's output,
    [N, classes]; x [N, C, H, W] or [N, features], an input that is constant for T steps, or a sequence of T steps
    [T, N, C, H, W] or [T, N, features], a tensor or Spikes (:func:`time_first` turns frames [N, T, ...] into a
    sequence). The input of the twin is the mean over the steps, since the first layer's mean current is the current of
    the mean input.

    Batch normalisation shares its weights. The two networks have separate running statistics: the spiking network's are
    in the layer's ``bn``, and the twin's in ``model.statistics``, which begin as copies of those in ``bn``.
    ``model.freeze_batch_norm()`` freezes both. A :class:`Dropout` drops the same units in both networks.

    In training, one warning names a layer that gives no spike and cannot learn, or whose twin diverges for want of the
    clip.

    Attributes:
        PAPER: the arguments that the paper has: no clip, spike counts, statistics of all steps.
        rates: layer name -> firing rate in the last forward pass of the spiking network.
        ann_rates: layer name -> mean activation, divided by the threshold, in the last forward pass of the twin. The
            values are differentiable, for use in a regularisation term.
        ann_output: output [N, classes] of the last forward pass of the twin, detached; None before the first.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value, or a layer neurons whose twin is not known; the
            message names it.
        FloatingPointError: in training, the twin's output or its gradient has NaN or infinite values, which spikes do
            not show. The check waits for a GPU once per forward and once per backward pass.
    """

    trains_its_net: ClassVar[bool] = True  # so that simulate and compile refuse it by what to pass
    PAPER: ClassVar[Mapping[str, Any]] = MappingProxyType({"clip": False, "readout": "count", "statistics_of": "steps"})

    def __init__(
        self,
        net: nn.Module,
        T: int,
        *,
        clip: bool = True,
        readout: str = "count",
        precision: str | None = None,
        statistics_of: str = "means",
    ):
        super().__init__()
        if readout not in READOUTS:
            raise ValueError(f"readout must be one of {', '.join(READOUTS)}, got {readout!r}")
        if statistics_of not in STATISTICS:
            raise ValueError(f"statistics_of must be one of {', '.join(STATISTICS)}, got {statistics_of!r}")
        checks.precision(precision)
        self.net, self.T, self.clip, self.readout, self.precision = net, checks.steps(T), clip, readout, precision
        self.statistics_of, self.batch_norm_frozen = statistics_of, False
        self._rates: dict[str, float] | Tallies = {}  # or what was not read from a GPU yet
        self.ann_rates: dict[str, Tensor] = {}
        self.ann_output: Tensor | None = None
        self._watch = Watch()
        self._unseen: list[tuple[Tallies, dict[str, Tensor]]] = []  # passes on a GPU not yet watched
        self._last_gradient: list[Tensor] = []  # of the last pass on a GPU, at the output
        names: list[str] = []
        fires = True
        self.statistics = nn.ModuleDict()

        def collect(name: str, layer: SpikingLayer) -> SpikingLayer:
            nonlocal fires
            if isinstance(layer, RecurrentGraph):
                raise TypeError(
                    f"layer {name} is a RecurrentGraph, in which spikes come back, and a ReLU network has no steps for "
                    "that: train the network itself with a surrogate derivative, proxykernels.use_surrogate(net, "
                    "proxykernels.ATan())"
                )
            if isinstance(layer, Neurons):
                names.append(name)
                fires = layer.neuron.fires
            if (bn := getattr(layer, "bn", None)) is not None:
                if statistics_of == "means" and type(bn) not in PLAIN_NORMS:
                    raise ValueError(
                        f"statistics_of='means' needs nn.BatchNorm1d and nn.BatchNorm2d, got {type(bn).__name__} in "
                        f"layer {name}; take 'steps'"
                    )
                self.statistics[_key(name)] = _statistics_like(bn)
            return layer

        replace_neurons(net, collect)
        checks.neurons("net", names)
        _check_neurons(net)
        self._last = names[-1]
        replace_neurons(net, self._check_twin)
        if not fires and readout != "potential":
            raise ValueError(
                f"layer {self._last} gives potentials and no spikes: readout must be 'potential', got {readout!r}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: everything except the autograd graph of the last pass."""
        ann_rates = {name: rate.detach() for name, rate in self.ann_rates.items()}
        return self.__dict__ | {"ann_rates": ann_rates, "_rates": self.rates, "_unseen": [], "_last_gradient": []}

    @property
    def rates(self) -> dict[str, float]:
        """Layer name -> firing rate of the last call. Waits for a GPU."""
        if isinstance(self._rates, Tallies):
            self._rates = self._rates.read()
        return self._rates

    @rates.setter
    def rates(self, rates: dict[str, float]) -> None:
        self._rates = rates

    def forward(self, x: Tensor | Spikes) -> Tensor:
        """The readout [N, classes]; in training with the proxy's gradient, else only the spiking network's."""
        _refuse_vmap()
        if not (self.training and torch.is_grad_enabled()):
            masks = Masks()
            if self._batch_statistics:  # updates the twin's statistics too, as swa_utils.update_bn expects
                self.ann(x, masks=masks)
            return self.snn(x, masks)
        if isinstance(x, Tensor | Spikes):
            checks.values("x", x)
        _check_dropouts(self.net)
        with parametrize.cached():  # spectral_norm changes its state whenever it computes weights
            masks = Masks()
            ann = self.ann(x, masks=masks)
            self._look(x, ann)
            if not _is_finite(ann):
                raise FloatingPointError(f"the output of the ReLU twin is not finite: {self._culprit(x)}")
            if self.clip and self.readout != "potential":
                ann = NotBelowZero.apply(ann)
            snn = self.snn(x, masks)
            for rates, activations in self._to_watch():
                self._watch.look(rates, activations, clip=self.clip)
            return _Readout.apply(ann, snn, self._last_gradient)

    def _look(self, x: Tensor | Spikes, ann: Tensor) -> None:
        """Look at the twin's output, all values and the gradient of the pass before on a GPU with one wait, which later
        checks then need not."""
        if not ann.is_cuda or not value_checks_cache.can_be_read(ann):
            return
        gradients = self._last_gradient[:]
        self._last_gradient.clear()
        values = [ann, *gradients, *self.net.parameters(), *([x] if isinstance(x, Tensor) else [])]
        if not value_checks_cache.look_at_all(map(value_checks_cache.plain, values), [], ann.device):
            for gradient in gradients:
                _check_gradient(gradient)

    def _to_watch(self) -> list[tuple[dict[str, float], dict[str, Tensor]]]:
        """The rates to watch, of both networks: each pass's; on a GPU only once per PASSES, which waits for it once."""
        if not isinstance(self._rates, Tallies):
            return [(self._rates, self.ann_rates)]
        self._unseen.append((self._rates, {name: rate.detach() for name, rate in self.ann_rates.items()}))
        if len(self._unseen) < PASSES:
            return []
        unseen, self._unseen = self._unseen, []
        read_counters(tally.counters for tallies, _ in unseen for tally in tallies.values())
        return [(tallies.read(), activations) for tallies, activations in unseen]

    @torch.no_grad()
    def snn(self, x: Tensor | Spikes, masks: Masks | None = None) -> Tensor:
        """The spiking network's readout after T steps, float32 [N, classes]; ``masks``: as in :meth:`ann`."""
        _refuse_vmap()
        net = self.net if self.readout != "potential" else replace_neurons(self.net, self._silence_last)
        learns = self._batch_statistics and self._kind  # by unrounded weights
        precision, masks = None if learns else self.precision, masks or Masks()
        result = run(net, x, self.T, precision=precision, batch_statistics=learns, masks=masks, with_synops=False)
        on_gpu = x.device.type == "cuda"
        self._rates = Tallies(result._tallies) if on_gpu and isinstance(result, LayerResult) else result.rates
        if self.readout == "potential":
            v = result.state[self._last][0]
            return v if self._last_layer().neuron.states == 1 else v[:, 0]
        count = result._total_counts.float()
        return count / self.T if self.readout == "rate" else count

    def ann(self, x: Tensor | Spikes, inputs: Mapping[str, Tensor] | None = None, masks: Masks | None = None) -> Tensor:
        """The ReLU twin's output [N, classes]; differentiable.

        ``inputs``: layer name -> values that replace that layer's input in the forward pass; their gradient goes to the
        twin's own values there, as at the output. (Tandem learning feeds in the spiking network's rates.)
        ``masks``: which units the Dropouts keep; default: drawn again. A training pass gives both networks the same.
        """
        masks = masks or Masks()
        x = self._mean(x)
        self.ann_rates = {}

        def twin(name: str, layer: SpikingLayer) -> Twin:
            return Twin(
                name,
                with_plain_weights(layer),
                statistics=self.statistics[_key(name)] if _key(name) in self.statistics else None,
                given=(inputs or {}).get(name),
                linear=name == self._last,
                clip=self.clip,
                readout=self.readout,
                batch_statistics=self._batch_statistics,
                rates=self.ann_rates,
            )

        if x.ndim == 4:  # the fastest order for convolutions on a CPU, and in half precision on a GPU
            x = x.contiguous(memory_format=torch.channels_last)
        network = replace_neurons(self.net, twin, lambda name, layer: HeldDropout(name, layer, masks))
        with chunked_pass(self.net):
            output = network(x.unsqueeze(0)).squeeze(0)
        self.ann_output = output.detach()
        return output

    def _check_twin(self, name: str, layer: SpikingLayer) -> SpikingLayer:
        check_twin(name, layer, last=name == self._last)
        return layer

    def freeze_batch_norm(self, frozen: bool = True) -> None:
        """Normalise by the running statistics, and leave them as they are, also in training; weights still learn.

        The paper's policy is to train the statistics in the first epoch, and to freeze them then. The state_dict does
        not hold whether they are frozen: call this again after loading one. To freeze one layer's statistics, put its
        ``bn`` into evaluation mode; the twin's stay too.
        """
        self.batch_norm_frozen = frozen

    @torch.no_grad()
    def measure_batch_norm(self, x: Tensor | Spikes, batch: int = 25) -> None:
        """Set the spiking network's running statistics to those of its currents on x; the twin keeps its own.

        For networks of which only the twin was trained: currents from spikes have other statistics than activations.

        Args:
            x: samples as :meth:`forward` takes them.
            batch: about as many samples at a time; each batch is normalised by itself, and all have the same weight.

        Raises:
            ValueError: a batch has less than two values for a channel. All statistics are as before then.
        """
        x = x if is_sequence(self.net, x, self.T) else x.expand(self.T, *x.shape)
        parts = torch.arange(x.shape[1], device=x.device).tensor_split(max(1, -(-x.shape[1] // batch)))
        norms = [module for module in self.net.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
        before = [(norm.momentum, norm.training, copy.deepcopy(norm.state_dict())) for norm in norms]
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a plain average over the batches
                norm.train()
            for part in parts:
                run(self.net, samples(x, part), self.T, batch_statistics=bool(norms) and self._kind, with_synops=False)
        except BaseException:
            for norm, (*_, values) in zip(norms, before, strict=True):
                norm.load_state_dict(values)
            raise
        finally:
            for norm, (momentum, training, _) in zip(norms, before, strict=True):
                norm.momentum = momentum
                norm.train(training)

    @torch.no_grad()
    def fit_output_threshold(self, x: Tensor | Spikes, rate: float = 0.5) -> float:
        """Set the threshold of the last layer to the scale of its currents on x, and return it.

        The last layer is linear in the twin, and with random or normalised weights its currents are much smaller than
        the thresholds of the layers before. Its neurons are then silent, or all fire once: outputs tie. The threshold
        becomes the mean over the samples of the highest output's mean current, divided by ``rate``, the firing rate
        that this output then has on average (with a soft reset). While batch normalisation learns its statistics, the
        currents are normalised by x, and the statistics learn from it.

        Args:
            x: samples as :meth:`forward` takes them; some hundred.
            rate: spikes a step, above 0, at most 1.

        Raises:
            TypeError, ValueError: ``rate`` is not within (0, 1]; or the last layer has no IF neurons with one number as
                their threshold, or its highest currents are not positive.
        """
        if isinstance(rate, bool) or not isinstance(rate, Real):
            raise TypeError(f"rate must be a number, got {rate!r}")
        if not 0 < rate <= 1:
            raise ValueError(f"rate must be above 0 and at most 1, got {rate}")
        layer = self._last_layer()
        if type(layer.neuron) is not IFNeuron or isinstance(layer.v_threshold, Tensor):
            raise ValueError(
                f"layer {self._last} must have IF neurons with one number as v_threshold, got {layer.neuron}; set its "
                "v_threshold yourself"
            )
        net = replace_neurons(self.net, self._silence_last)
        result = run(net, x, self.T, batch_statistics=self._batch_statistics and self._kind, with_synops=False)
        currents = result.state[self._last][0] - layer.v_init  # the potential without what it starts from
        highest = currents.amax(1).mean().item() / self.T
        if not 0 < highest < math.inf:
            raise ValueError(
                f"the highest currents of layer {self._last} have the mean {highest:.3g}, which no threshold fits; "
                "train the ReLU twin first, or set v_threshold yourself"
            )
        layer.v_threshold = highest / rate
        return layer.v_threshold

    @property
    def _batch_statistics(self) -> bool:
        return self.training and not self.batch_norm_frozen and len(self.statistics) > 0

    @property
    def _kind(self) -> BatchStatistics:
        """The ``batch_statistics`` argument for the layers of the spiking network."""
        return "means" if self.statistics_of == "means" else True

    def _last_layer(self) -> Any:
        return dict(self.net.named_modules()).get(self._last, self.net)  # a single layer has its class's name

    def _silence_last(self, name: str, layer: SpikingLayer) -> SpikingLayer:
        return silenced(layer) if name == self._last else layer

    def _mean(self, x: Tensor | Spikes) -> Tensor:
        """The input of the twin: a constant input, or the mean of a sequence over its steps."""
        if not is_sequence(self.net, x, self.T):
            return x  # type: ignore[return-value]  # Spikes are a sequence
        mean = x.count() * (x.scale / self.T) if isinstance(x, Spikes) else mean_over_time(x)
        if isinstance(x, Tensor) and x.is_floating_point():
            return mean
        return mean.to(next((p.dtype for p in self.net.parameters()), torch.float32))

    def _culprit(self, x: Tensor | Spikes) -> str:
        """The layer in which NaN or infinity came into the twin's output; ValueError if x contains it."""
        if isinstance(x, Tensor) and x.is_floating_point():
            checks.finite("x", x)
        for name, parameter in self.net.named_parameters():
            if not _is_finite(parameter):
                layer, _, which = name.rpartition(".")
                return (
                    f"the {which} of layer {layer or type(self.net).__name__} holds NaN or infinite values. Go on from "
                    "weights that were saved before, with a lower learning rate"
                )
        rates = self.ann_rates.items()
        layer = next((name for name, rate in rates if not _is_finite(rate)), self._last)
        return f"layer {layer} overflows, whose weights are finite. Lower the learning rate, or clip=True"


class Tallies(dict[str, Any]):
    """The tally of each layer, with what a GPU has counted."""

    def read(self) -> dict[str, float]:
        """Firing rates. Waits for the GPU."""
        return {name: tally.rate for name, tally in self.items() if tally.fires}


class _Readout(torch.autograd.Function):
    """The swap at the network's output, where the gradient comes from the loss; ``later``: receives a gradient on a
    GPU, for the next pass to look at."""

    @staticmethod
    def forward(ann: Tensor, snn: Tensor, later: list[Tensor]) -> Tensor:
        return OutputSwap.forward(ann, snn)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, list[Tensor]], output: Tensor) -> None:
        ctx.dtype, ctx.later = inputs[0].dtype, inputs[2]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        if gradient.is_cuda:
            ctx.later[:] = [gradient.detach()] * value_checks_cache.can_be_read(gradient)
        else:
            _check_gradient(gradient)
        return gradient.to(ctx.dtype), None, None


def _check_gradient(gradient: Tensor) -> None:
    if not _is_finite(gradient):  # in float32: in half precision a GradScaler deals with infinity
        raise FloatingPointError(
            "the gradient that the loss gives the output of ProxyNet is not finite: look at the loss, for a "
            "logarithm or a division of spike counts of 0"
        )


def _is_finite(x: Tensor) -> bool:
    """Whether x is finite; True while a graph is captured or traced, where values cannot be read."""
    return not value_checks_cache.can_be_read(x) or value_checks_cache.look_once(is_finite, x)


def _refuse_vmap() -> None:
    """Refuse torch.vmap, which cannot have a firing rate, a Python number, for each sample."""
    if value_checks_cache.is_within_vmap():
        raise TypeError(
            "ProxyNet counts the firing rates of a call, and does not run within torch.vmap: give it all samples as "
            "one batch x [N, ...], and call it once for each set of weights; its net and ann(x) run there"
        )


def _check_dropouts(net: nn.Module) -> None:
    for name, module in net.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise TypeError(
                f"layer {name} is an nn.{type(module).__name__}, which drops other units in each of the two networks; "
                "use proxykernels.Dropout, which drops the same in both"
            )


def _check_neurons(net: nn.Module) -> None:
    """Refuse networks without a counterpart in a ReLU network."""
    for name, module in net.named_modules():
        if type(getattr(module, "neuron", None)) is IFNeuron:
            for which in ("v_threshold", "v_reset"):
                if isinstance(value := getattr(module, which), Tensor) and value.requires_grad:
                    raise ValueError(
                        f"layer {name or type(module).__name__} learns its {which}, which has no gradient in a ReLU "
                        "network; train with SurrogateNet, or learn_neurons in a network of leaky neurons"
                    )


def _statistics_like(bn: Any) -> nn.Module:
    """The twin's own running statistics, initially a copy of those of ``bn``."""
    options = {} if (like := bn.running_mean) is None else {"device": like.device, "dtype": like.dtype}
    own = type(bn)(bn.num_features, bn.eps, bn.momentum, affine=False, **options)
    own.load_state_dict({name: b for name, b in bn.named_buffers(recurse=False) if name in own._buffers}, strict=False)
    return own


def _key(name: str) -> str:
    return name.replace(".", "/")  # keys of a ModuleDict cannot contain dots


NEVER = 1e30  # a threshold that no potential reaches


def silenced(layer: Any) -> Any:
    """A layer of neurons that never fire, with the same parameters otherwise; a readout as it is."""
    if not layer.neuron.fires:
        return layer
    silent = shallow_copy(with_plain_weights(layer))
    silent._buffers = {**layer._buffers, "v_threshold": None}
    silent._parameters = {key: p for key, p in silent._parameters.items() if key != "v_threshold"}
    silent.v_threshold, silent.v_reset = NEVER, 0.0  # type: ignore[assignment]  # as torch annotates modules
    return silent
