"""NeuroBench's harness around a network of this package: ``pip install "proxykernels[neurobench]"``.

    from neurobench.benchmarks import Benchmark
    from proxykernels.neurobench import Model, SynapticOperations

    metrics = [[Footprint, ConnectionSparsity], [ActivationSparsity, SynapticOperations, MembraneUpdates]]
    results = Benchmark(Model(net), loader, [], [ChooseMaxCount()], metrics).run()

NeuroBench counts by hooks of torch, one call a step, which a network that runs all steps in one call does not have. A
:class:`Model` keeps the spikes of each layer, packed, and hands NeuroBench's own metrics what its hooks would have seen
in a network of snnTorch. :class:`SynapticOperations` counts the same from sums of spikes, in a fraction of the time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import checks
from .kernels import reference
from .layers import FusedSum, Neurons
from .layers.synapses import synapse_of
from .running.inputs import time_first
from .running.simulate import run, simulate
from .running.stream_state import has_sigma_delta
from .spikes import Spikes

try:
    from neurobench.metrics import workload
    from neurobench.models import NeuroBenchModel
except ImportError as error:
    raise ImportError(
        f'proxykernels.neurobench needs NeuroBench ({error}): pip install "proxykernels[neurobench]"'
    ) from error

__all__ = ["Model", "SynapticOperations"]

WEIGHTED = nn.Linear, nn.Conv1d, nn.Conv2d


class Model(NeuroBenchModel):
    """A network as NeuroBench runs it: data [N, T, ...] to spikes or potentials float32 [N, T, ...].

    Metrics see its weights as modules of torch, and its neurons as those of snnTorch. They equal those that
    ``SNNTorchModel`` has of the same network in snnTorch, if both fire alike. A readout that never fires has no
    activations and no membrane updates here; snnTorch's readouts, with ``reset_mechanism="none"``, have some.

    Args:
        net: a network of this package's layers; it is in evaluation mode from then on.
        reset_delay: whether potentials are those before the reset, as in snnTorch with ``reset_delay=True``, its
            default; False: after it.

    Raises:
        TypeError, ValueError: ``net`` is no such network, or has sigma-delta neurons.
    """

    def __init__(self, net: nn.Module, *, reset_delay: bool = True):
        super().__init__()
        checks.module("net", net)
        layers = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, Neurons)]
        if has_sigma_delta(net):
            raise ValueError(
                "net has sigma-delta or graded neurons, which NeuroBench has no metrics for: use result.synops"
            )
        if not layers:
            raise TypeError(f"net must have layers of neurons of proxykernels, got a {type(net).__name__} without any")
        self.net, self._layers = net.eval(), {name: _Layer(name, layer, reset_delay) for name, layer in layers}
        self._modules = nn.ModuleList([layer.modules for layer in self._layers.values()])

    def __net__(self) -> nn.Module:
        """The weights, which are the network's own, and the parameters of neurons, as modules of torch."""
        return self._modules

    def __call__(self, data: Tensor) -> Tensor:
        """Run data [N, T, ...]; with hooks layer by layer, which keeps the spikes of all.

        Raises:
            TypeError, ValueError: data has another type or shape.
        """
        x = time_first(data)
        if not (self.activation_hooks or self.connection_hooks):
            output = simulate(self.net, x, len(x)).output
        else:
            firing = [layer.name for layer in self._layers.values() if layer.fires]
            result = run(self.net, x, len(x), record=firing, watch=self._keep)
            for name in firing:
                self._layers[name].outputs.append(result.records[name])
            output = result.output
        return (output.dense() if isinstance(output, Spikes) else output).transpose(0, 1)

    def _keep(self, name: str, x: Any) -> nullcontext:
        self._layers[name].inputs.append(x if isinstance(x, tuple) else (x,))
        return nullcontext()

    def register_hooks(self) -> None:
        """Keep what layers are given and give from now on; the harness calls this."""
        for layer in self._layers.values():
            self.connection_hooks += [ConnectionHook(layer, k) for k in range(len(layer.weighted))]
            self.activation_hooks += [ActivationHook(layer)] * layer.fires


class _Layer:
    """What is known of a layer and of its last runs.

    Attributes:
        weighted: its synapses with weights, as modules of torch: where their input is, and the module. Weights of the
            layer's own spikes have the input None.
        neurons: a module that is called as snnTorch calls such neurons; modules: both.
        inputs: of some steps each, a tuple of what its synapses take. outputs: its spikes or integers (T, N, ...).
    """

    def __init__(self, name: str, layer: Neurons, delayed: bool):
        self.name, self.layer, self.delayed, self.fires = name, layer, delayed, layer.neuron.fires
        self.inputs: list[tuple] = []
        self.outputs: list[Spikes | Tensor] = []
        synapses = [*map(synapse_of, layer.synapses)] if isinstance(layer, FusedSum) else [layer.synapse(layer)]
        plain = [(k, synapse.plain()) for k, synapse in enumerate(synapses)]
        self.weighted: list[tuple[int | None, nn.Module]] = [(k, m) for k, m in plain if isinstance(m, WEIGHTED)]
        back = getattr(layer, "recurrent_weight", None)
        if back is not None and back.ndim == 2:
            recurrent = nn.Linear(back.shape[1], back.shape[0], bias=False, device="meta")
            recurrent.weight = nn.Parameter(back.detach())
            self.weighted.append((None, recurrent))
        self.neurons = _neurons(layer)
        self.modules = nn.ModuleList([*(module for _, module in self.weighted), *[self.neurons] * self.fires])

    def forget(self) -> None:
        self.inputs, self.outputs = [], []

    def input_of(self, k: int | None) -> list[Spikes | Tensor]:
        """What its k-th synapses were given, in parts (t, N, ...); None: its own spikes, one step later."""
        if k is not None:
            return [part[k] for part in self.inputs]
        spikes = [y.dense() if isinstance(y, Spikes) else y for y in self.outputs]
        return [torch.cat([torch.zeros_like(y[:1]), y[:-1]]) for y in spikes]

    def potentials(self) -> list[Tensor]:
        """Potentials of each step [N, ...], by the equations of kernels/reference.py, for metrics that read them."""
        layer: Any = self.layer
        parts = [sum(s.currents(x) for s, x in layer.terms(part if len(part) > 1 else part[0])) for part in self.inputs]
        found: list[Tensor] = []

        def fire(h: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
            spike, v = reference.fire(h, *arguments, **options)
            found.append(h if self.delayed else v)
            return spike, v

        if not parts:
            return []
        current, back = torch.cat(parts), getattr(layer, "recurrent_weight", None)
        v_init = torch.as_tensor(layer.v_init, dtype=torch.float32, device=current.device)
        neuron = layer.neuron.on(current.shape[2], current.device)
        axes = [1] * (current.ndim - 3)
        neuron = neuron._replace(channels=neuron.channels.view(*neuron.channels.shape, *axes))
        zero = torch.zeros_like(current[0])
        state = (zero + v_init.view(-1, *axes) if v_init.ndim else zero + v_init, *[zero] * (neuron.states - 1))
        spike = zero
        for now in current:
            now = now if back is None else now + reference.feedback(spike, back.detach().float())
            spike, state = reference.step(state, now, neuron, fire)
        return found


class _Steps(Sequence):
    """A list of one tensor for each step, which is made when somebody looks at it."""

    def __init__(self, parts: Callable[[], list[Any]], as_tuple: bool = False):
        """``parts``: gives Spikes and tensors (t, N, ...)."""
        self._parts, self._as_tuple = parts, as_tuple

    def __iter__(self) -> Iterator[Any]:
        for part in self._parts():
            for t in range(len(part)):
                step = part[t : t + 1].dense()[0] if isinstance(part, Spikes) else part[t].float()
                yield (step,) if self._as_tuple else step

    def __len__(self) -> int:
        return sum(map(len, self._parts()))

    def __getitem__(self, index: Any) -> Any:
        return [*self][index]


class ConnectionHook:
    """What NeuroBench reads of a layer with weights: ``inputs``, a tuple (tensor [N, ...],) for each step."""

    def __init__(self, layer: _Layer, k: int):
        self.source, self._of = layer, layer.weighted[k][0]
        self.layer = layer.weighted[k][1]
        self.inputs = _Steps(self.parts, as_tuple=True)
        self.hook = self  # which NeuroBench removes while it calls the layer

    def parts(self) -> list[Spikes | Tensor]:
        return self.source.input_of(self._of)

    def remove(self) -> None:
        """Nothing: torch has no hook."""

    close = register_hook = remove

    def reset(self) -> None:
        self.source.forget()


class ActivationHook:
    """What NeuroBench reads of neurons: ``activation_outputs`` [N, ...] of each step, and potentials."""

    spiking = True

    def __init__(self, layer: _Layer):
        self.source, self.name, self.layer = layer, layer.name, layer.neurons
        self.activation_inputs: list[Tensor] = []
        self.activation_outputs = _Steps(lambda: layer.outputs)
        self._potentials: list[Tensor] | None = None

    @property
    def post_fire_mem_potential(self) -> list[Tensor]:
        """After each step."""
        if self._potentials is None:
            self._potentials = self.source.potentials()
        return self._potentials

    @property
    def pre_fire_mem_potential(self) -> list[Tensor]:
        """Before each step; before the first one 0."""
        after = self.post_fire_mem_potential
        return [torch.zeros_like(after[0]), *after[:-1]] if after else []

    def reset(self) -> None:
        self._potentials = None
        self.source.forget()

    def close(self) -> None:
        """Nothing: torch has no hook."""


def _neurons(layer: Neurons) -> nn.Module:
    """A module of the name, the reset and the buffers of snnTorch's neurons: those are part of the footprint.

    A filtered current that nothing of the potential is left of stands for snnTorch's Leaky without a reset.
    """
    neuron: Any = layer.neuron
    fields = {"threshold": "v_threshold", "beta": "decay", "graded_spikes_factor": "", "alpha": "current_decay"}
    kind, reset = "Synaptic", "subtract" if getattr(neuron, "v_reset", None) is None else "zero"
    if not hasattr(neuron, "current_decay"):
        kind = "Leaky"
    elif not torch.as_tensor(neuron.decay, dtype=torch.float32, device="cpu").any():
        kind, reset, fields["beta"] = "Leaky", "none", "current_decay"
    if kind == "Leaky":
        del fields["alpha"]
    found: Any = type(kind, (nn.Module,), {"_reset_mechanism": reset})()
    for name, field in fields.items():
        value = torch.as_tensor(getattr(neuron, field, 1.0), dtype=torch.float32, device="cpu")
        found.register_buffer(name, value.detach())
    found.register_buffer("reset_mechanism_val", torch.tensor(0, dtype=torch.int64, device="cpu"))
    return found


class SynapticOperations(workload.SynapticOperations):
    """NeuroBench's metric of this name, for a :class:`Model`: the same numbers from the sums of spikes over all steps
    and samples, one call of a layer a batch. Sums are exact, where NeuroBench adds up in float32."""

    def __call__(self, model: NeuroBenchModel, preds: Tensor, data: tuple) -> dict[str, float]:
        """Raises:
        TypeError: ``model`` is another one, which NeuroBench's own metric takes.
        """
        if not isinstance(model, Model):
            raise TypeError(f"model must be a proxykernels.neurobench.Model, got {type(model).__name__}")
        for hook in model.connection_hooks:
            ones = (hook.layer.weight != 0).double()
            for part in hook.parts():
                shape = tuple(part.shape)
                dense = _reached(hook.layer, ones.new_ones(1, *shape[2:]), torch.ones_like(ones))
                self.total_synops += shape[0] * shape[1] * dense
                if isinstance(part, Spikes) and part.scale == 1:
                    self.AC += _reached(hook.layer, part.count().sum(0, dtype=torch.float64)[None], ones)
                    continue
                values = part.dense() if isinstance(part, Spikes) else part
                binary = ((values == 0) | (values.abs() == 1)).flatten(1).all(1)
                for steps, name in ((values[binary], "AC"), (values[~binary], "MAC")):
                    reached = _reached(hook.layer, (steps != 0).sum((0, 1), dtype=torch.float64)[None], ones)
                    setattr(self, name, getattr(self, name) + reached)
        self.total_samples += data[0].size(0)
        return self.compute()


def _reached(layer: Any, counts: Tensor, ones: Tensor) -> int:
    """Additions for so many inputs of each kind [1, ...]; ``ones``: 1 where the layer has a weight."""
    if isinstance(layer, nn.Linear):
        return int(F.linear(counts, ones).sum())
    return int(layer._conv_forward(counts, ones, None).sum())
