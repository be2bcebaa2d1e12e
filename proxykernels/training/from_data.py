"""What ProxyNet measures on data: statistics of batch normalisation, and the threshold of the last layer."""

import copy
import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import SpikingLayer
from ..layers.base import BatchStatistics
from ..layers.parametrized import shallow_copy, with_plain_weights
from ..neurons import IFNeuron
from ..running.early_exit import samples
from ..running.prepared_network import replace_neurons
from ..running.simulate import run
from ..sequences import is_sequence
from ..spikes import Spikes

NEVER = 1e30  # a threshold that no potential reaches


class FromData(nn.Module):
    """Base of ProxyNet, which sets these attributes."""

    net: nn.Module
    T: int
    statistics: nn.ModuleDict
    statistics_of: str
    batch_norm_frozen: bool
    _last: str  # the last layer's name

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


def silenced(layer: Any) -> Any:
    """A layer of neurons that never fire, with the same parameters otherwise; a readout as it is."""
    if not layer.neuron.fires:
        return layer
    silent = shallow_copy(with_plain_weights(layer))
    silent._buffers = {**layer._buffers, "v_threshold": None}
    silent._parameters = {key: p for key, p in silent._parameters.items() if key != "v_threshold"}
    silent.v_threshold, silent.v_reset = NEVER, 0.0  # type: ignore[assignment]  # as torch annotates modules
    return silent
