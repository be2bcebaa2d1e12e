"""The model that a training run begins with, and the scaling of its weights between two stages."""

from argparse import Namespace
from pathlib import Path

import torch
from common import nets
from common.accuracy import PRECISIONS
from torch import Tensor

import proxykernels as pk
from training import rescale as weight_scales
from training import weights as train_weights


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
        about = train_weights.start_from(model, Path(options.init), nets.TRAINABLE[options.net])
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
        weight_scales.to_range(model.eval(), images, options.rescale)
        model.measure_batch_norm(images)  # by neurons that fire more
