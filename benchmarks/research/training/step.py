"""Steps of training: learning rate, loss, gradient, and the guards that stop a run that cannot get well."""

import math
from argparse import Namespace
from collections.abc import Callable, Iterator

import torch
from common import datasets
from torch import Tensor, nn
from torch.utils.data import Dataset

import proxykernels as pk
from training.augment import augment
from training.methods import LOSSES, STEP_LOSSES, classes, mean_activation

RUN_AWAY = 0.8  # firing rate at which a layer has stopped to compute anything: it fires whatever its input is
SHARE = 0.05  # of the last step in the running means that are shown
SCHEDULES = {"constant": (0, 1), "cosine": (0, 0), "one-cycle": (0.2, 0.2), "trapezoid": (0.05, 0.75)}  # of a stage:
# how long the learning rate goes up, from WARM_UP_START times the highest, and when it starts to go down to 0
WARM_UP_START = 0.05


class Breakdown(Exception):
    """Training cannot go on: the loss or the gradient is not finite, or the network runs away."""


def make_optimizer(options: Namespace, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Adam, its weight decay decoupled from the gradient (AdamW), and only for weights, not for biases and the like."""
    groups = [
        {
            "params": [p for p in model.parameters() if (p.ndim > 1) == decays],
            "weight_decay": options.weight_decay * decays,
        }
        for decays in (True, False)
    ]
    return torch.optim.AdamW(groups, lr, fused=True, betas=tuple(options.betas), eps=options.eps)


def learning_rate(schedule: str, highest: float, progress: float) -> float:
    """The learning rate after ``progress`` (0 to 1) of a stage."""
    up, down = SCHEDULES[schedule]
    if progress < up:
        return highest * (WARM_UP_START + (1 - WARM_UP_START) * progress / up)
    if progress <= down:
        return highest
    return highest * 0.5 * (1 + math.cos(math.pi * (progress - down) / (1 - down)))


def gradient(options: Namespace, method: nn.Module, model: pk.ProxyNet, images: Tensor, labels: Tensor) -> dict:
    """Compute the gradient of one batch; returns its loss, the accuracy of both twins and their rates.

    Raises:
        Breakdown: the twin or a gradient is not finite. A loss that is not has no gradient; ``watch`` stops for it.
    """
    for parameter in method.parameters():  # the model's, and a method's own
        parameter.grad = None
    try:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
            output = method(images)
        output = output.float()
        shares = classes(labels, output.shape[-1], options.smoothing)
        loss = (LOSSES | STEP_LOSSES)[options.loss](output, shares, options.T, options.target)
        if options.rate_penalty and model.ann_rates:
            loss = loss + options.rate_penalty * mean_activation(model)
        if math.isfinite(loss.item()):
            loss.backward()
            _check_gradients(model)
    except FloatingPointError as error:
        raise Breakdown(f"{error}. The last checkpoint is intact") from error
    figures = {"loss": loss.item()}
    if model.rates:  # of the spiking network's pass, if the method makes one
        figures["snn"] = accuracy(output, labels)
        figures["rate"] = sum(model.rates.values()) / len(model.rates)
        figures["highest"] = max(model.rates.values())
    if model.ann_output is not None:
        figures["ann"] = accuracy(model.ann_output, labels)
        figures["ann_rate"] = mean_activation(model).item()
    return figures


def _check_gradients(model: nn.Module) -> None:
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    if not nn.utils.get_total_norm(gradients.values()).isfinite():
        names = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        raise FloatingPointError(f"the gradient of {', '.join(names) or 'all'} is not finite; lower --lr")


def accuracy(output: Tensor, labels: Tensor) -> float:
    """Share of the batch that argmax gets right: for the progress bar, where a tie counts as it falls."""
    return (output.argmax(1) == labels).float().mean().item()


def watch(shown: dict[str, float], figures: dict[str, float], where: str) -> None:
    """Take the figures of a step into the running means ``shown``.

    Raises:
        Breakdown: the loss is not finite, or the firing rates have run away.
    """
    if not math.isfinite(figures["loss"]):
        raise Breakdown(f"the loss became {figures['loss']} {where}; lower --lr. The last checkpoint is intact")
    for key, value in figures.items():
        shown[key] = value if key not in shown else shown[key] + SHARE * (value - shown[key])
    if shown.get("highest", 0.0) > RUN_AWAY:
        raise Breakdown(
            f"training runs away {where}: a layer's firing rate is {shown['highest']:.0%}. Use --twin clipped, start "
            "with --init ann, or lower --lr. The last checkpoint is intact"
        )


def steps(
    options: Namespace,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    model: pk.ProxyNet,
    dataset: Dataset,
    learning_rate: Callable[[int], float],
    done: int = 0,
) -> Iterator[dict[str, float]]:
    """Steps without end, for experiments that stop by a clock or after a number of steps; train.py has epochs (run.py).

    Trains ``model`` by ``method`` (of methods.COMPARED), a step for each turn of the caller's loop.

    Args:
        options: of train_options, for the loss, the batch, the normalisation and so on.
        learning_rate: of a step, counted from the start of the training.
        done: steps that were done before.

    Yields:
        The running means of a step's figures (gradient).

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
            figures = gradient(options, method, model, *data.batch(batch))
            watch(shown, figures, "in a comparison")
            optimizer.step()
            done += 1
            yield dict(shown)
        data.epoch, first = data.epoch + 1, 0
