"""The loop: stages of epochs of steps, stopped and resumed at any step."""

import math
import signal
import time
from argparse import Namespace
from dataclasses import dataclass

import torch
import train_checkpoint as checkpoint
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm
from train_data import Augmented, batches
from train_methods import LOSSES, METHODS, mean_activation

import proxykernels as pk

RUN_AWAY = 0.6  # mean firing rate at which a network has stopped to compute anything
WATCHED = 0.05  # weight of a step in the running mean of what the progress bar shows


class Stopped(Exception):
    """The run was asked to stop (SIGTERM), and its checkpoint is written."""


@dataclass(frozen=True)
class Stage:
    """Epochs by one method: a name of METHODS, and the highest learning rate."""

    method: str
    epochs: int
    lr: float


@dataclass
class Workers:
    """The processes that share each batch, and the device of this one."""

    rank: int
    world: int
    device: torch.device

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world == 1:
            return flag
        flags = torch.tensor([float(flag)], device=self.device)
        torch.distributed.all_reduce(flags)
        return flags.item() > 0


class Termination:
    """Remembers SIGTERM, so that a step is finished before the run stops."""

    def __init__(self):
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_) -> None:
        self.asked = True


def make_optimizer(stage: Stage, options: Namespace, model: nn.Module, steps: int):
    """Adam with its learning-rate schedule over ``steps`` steps."""
    optimizer = torch.optim.AdamW if options.schedule == "one-cycle" else torch.optim.Adam
    optimizer = optimizer(
        model.parameters(), stage.lr, tuple(options.betas), options.eps, options.weight_decay, fused=True
    )

    def factor(step: int) -> float:
        progress = step / max(steps, 1)
        if options.schedule == "constant":
            return 1.0
        if options.schedule == "one-cycle" and progress < 0.2:
            return 0.05 + 0.95 * progress / 0.2
        start = 0.2 if options.schedule == "one-cycle" else 0.0
        return 0.5 * (1 + math.cos(math.pi * (progress - start) / (1 - start)))

    return optimizer, factor


class Epoch:
    """One epoch of one stage, from a given step on."""

    def __init__(self, options: Namespace, workers: Workers, termination: Termination):
        self.options, self.workers, self.termination = options, workers, termination

    def run(self, stage: Stage, number: int, first: int, data: Augmented, model: pk.ProxyNet, optimizer, factor):
        """Train on the batches from ``first`` on; yields after every step: (step in the epoch, figures to show)."""
        options, workers = self.options, self.workers
        data.epoch = number
        order = batches(len(data), options.batch, options.seed, number, workers.rank, workers.world)
        loader = DataLoader(data, batch_sampler=order[first:])
        method = METHODS[stage.method](model).train()
        if workers.world > 1:
            method = DistributedDataParallel(method, broadcast_buffers=False)
        bar = tqdm(
            loader, f"{stage.method} {number + 1}/{stage.epochs}", len(order), initial=first, unit="batch",
            mininterval=0.5, disable=workers.rank > 0,
        )  # fmt: skip
        shown: dict[str, float] = {}
        epoch_of_stage = number if stage.epochs else 0
        for step, (images, labels) in enumerate(bar, first):
            for group in optimizer.param_groups:
                group["lr"] = stage.lr * factor(epoch_of_stage * len(order) + step)
            images, labels = images.to(workers.device), labels.to(workers.device)
            figures = self.step(method, model, optimizer, images, labels, stage)
            self.watch(shown, figures, stage, number)
            bar.set_postfix({key: f"{value:.3g}" for key, value in shown.items()})
            yield step, shown

    def step(self, method, model: pk.ProxyNet, optimizer, images: Tensor, labels: Tensor, stage: Stage) -> dict:
        """One step of the optimizer; returns loss and accuracy of the batch, and the rates."""
        options = self.options
        with torch.autocast(images.device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
            output = method(images)
        output = output.float()
        loss = LOSSES[options.loss](output, labels, options.T, options.target)
        if options.rate_penalty:
            loss = loss + options.rate_penalty * mean_activation(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        correct = (output.argmax(1) == labels).float().mean()
        figures = {"loss": loss.item(), "correct": correct.item()}
        if stage.method != "ann" and model.rates:
            figures["rate"] = sum(model.rates.values()) / len(model.rates)
        if model.ann_rates:
            figures["ann_rate"] = mean_activation(model).item()
        return figures

    def watch(self, shown: dict[str, float], figures: dict[str, float], stage: Stage, epoch: int) -> None:
        """Running means of the figures; a loss that is not finite, or a run-away, stops the run."""
        where = f"in epoch {epoch + 1} of stage {stage.method}"
        if not math.isfinite(figures["loss"]):
            raise SystemExit(f"the loss became {figures['loss']} {where}; lower --lr. The last checkpoint is intact")
        for key, value in figures.items():
            shown[key] = value if key not in shown else shown[key] + WATCHED * (value - shown[key])
        if shown.get("rate", 0.0) > RUN_AWAY:
            raise SystemExit(
                f"training runs away {where}: the mean firing rate is {shown['rate']:.0%}. Use --twin clipped, start "
                "with --init ann, or lower --lr. The last checkpoint is intact"
            )


def now() -> dict[str, float]:
    """Clocks: of the wall, and of this process's work."""
    return {"seconds": time.perf_counter(), "cpu_seconds": time.process_time()}


def save(options: Namespace, stage: int, epoch: int, step: int, done: int, best: float, model, optimizer) -> None:
    """A checkpoint at ``step`` of ``epoch`` of a stage, ``done`` steps from the start of the run."""
    position = {"stage": stage, "epoch": epoch, "step": step, "done": done, "best": best, "options": identity(options)}
    checkpoint.save(options.out, position, model, optimizer)


def identity(options: Namespace) -> dict:
    """The options that a resumed run must share with the one that wrote its checkpoint."""
    where = {"out", "resume", "tensorboard", "root", "device", "preset"}
    return {key: value for key, value in sorted(vars(options).items()) if key not in where}
