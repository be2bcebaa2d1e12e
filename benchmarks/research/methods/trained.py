"""A training of compare_methods.py: it stops at any step, leaves a checkpoint, and goes on from there."""

import time
from argparse import Namespace
from contextlib import suppress
from itertools import islice
from pathlib import Path

from common import conversion, nets
from common.accuracy import Point, ann_accuracy, points
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm
from training import checkpoint
from training import model as train_model
from training import step as train_step
from training.checkpoint import Termination
from training.methods import COMPARED, Qcfs

import proxykernels as pk
from methods.ways import Settings, Way, make, settings_of

TUNING = 0.3  # of the learning rate, where weights are trained already
PERCENTILE = 98.0  # of activations below the threshold, where a trained ReLU network becomes a spiking one


class Training:
    """A network on its way: ``advance`` trains it, ``measure`` says how good it is."""

    def __init__(
        self, way: Way, settings: Settings, options: Namespace, seed: int, dataset: Dataset, total: int,
        folder: Path | None = None,
    ):  # fmt: skip
        """``total``: steps of the whole training, over which learning rates fall. ``folder``: of the checkpoint."""
        self.way, self.settings, self.dataset, self.total, self.folder = way, settings, dataset, total, folder
        self.options = settings_of(way, options, seed)
        self.images = conversion.calibration(dataset)
        self.model = make(way, settings, self.options, options.width)
        self.step, self.cpu_seconds = 0, 0.0
        self.change = round(way.twin * total)  # the first step of the method, after those of the ReLU network
        self.identity = {"settings": vars(settings), "total": total, "way": repr(way), "width": options.width}
        self.identity |= {key: getattr(self.options, key) for key in ("net", "T", "batch", "seed")}
        saved = self.read()
        if saved is None and way.output == "data" and not self.change:
            self.model.train().fit_output_threshold(self.images[:200])
        nets.start_at(self.model.net, self.settings.start)
        self.start_stage()
        if saved is not None and self.step != self.change:  # where the optimizer is new, and has no moments
            checkpoint.restore(saved, optimizer=self.optimizer)

    @property
    def in_twin(self) -> bool:
        """Whether only the ReLU network is trained now."""
        return self.step < self.change

    def start_stage(self) -> None:
        name = "ann" if self.in_twin else self.way.method
        self.method = COMPARED[name](self.model)
        self.optimizer = train_step.make_optimizer(self.options, self.method, self.settings.lr)
        if isinstance(self.method, Qcfs):
            self.optimizer.register_step_post_hook(lambda *_: self.method.settle())

    def advance(self, goal: int, termination: Termination | None = None) -> None:
        """Train up to the step ``goal``, with a checkpoint there, or where ``termination`` comes, which ends it.

        Raises:
            Breakdown: training cannot go on. SystemExit: ``termination`` came.
        """
        start = time.process_time()
        while self.step < goal:
            stop = min(goal, self.change) if self.in_twin else goal
            steps = train_step.steps(
                self.options, self.method, self.optimizer, self.model, self.dataset, self.learning_rate, self.step
            )
            bar = tqdm(islice(steps, stop - self.step), self.way.method, stop - self.step, mininterval=1.0)
            for shown in bar:
                self.step += 1
                bar.set_postfix({key: f"{value:.3g}" for key, value in shown.items()}, refresh=False)
                if termination is not None and termination.came:
                    break
            if self.change and self.step == self.change:
                self.turn_spiking()
            if termination is not None and termination.came:
                break
        self.cpu_seconds += time.process_time() - start
        self.save()
        if termination is not None and termination.came:
            termination.end()

    def learning_rate(self, step: int) -> float:
        """The learning rate at a step, by the schedule of the options over the steps of its stage."""
        if step < self.change:
            return train_step.learning_rate(self.options.schedule, self.settings.lr, step / self.change)
        lr = self.settings.lr * (TUNING if self.change else 1)
        return train_step.learning_rate(self.options.schedule, lr, (step - self.change) / (self.total - self.change))

    def turn_spiking(self) -> None:
        """From the ReLU network to the method: weights scaled to the neurons' range, as train.py does."""
        train_model.to_range(self.model.eval(), self.images[:200], PERCENTILE)
        self.model.measure_batch_norm(self.images[:200])
        self.model.fit_output_threshold(self.images[:200])
        nets.start_at(self.model.net, self.settings.start)
        self.start_stage()

    def spiking(self) -> nn.Module:
        """The spiking network as it is now."""
        self.model.eval()
        if self.way.convert is not None or self.in_twin:
            return pk.convert(conversion.relu_network(self.model), self.images, **(self.way.convert or {}))
        if self.way.output == "after":
            with suppress(ValueError):  # a network that is silent so far has no scale; it ties, whatever its threshold
                self.model.fit_output_threshold(self.images[:200])
            nets.start_at(self.model.net, self.settings.start)
        return self.model.net

    def measure(self, images: Dataset, steps: list[int]) -> tuple[list[Point], float | None]:
        """Its points at given numbers of steps, and the accuracy of the ReLU network, if there is one."""
        curve = points(self.spiking(), images, steps, self.way.method)
        has_twin = self.way.method not in ("unrolled", "qcfs")
        return curve, ann_accuracy(self.model.ann, images) if has_twin else None

    @property
    def output_threshold(self) -> float:
        """The threshold of the last layer."""
        *_, last = (layer for layer in self.model.net.modules() if isinstance(layer, pk.layers.Fused))
        return float(last.v_threshold)

    def save(self) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            position = {"step": self.step, "cpu_seconds": self.cpu_seconds, "options": self.identity}
            checkpoint.save(self.folder, position, self.model, self.optimizer)

    def read(self) -> dict | None:
        """The checkpoint, with the model and the place restored from it; None: there is none."""
        if self.folder is None or not (self.folder / checkpoint.FILE).is_file():
            return None
        saved = checkpoint.read(self.folder)
        position = saved["position"]
        checkpoint.same_options(position["options"], self.identity)
        checkpoint.restore(saved, model=self.model)
        self.step, self.cpu_seconds = position["step"], position["cpu_seconds"]
        return saved
