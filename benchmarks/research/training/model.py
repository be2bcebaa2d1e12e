"""The model of a training run: made, scaled between two stages, averaged over steps, and written to weights files."""

import copy
import json
from argparse import Namespace
from pathlib import Path

import torch
import torch.nn.functional as F
from common import nets, tables, twins, weights_file
from common.accuracy import PRECISIONS
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import proxykernels as pk

AVERAGE_EVERY = 8  # steps from one update of the average to the next: it reads and writes all weights
TWIN_BATCH = 100


def kind_of(options: Namespace, shape: list[int], classes: int) -> dict:
    """The arguments of the network's maker that its files keep, of images of shape [C, H, W]."""
    kind = {"shape": shape, "classes": classes, "linear_norm": options.linear_norm, "width": options.width}
    return kind if options.pool == "spikes" else kind | {"pool": options.pool}  # as in files of before


def new(options: Namespace, kind: dict, images: Tensor, device: torch.device) -> pk.ProxyNet:
    """The model that the options ask for, on ``device``.

    ``images``: [N, C, H, W], on ``device``; scales and thresholds that depend on data are measured on them.
    """
    torch.manual_seed(options.seed)
    leak = {"decay": options.decay} if options.neuron == "lif" else {}
    v_reset = 0.0 if options.reset == "hard" else None
    net = nets.TRAINABLE[options.net](options.threshold, v_reset, dropout=options.dropout, **leak, **kind)
    model = pk.ProxyNet(
        net, options.T, clip=options.twin == "clipped", readout="rate", precision=PRECISIONS[options.snn_precision],
        statistics_of=options.statistics or "steps",
    )  # fmt: skip
    model.to(device, memory_format=torch.channels_last)
    if options.init not in ("random", "ann"):
        about = start_from(model, Path(options.init), nets.TRAINABLE[options.net])
        if options.statistics is None and options.method != "surrogate":  # which normalises by all steps
            model.statistics_of = about.get("statistics", "steps")
        if about.get("method") == "ann":
            rescale(options, model, images)
    if options.output_threshold == "data":
        model.train().fit_output_threshold(images)
    elif options.output_threshold is not None:
        list(model.net)[-1].v_threshold = options.output_threshold
    if options.start is not None:
        nets.start_at(model.net, options.start)
    return model


def rescales(options: Namespace) -> bool:
    """Whether weights are scaled: not where the twin is all that is trained. What is clipped then is lost to it."""
    return options.rescale > 0 and options.method != "ann"


def rescale(options: Namespace, model: pk.ProxyNet, images: Tensor) -> None:
    """Scale the twin's trained weights for the spiking network, if asked to, and measure its currents again."""
    if rescales(options):
        to_range(model.eval(), images, options.rescale)
        model.measure_batch_norm(images)  # by neurons that fire more


@torch.no_grad()
def to_range(model: pk.ProxyNet, images: Tensor, percentile: float) -> None:
    """Scale each layer until ``percentile`` % of its twin's activations above 0 lie below the threshold.

    A ReLU network computes the same, up to a factor, if a layer's currents are multiplied by a number and the next
    layer's weights are divided by it, but for what is clipped then; its spiking twin fires more, and so is right after
    fewer steps. That is the scaling of converted networks (Rueckauer et al., Frontiers in Neuroscience 11, 2017, doi
    10.3389/fnins.2017.00682).

    Args:
        model: in evaluation mode; of a chain of layers, nn.Sequential, whose ReLUs are clipped at the threshold, which
            is why no scale is below 1.
        images: [N, C, H, W].
    """
    values, before = images, 1.0
    for name, layer in model.net.named_children():
        if not isinstance(layer, pk.layers.Fused):  # pooling, flattening
            rates = isinstance(layer, pk.layers.SpikingLayer)  # pooling layers that take only spikes
            values = layer.affine(values) if rates else layer(values.unsqueeze(0)).squeeze(0)
            continue
        current = layer.affine(values)
        if layer.bn is not None:
            own = model.statistics[name]
            current = F.batch_norm(
                current, own.running_mean, own.running_var, layer.bn.weight, layer.bn.bias, eps=own.eps
            )
        values = current.clamp(0, layer.v_threshold)
        scale = _scale(values, layer.v_threshold, percentile)
        layer.weight /= before  # the normalisation's statistics stay: the currents are the same
        scaled = layer if layer.bn is None else layer.bn
        scaled.weight *= scale
        if scaled.bias is not None:
            scaled.bias *= scale
        before = scale


def _scale(values: Tensor, threshold: float, percentile: float) -> float:
    positive = values[values > 0]
    if not len(positive):  # a layer that is silent on all these images
        return 1.0
    return threshold / positive.sort().values[int(len(positive) * percentile / 100)].item()


def average_of(model: pk.ProxyNet, kept: float) -> AveragedModel:
    """The average that keeps the share ``kept`` of itself a step, to be updated after every AVERAGE_EVERY-th one."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(kept**AVERAGE_EVERY), use_buffers=True)


@torch.no_grad()
def measure_twin(model: pk.ProxyNet, images: Tensor) -> None:
    """Set the twin's statistics to those of its currents on the images [N, C, H, W].

    What changes from step to step cancels out in the average, so its weights are smaller than any step's, and its
    currents than those that the averaged statistics were taken of.
    """
    norms = list(model.statistics.values())
    momenta, training, frozen = [norm.momentum for norm in norms], model.training, model.batch_norm_frozen
    model.train()
    model.freeze_batch_norm(False)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    for batch in images.split(TWIN_BATCH):
        model.ann(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.freeze_batch_norm(frozen)
    model.train(training)


def save(path: Path, net: nn.Module, statistics: nn.Module, about: dict[str, str]) -> None:
    """Write a network's state and its twin's ``statistics`` (pk.ProxyNet.statistics), weights as float16."""
    state = net.state_dict() | {nets.TWIN + key: value for key, value in statistics.state_dict().items()}
    content = weights_file.content({key: stored(key, value) for key, value in state.items()}, about)
    path.parent.mkdir(parents=True, exist_ok=True)
    tables.replace(path, content)


@torch.no_grad()
def rounded(model: pk.ProxyNet) -> pk.ProxyNet:
    """A copy with all weights rounded to float16, as they are stored, so that what is measured is the file."""
    model = copy.deepcopy(model).eval()
    model.load_state_dict({key: stored(key, tensor) for key, tensor in model.state_dict().items()})
    return model


def is_twin_alone(about: dict[str, str]) -> bool:
    """Whether a file's metadata say that only its ReLU twin was trained; its spiking network is the converted twin."""
    return about.get("method") == "ann" and "decay" not in about


def describe(options: Namespace, kind: dict) -> dict[str, str]:
    """The metadata of a file, except measurements: what nets.load_file needs, and how the network was trained.

    ``kind``: shape [C, H, W] of the images, and number of classes.
    """
    return {
        "net": options.net, "v_threshold": str(options.threshold), "reset": options.reset, "T": str(options.T),
        **({"decay": str(options.decay)} if options.neuron == "lif" else {}),
        **({"snn_precision": options.snn_precision} if options.snn_precision != "float32" else {}),
        "twin": options.twin, "method": options.method, "seed": str(options.seed),
        **{key: json.dumps(value) for key, value in kind.items()},
    }  # fmt: skip


def start_from(model: pk.ProxyNet, path: Path, make) -> dict[str, str]:
    """Give ``model`` the weights of a file, and the statistics of its normalisation; returns the file's metadata.

    Errors: as of ``twins.load``.
    """
    source, whole, about = twins.load(path, make)
    nets.take_over(model.net, source.net)
    if whole:
        model.statistics.load_state_dict(source.statistics.state_dict())
    return about


def stored(key: str, value: Tensor) -> Tensor:
    """A tensor of a state_dict as the files hold it: numbers and thresholds as they are, other floats as float16."""
    exact = not value.ndim or not value.is_floating_point() or key.endswith("v_threshold")
    return value if exact else value.half()
