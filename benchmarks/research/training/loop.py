"""Steps of training without end, for experiments that stop by a clock or after a number of steps.

train.py has stages and epochs, checkpoints and logs around the same steps (run.py).
"""

from argparse import Namespace
from collections.abc import Callable, Iterator

import torch
from common import datasets
from torch import nn
from torch.utils.data import Dataset

import proxykernels as pk
from training import step as train_step
from training.augment import augment


def steps(
    options: Namespace,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    model: pk.ProxyNet,
    dataset: Dataset,
    learning_rate: Callable[[int], float],
    done: int = 0,
) -> Iterator[dict[str, float]]:
    """Train ``model`` by ``method`` (of methods.COMPARED), a step for each turn of the caller's loop.

    Args:
        options: of train_options, for the loss, the batch, the normalisation and so on.
        learning_rate: of a step, counted from the start of the training.
        done: steps that were done before.

    Yields:
        The running means of a step's figures (train_step.gradient).

    Raises:
        Breakdown: the loss is not finite, or the firing rates have run away.
    """
    data = augment(dataset, options.augment, options.seed)
    data.epoch, first = divmod(done, len(data) // options.batch)
    model.train()
    shown: dict[str, float] = {}
    while True:
        model.freeze_batch_norm(options.batch_norm == "first-epoch" and data.epoch > 0)
        for batch in datasets.batches(len(data), options.batch, options.seed, data.epoch)[first:]:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(done)
            figures = train_step.gradient(options, method, model, *data.batch(batch))
            train_step.watch(shown, figures, "in a comparison")
            optimizer.step()
            done += 1
            yield dict(shown)
        data.epoch, first = data.epoch + 1, 0
