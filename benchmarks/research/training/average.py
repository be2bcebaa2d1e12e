"""A running average of a network's weights: better than the last ones, while the learning rate is high."""

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import proxykernels as pk

EVERY = 8  # steps from one update to the next: it reads and writes all weights
BATCH = 100


def of(model: pk.ProxyNet, kept: float) -> AveragedModel:
    """The average that keeps the share ``kept`` of itself a step, to be updated after every EVERY-th one."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(kept**EVERY), use_buffers=True)


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
    for batch in images.split(BATCH):
        model.ann(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.freeze_batch_norm(frozen)
    model.train(training)
