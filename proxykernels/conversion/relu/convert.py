"""Convert a trained ReLU network to a spiking one, in which firing rates of IF neurons approximate activations.

Data-based normalisation: lambda is the scale of a channel's activations on the calibration data (scales.py). Weights
are multiplied by lambda_in / lambda_out and biases divided by lambda_out. Activations then lie within 0 .. 1 and
correspond to rates of neurons with threshold 1. side_by_side.py calibrates the initial potentials.
"""

import itertools
import numbers
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor, fx, nn

from ... import checks
from ...layers import SpikingLayer
from ...layers.parametrized import is_parametrized
from ...network import Network
from ...neurons import Graded, IFNeuron, SigmaDelta, neuron_checks
from ..graph.fx_calls import join_limits, needed, trace, with_all
from ..graph.graph_values import ModelPopulation, fold_norms, untie
from ..graph.prepared import borrowed, check_model, copied, let_go, without_autocast
from ..graph.rewrites import CARRIED, build_layer
from ..graph.sample_runs import Notes, sized
from ..graph.state_between_calls import Steady, naming_what_is_kept, tensors_of
from . import graded
from .input_sizes import OtherSizes, check_samples, rounding_of
from .relu_graph import ReluGraph, one_output, parts_of
from .scales import (
    METHODS,
    Distribution,
    check_shareable,
    layer_of,
    limit,
    neuron_of,
    pool_before_neurons,
    rescale,
    scales_of,
    thresholds,
    watched,
)
from .side_by_side import FEWEST, HALF, INPUTS, SAMPLES, OriginalValues, calibrate_potentials, check, samples_of
from .spelled_out import spell_out
from .viewed_graph import warn_of_products

RELUS = (nn.ReLU, nn.ReLU6, nn.Hardtanh)
BATCH = 32  # samples of a calibration tensor at a time


@without_autocast()
def convert(
    ann: nn.Module,
    calibration: Tensor | Iterable,
    *,
    method: str = "percentile",
    percentile: float = 99.9,
    v_reset: float | None = None,
    v_init: float | None = None,
    share: bool = False,
    neuron: str | SigmaDelta | Graded = "if",
    tolerance: float | None = None,
) -> Network:
    """Convert a ReLU network to a spiking network whose firing rates approximate its activations.

    Or, with ``neuron="sigma-delta"``, to one whose neurons send their activations in signed powers of two, and which
    gives the ReLU network's outputs after few steps. Or, with ``neuron="graded"``, to one whose neurons send their
    activations as values, where they are large enough to matter: one step is a pass of the ReLU network that computes
    with what is left.

    Supported modules, and the functions of the same names:

    - Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d, Linear; BatchNorm, InstanceNorm with running statistics;
    - ReLU, ReLU6, Hardtanh, LeakyReLU, PReLU, clamp, maxima of two values; a Softmax or Sigmoid at the end;
    - for sigma-delta and graded neurons Sigmoid, Hardsigmoid, Hardswish, SiLU, Tanh, ELU, Softplus, Mish, and products
      of two results, as in a squeeze-and-excitation block;
    - Max-, Avg- and AdaptiveAvgPool, means, Upsample, padding, Dropout, Identity;
    - additions, concatenations, broadcasting, adding or multiplying constants;
    - Flatten, views, permutations, slices, splits, channel shuffles.

    Max pooling becomes :class:`MaxRatePool2d`, or :class:`RunningMaxPool2d` for real values. Max pooling before a ReLU
    is moved behind it. A layer without a ReLU, such as a linear bottleneck, passes real values on. A LeakyReLU becomes
    neurons plus real values. A last Conv2d or Linear becomes neurons too; their counts approximate the positive part of
    the logits. ``net.outputs(y)`` separates several results, in tuples, lists and dicts, and one value per sample.

    The conversion checks itself: run as a ReLU network on some calibration samples, each layer must equal ``ann``'s up
    to rounding. ``ann`` is also called some thirty times, a hundred times if it keeps something between calls, and must
    always give the same for the same samples, however many come at a time.

    Where ``ann`` computes constants from the size of its input, as in ``avg_pool2d(y, 4 * x.shape[2] // 32)``, the
    network is right for samples of the calibrated size only. It is run as a ReLU network on samples of about ten other
    sizes, and if it differs from ``ann`` for one of them, it refuses all other sizes (``net.input_shape``).

    Sources: method "max" Diehl et al. 2015; "percentile" and the soft reset Rueckauer et al. 2017; a scale per channel
    Kim et al. 2020 (arXiv:1903.06530); ``v_init`` Bu et al. 2022 (arXiv:2202.01440), calibrated after Li et
    al. 2021 (arXiv:2106.06984) and Hao et al. 2023 (arXiv:2302.10685).

    Args:
        ann: the trained network. It is used in evaluation mode and not changed (but see ``share``).
            Other arguments of its forward pass than the input have their defaults.
        calibration: samples like those of the training: a tensor [N, ...], or a DataLoader (any iterable) of tensors or
            of (tensor, label) pairs. A progress bar appears after two seconds.
        method: how the scale of a layer's activations is measured. "max": their maximum. "percentile": ignores a few
            large ones, so that fewer steps are needed; the first class may then fire at every step, which does not
            limit ``logits``. A channel's scale is 1.5 times its own largest activation, at most the layer's.
        percentile: for method "percentile": the percentage of activations at or below the scale, accurate to 1/4096 of
            the scale. Lower values need fewer steps.
        v_reset: None: soft reset, with which rates become exact as T grows. A number: hard reset to that potential.
        v_init: initial potential in thresholds. None with the soft reset: calibrated per channel, on up to 64 samples,
            for the least squared error of the counts after 4 and 8 steps. None with a hard reset: 1/2.
        share: use ``ann``'s own parameters instead of copies. This changes ``ann``: normalisations are folded into the
            weights, weights and biases are rescaled, and outputs are divided by the last layer's scale. An error if a
            layer is called twice, or has weights that are tied, computed or not in ``ann``'s parameters.
        neuron: "if": integrate-and-fire neurons. "sigma-delta", or ``pk.neurons.SigmaDelta(exponents=6)``: sigma-delta
            neurons; with ``SigmaDelta(signed=True)`` also for layers without a ReLU. Their thresholds are the largest
            activation of each channel; ``method``, ``percentile``, ``v_reset``, ``v_init`` and ``share`` are not for
            them. Max pooling comes before the neurons whose activations it takes, into their layer; where others take
            these too, it becomes :class:`RunningMaxPool2d`. Such networks are for :func:`simulate` only. Their
            ``result.potentials`` are the outputs of ``ann`` as far as each step tells them, ``result.logits`` those of
            the last step. "graded": graded neurons, which are run in the same way; ``pk.neurons.Graded(threshold=0.1)``
            have a threshold that is given.
        tolerance: for "graded": the largest share of the calibration samples that may get another class than from
            ``ann``; up to 2048 samples are looked at. For other outputs than classes: the largest mean error, as a
            share of the mean output. The threshold is the largest that keeps within it. None: 0.01.

    Returns:
        A network for :func:`simulate` and :class:`ProxyNet`, in evaluation mode, with all thresholds 1. Layers have the
        name of their Conv2d or Linear, with underscores: ``layer1_0_conv2``. An addition becomes a :class:`FusedIFSum`;
        layers that are connected by an identity shortcut share the largest of their scales. A layer's ``scale`` is the
        activation that a rate of 1 stands for. ``simulate(...).logits`` approximates the outputs of ``ann``. Frozen
        parameters stay frozen, and weights that stand for constants of ``ann`` are not trained.

    Raises:
        TypeError: a module has no counterpart in spikes, or its conversion is wrong; the message names its path.
        ValueError: an argument is out of range; the calibration data are not finite, do not fit the model, or leave a
            layer silent.
    """
    checks.module("ann", ann)
    for path, module in ann.named_modules():
        if isinstance(module, SpikingLayer):
            raise TypeError(f"ann must be a ReLU network, its module '{path}' is a {type(module).__name__} already")
    check_model("ann", ann, "spiking")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not isinstance(percentile, numbers.Real) or not 0 < percentile <= 100:
        raise ValueError(f"percentile must be above 0 and at most 100, got {percentile!r}")
    neuron_checks.neuron(1.0, v_reset)
    changes = neuron_of(
        neuron, share, method=(method, "percentile"), percentile=(percentile, 99.9), v_reset=(v_reset, None),
        v_init=(v_init, None),
    )  # fmt: skip
    tolerance = graded.tolerance_of(neuron, tolerance)
    if v_init is not None:
        if isinstance(v_init, Tensor):  # which checks.start takes for the channels of one layer
            raise TypeError(
                f"v_init must be a number, for the neurons of all layers, got a tensor {list(v_init.shape)}"
            )
        checks.start("v_init", v_init)
    if share and is_parametrized(ann):
        raise ValueError(
            "share=True rescales weights in place, and some of ann's are computed (parametrized, "
            "normalised or pruned); use share=False"
        )
    with borrowed(ann) as model:
        name = type(model).__name__
        batches = _Batches(calibration)
        few = torch.cat([batches.first[:1], batches.first[-1:]])
        steady = Steady(model, few)
        with torch.no_grad():
            traced = trace(model, tracer=sized(few))
            join_limits(traced)
        traced = traced if share else copied(traced, {})
        with naming_what_is_kept(model):
            needed(traced, name)
            followed = _run(Notes(traced), few, name)
            spell_out(traced)
            returned = list(traced.graph.nodes)[-1].args[0]
            one_output(traced, name)
            _run(Notes(traced), few, name)
            try:
                is_signed = changes is not None and changes.signed
                graph = ReluGraph(traced, name, _is_relu, signed=is_signed, computes=changes is not None)
            except TypeError as error:
                raise with_all(error, traced, name, RELUS, products=changes is not None) from None
        steady.check()
        _check_followed(model, few, followed)
        rounding = rounding_of(model, few)
        check_samples(model, traced, few, name, rounding)
        others = OtherSizes(model, traced, returned, few, rounding)
        if changes:
            pool_before_neurons(graph)
        if share:
            check_shareable(graph, model)
        original = OriginalValues(traced, graph, samples_of(batches.first))
        distributions, nodes = watched(graph)
        watcher = _Watcher(traced, nodes)
        wanted = SAMPLES if tolerance is None else graded.most_samples(batches.first[0])
        samples, seen, shapes, ranges = [], 0, set(), []
        for batch in batches:
            _run(watcher, batch, graph.model)
            seen += len(batch)
            shapes.add(tuple(batch.shape[1:]))
            ranges.append(tuple(value.item() for value in batch.aminmax()))
            if sum(map(len, samples)) < wanted and batch.shape[1:] == batches.first.shape[1:]:
                samples.append(batch)  # samples of other sizes count in the scales only
        if changes:
            scales = thresholds(graph, distributions, changes)
        else:
            scales = scales_of(graph, distributions, method, percentile)
    untie(graph.populations)
    for name, population in graph.populations.items():
        fold_norms(population, ann)
        rescale(population, scales, name, graph.like)

    def layer(name: str, population: ModelPopulation) -> nn.Module:
        if changes:
            return layer_of(population, scales[name], changes)
        if not population.fires:
            return build_layer(population.modules, CARRIED)
        built: Any = build_layer(
            population.modules, IFNeuron(v_threshold=1.0, v_reset=v_reset), HALF if v_init is None else v_init
        )
        built.scale = scales[name].item() if not scales[name].ndim else scales[name]
        built.limit = limit(population.neuron)
        built.rectifies = population.neuron is not None
        return built

    net = graph.network(layer).eval()
    net.input_dims, net._parts = few.ndim, parts_of(followed)
    net.calibrated = min(least for least, _ in ranges), max(largest for _, largest in ranges)
    net._made = {"converted from": graph.model, "calibration samples": f"{seen:,}"}
    check(net, graph, scales, original)
    if others.is_constant_of(net, graph, scales):
        net.input_shape = others.shape
        if strange := next((shape for shape in shapes if shape != others.shape), None):
            raise ValueError(
                f"calibration has samples of the shapes {list(others.shape)} and {list(strange)}, and {graph.model} "
                "computes constants from the size of its input: take samples of one size"
            )
    if tolerance is not None:
        changes = Graded(graded.choose_threshold(net, torch.cat(samples)[:wanted], tolerance))
    net._made |= {"neurons": f"{changes}"} if changes else _in_words(method, percentile, v_reset)
    warn_of_products(net, graph, original.x)
    del original
    if v_init is None and v_reset is None and not changes:
        most = min(SAMPLES, max(FEWEST, INPUTS // samples[0][0].numel()))
        calibrate_potentials(net, torch.cat(samples)[:most])
    if not share:
        let_go(traced, net)
    return net


class _Batches:
    """The calibration data as tensors [N, ...]. It is read once; the first batch is kept."""

    def __init__(self, calibration: Tensor | Iterable):
        if isinstance(calibration, Tensor):
            checks.strided("calibration", calibration)
            if not calibration.ndim:
                raise ValueError("calibration must have the shape [N, ...], got []")
            calibration = calibration.split(BATCH)
        elif not isinstance(calibration, Iterable):
            raise TypeError(f"calibration must be a tensor [N, ...] or a DataLoader, got {type(calibration).__name__}")
        try:
            self.number = len(calibration) if isinstance(calibration, Sized) else None
        except TypeError:  # a DataLoader of a dataset without a length
            self.number = None
        self.rest = self._tensors(calibration)
        self.first = next(self.rest, None)
        if self.first is None:
            raise ValueError("calibration must hold at least one sample, got none")

    def __iter__(self) -> Iterator[Tensor]:
        from tqdm import tqdm

        batches = itertools.chain([self.first], self.rest)
        return iter(tqdm(batches, "calibration", self.number, unit="batch", delay=2, leave=False))

    @staticmethod
    def _tensors(source: Iterable) -> Iterator[Tensor]:
        for batch in source:
            batch = batch[0] if isinstance(batch, tuple | list) and batch else batch
            checks.floating("calibration", batch)
            if batch.is_meta or batch.layout != torch.strided:
                raise TypeError(f"calibration must be dense tensors with values, got {batch.layout} on {batch.device}")
            checks.finite("calibration", batch)
            if batch.ndim and len(batch):
                yield batch


def _in_words(method: str, percentile: float, v_reset: float | None) -> dict[str, str]:
    """The lines of a model card about IF neurons."""
    reset = "soft reset" if v_reset is None else f"reset to {v_reset:g}"
    scales = f"{percentile:g} % of the activations" if method == "percentile" else "the largest activation"
    return {"neurons": f"integrate-and-fire, {reset}", "a rate of 1 is": scales}


def _run(interpreter: fx.Interpreter, batch: Tensor, model: str) -> Any:
    try:
        return interpreter.run(batch)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, IndexError) as error:  # of torch's modules, in several lines
        first = next((module for module in interpreter.module.modules() if isinstance(module, nn.Conv2d)), None)
        last = "" if first is None else checks.channels_last("calibration", tuple(batch.shape), first.in_channels)
        raise ValueError(
            f"calibration of shape {list(batch.shape)} and {batch.dtype} does not go through {model}: "
            f"{last or str(error).splitlines()[0]}"
        ) from error


@torch.no_grad()
def _check_followed(model: nn.Module, samples: Tensor, followed: Any) -> None:
    """Check a run of the trace: torch.fx takes ``x += y`` for ``x = x + y``, which differs if x is used elsewhere."""
    for ours, y in zip(tensors_of(followed), tensors_of(model(samples.clone())), strict=True):
        if ours.dtype != y.dtype:
            raise TypeError(
                f"{type(model).__name__} gives {y.dtype} where its layers give {ours.dtype}, as under a torch.autocast "
                "in its forward pass, which torch.fx does not follow; take it out of the forward pass"
            )
        largest = y.nan_to_num().abs().max().item() if y.numel() else 0.0
        if torch.allclose(ours, y, rtol=1e-3, atol=1e-4 * largest, equal_nan=True):
            continue
        raise TypeError(
            f"torch.fx follows another forward pass than {type(model).__name__}'s, as it does where a tensor that is "
            "used again is changed in place; write x = x + y for x += y"
        )


class _Watcher(fx.Interpreter):
    """Runs the network, and adds the values of watched nodes to their distributions."""

    def __init__(self, traced: fx.GraphModule, watched: dict[fx.Node, list[Distribution]]):
        super().__init__(traced)
        self.watched = watched

    @torch.no_grad()
    def run_node(self, node: fx.Node):
        value = super().run_node(node)
        for distribution in self.watched.get(node, ()):
            distribution.add(value)
        return value


def _is_relu(module: nn.Module) -> bool:
    if isinstance(module, nn.Hardtanh) and module.min_val != 0:
        return False
    return isinstance(module, RELUS)
