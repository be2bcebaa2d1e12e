"""Steps of training without end, for experiments that stop by a clock or after a number of steps.

train.py has stages and epochs, checkpoints and logs around the same steps (run.py).
"""

from argparse import Namespace
from collections.abc import Callable, Iterator

from torch.utils.data import Dataset

import proxykernels as pk
from training import data as train_data
from training import step as train_step
from training.augment import augment
from training.methods import METHODS, RELU_TWINS


def steps(
    options: Namespace, name: str, lr: float, model: pk.ProxyNet, dataset: Dataset, progress: Callable[[], float]
) -> Iterator[dict[str, float]]:
    """Train ``model`` by the method ``name`` (of METHODS or RELU_TWINS), a step for each turn of the caller's loop.

    Args:
        options: of train_options, for the loss, the batch, the schedule and so on.
        lr: the highest learning rate; ``progress()``, from 0 to 1, is the place in its schedule.

    Yields:
        The running means of a step's figures (train_step.gradient).

    Raises:
        Breakdown: the loss is not finite, or the firing rates have run away.
    """
    data = augment(dataset, options.augment, options.seed)
    method = (METHODS | RELU_TWINS)[name](model.train())
    optimizer = train_step.make_optimizer(options, model, lr)
    shown: dict[str, float] = {}
    while True:
        for batch in train_data.batches(len(data), options.batch, options.seed, data.epoch):
            for group in optimizer.param_groups:
                group["lr"] = train_step.learning_rate(options.schedule, lr, progress())
            figures = train_step.gradient(options, method, model, *data.batch(batch))
            train_step.watch(shown, figures, f"by {name}")
            optimizer.step()
            yield dict(shown)
        data.epoch += 1
