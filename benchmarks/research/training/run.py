"""A training run: stages of epochs of steps, which can be stopped and resumed at any step."""

import copy
import dataclasses
import resource
import time
from argparse import Namespace

import torch
from common import conversion, datasets, tables, twins
from common.accuracy import ann_accuracy, snn_accuracy
from common.machine import heading
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import proxykernels as pk
from training import checkpoint
from training import model as train_model
from training import step as train_step
from training.augment import augment
from training.checkpoint import Log, Termination
from training.methods import METHODS

MEASURED = 200  # images that the spiking network's normalisation, and its scales, are measured on
MEASURED_TWIN = 1000  # and its twin's, with averaged weights
STAGE_SEED = 1_000_003  # keeps the epochs of different stages apart: no stage has as many


@dataclasses.dataclass(frozen=True)
class Stage:
    """Epochs of one method (a name of METHODS), and its highest learning rate."""

    method: str
    epochs: int
    lr: float


@dataclasses.dataclass
class Place:
    """Where a run stands: the next step, the steps done in all, and the best accuracy on the held-out images."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    done: int = 0
    best: float = -1.0


class Run:
    """Data, model and place of one run; ``go`` carries it to its end."""

    def __init__(self, options: Namespace):
        self.options, self.place, self.termination = options, Place(), Termination()
        self.device = torch.device(options.device)
        self.shown: dict[str, float] = {}  # running means of an epoch's figures
        dataset, classes = datasets.load(options.data, options.root, "train")
        self.test_set, _ = datasets.load(options.data, options.root, "test")  # if missing: now, not after hours
        train_set, self.validation = datasets.held_out(dataset, options.validation)
        self.data = augment(train_set, options.augment, options.seed)
        self.steps = len(self.data) // options.batch  # an epoch's
        if not self.steps:
            raise ValueError(f"--batch must be at most the {len(self.data)} training images, got {options.batch}")
        self.images, _ = next(iter(DataLoader(train_set, MEASURED)))
        self.images = self.images.to(self.device)
        self.kind = train_model.kind_of(options, list(self.images.shape[1:]), classes)
        self.model = train_model.new(options, self.kind, self.images, self.device)
        self.average = self.new_average()
        self.weights = options.out / f"{options.net}.safetensors"
        self.stages = [Stage("ann", options.ann_epochs, options.ann_lr)] if options.init == "ann" else []
        self.stages.append(Stage(options.method, options.epochs, options.lr))

    def go(self) -> None:
        """Train to the end. SystemExit on SIGTERM and Ctrl-C, with a checkpoint; Breakdown if training cannot go on."""
        out = self.options.out
        saved = self.resume() if self.options.resume else None
        if saved is None and (out / checkpoint.FILE).exists():
            raise OSError(f"--out {out} holds a run already; go on with --resume, or give another --out")
        tables.check_out(out)
        self.say_what()
        # An epoch that ended, but was not measured to the end, will be measured again.
        self.log = Log(out, self.place.done - (self.place.step > 0))
        with self.termination:
            for index in range(self.place.stage, len(self.stages)):
                if index > self.place.stage:
                    self.model.load_state_dict(self.measured.state_dict())
                    train_model.rescale(self.options, self.model, self.images)
                    self.average = self.new_average()
                    self.place.stage, self.place.epoch, self.place.step, saved = index, 0, 0, None
                self.run_stage(self.stages[index], saved)
            self.termination.safe = True
            self.finish()

    def say_what(self) -> None:
        options, place = self.options, self.place
        training = f"{len(self.data)} training images of {options.data}"
        index, epoch, resumes = place.stage, place.epoch, []
        if epoch >= self.stages[index].epochs and index + 1 < len(self.stages):
            index, epoch = index + 1, 0
        if options.resume and epoch >= self.stages[index].epochs:
            resumes = ["has ended; give more --epochs to train on"]
        elif options.resume:
            step = f"step {place.step} of {self.steps} of epoch {epoch + 1}"
            resumes = [f"goes on at {step} of stage {self.stages[index].method}"]
        print(heading(f"{options.net} net", training, options.out, self.device, *resumes))

    def spiking(self, model: pk.ProxyNet, about: dict[str, str]) -> nn.Module:
        """What is measured of a model that a file with such metadata holds."""
        if train_model.is_twin_alone(about):
            images = conversion.calibration(self.data.dataset)
            return conversion.converted(model, images.to(self.device))
        return model.net

    def run_stage(self, stage: Stage, saved: dict | None) -> None:
        optimizer = train_step.make_optimizer(self.options, self.model, stage.lr)
        if saved is not None:
            checkpoint.restore(saved, optimizer=optimizer)
        while self.place.epoch < stage.epochs:
            start = clocks()
            self.run_epoch(stage, optimizer)
            self.save(optimizer)  # all that was learnt is safe while it is measured
            self.termination.safe = True
            self.place.epoch, self.place.step = self.place.epoch + 1, 0
            self.end_epoch(stage, start)
            self.shown = {}
            self.termination.safe = False
            self.save(optimizer)

    def run_epoch(self, stage: Stage, optimizer: torch.optim.Optimizer) -> None:
        """The rest of an epoch, with its figures in ``shown``."""
        options, place = self.options, self.place
        self.model.train()
        self.model.freeze_batch_norm(not self.statistics_learn(stage))
        method = METHODS[stage.method](self.model)
        self.data.epoch = place.stage * STAGE_SEED + place.epoch
        order = datasets.batches(len(self.data), options.batch, options.seed, self.data.epoch)
        loader = DataLoader(self.data, batch_sampler=order[place.step :], collate_fn=tuple)  # its data come in batches
        bar = tqdm(
            loader, f"{stage.method} {place.epoch + 1}/{stage.epochs}", self.steps, initial=place.step, unit="batch",
            mininterval=0.5,
        )  # fmt: skip
        for images, labels in bar:
            progress = (place.epoch * self.steps + place.step) / (stage.epochs * self.steps)
            for group in optimizer.param_groups:
                group["lr"] = train_step.learning_rate(options.schedule, stage.lr, progress)
            seed = hash((options.seed, place.done, 0)) & 0x7FFF_FFFF_FFFF_FFFF
            torch.manual_seed(seed)  # of Dropout: a resumed run draws what an unbroken one does
            figures = train_step.gradient(options, method, self.model, images.to(self.device), labels.to(self.device))
            train_step.watch(self.shown, figures, f"in epoch {place.epoch + 1} of stage {stage.method}")
            optimizer.step()
            if self.average is not None and place.done % train_model.AVERAGE_EVERY == 0:
                self.average.update_parameters(self.model)
            place.step, place.done = place.step + 1, place.done + 1
            bar.set_postfix({key: f"{value:.3g}" for key, value in self.shown.items()}, refresh=False)
            if self.termination.came:
                self.save(optimizer)
                self.termination.end()

    def new_average(self) -> train_model.AveragedModel | None:
        """The average of the weights over a stage's steps; None if none is wanted."""
        return train_model.average_of(self.model, self.options.average) if self.options.average else None

    @property
    def measured(self) -> pk.ProxyNet:
        """What is measured and published, and what the next stage starts from: the average, if there is one."""
        return self.model if self.average is None else self.average.module

    def statistics_learn(self, stage: Stage) -> bool:
        """Whether the normalisation's statistics learn in this epoch: always in the twin's own training."""
        first = self.options.init == "random" and self.place.epoch == 0
        return stage.method == "ann" or first or self.options.batch_norm == "always"

    def end_epoch(self, stage: Stage, start: dict[str, float]) -> None:
        """Measure both twins on the held-out images, log it, and publish the weights if they are the best so far.

        After an epoch of the twin alone, all of that is of its scaled weights, or, if no other method follows, the
        spiking network is the twin converted.
        """
        spent = {key: value - start[key] for key, value in clocks().items()}
        options, place, device, model = self.options, self.place, self.device, self.measured
        scaled = train_model.rescales(options) and stage.method == "ann" and place.stage < len(self.stages) - 1
        if self.statistics_learn(stage):
            if self.average is not None:
                images, _ = next(iter(DataLoader(self.data.dataset, MEASURED_TWIN)))
                train_model.measure_twin(model, images.to(device))
            if not scaled and (self.average is not None or stage.method == "ann"):
                model.measure_batch_norm(self.images)
        if scaled:
            model = copy.deepcopy(model)  # as the next stage will begin with it
            train_model.rescale(options, model, self.images)
        model = train_model.rounded(model)
        about = train_model.describe(options, self.kind)
        about |= {"statistics": "means"} if self.model.statistics_of == "means" else {}
        snn, rates = snn_accuracy(self.spiking(model, about), self.validation, options.T, device, self.model.precision)
        ann = ann_accuracy(model.ann, self.validation, device)
        self.log.add(
            {
                "stage": stage.method, "epoch": place.epoch, "step": place.done, "loss": self.shown.get("loss", ""),
                "snn": snn, "ann": ann, "mean_rate": sum(rates.values()) / len(rates), "rates": rates, **spent,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )  # fmt: skip
        tqdm.write(
            f"{stage.method} {place.epoch}/{stage.epochs}: spiking {snn:.2%}, ReLU twin {ann:.2%} of "
            f"{len(self.validation)} held-out images; firing rates "
            + ", ".join(f"{name} {rate:.1%}" for name, rate in rates.items())
        )
        if snn > place.best:
            place.best = snn
            about["validation_accuracy"] = f"{snn:.4f}"
            train_model.save(self.weights, model.net, model.statistics, about)

    def finish(self) -> None:
        """Measure the best weights on the test images, once, and record that with them."""
        model, _, about = twins.load(self.weights)
        model.to(self.device)
        net = self.spiking(model, about)
        snn, _ = snn_accuracy(net, self.test_set, self.options.T, self.device, self.model.precision)
        ann = ann_accuracy(model.ann, self.test_set, self.device)
        about |= {"test_accuracy": f"{snn:.4f}", "twin_test_accuracy": f"{ann:.4f}"}
        train_model.save(self.weights, model.net, model.statistics, about)
        print(
            f"{self.weights}: {snn:.2%} of {len(self.test_set)} test images at T = {self.options.T} (a tie is wrong), "
            f"ReLU twin {ann:.2%}"
        )

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        position = dataclasses.asdict(self.place) | {"shown": self.shown, "options": identity(self.options)}
        checkpoint.save(self.options.out, position, self.model, optimizer, self.average)

    def resume(self) -> dict:
        """Restore model and place from the checkpoint in --out; returns it, for the optimizer."""
        saved = checkpoint.read(self.options.out)
        position = saved["position"]
        checkpoint.same_options(position["options"], identity(self.options))
        checkpoint.restore(saved, model=self.model, average=self.average)
        if position["best"] >= 0 and not self.weights.is_file():
            raise FileNotFoundError(f"{self.weights}, the run's best weights, is missing; start again in another --out")
        self.place = Place(**{field.name: position[field.name] for field in dataclasses.fields(Place)})
        self.shown = position["shown"]
        return saved


def clocks() -> dict[str, float]:
    """Wall time, and processor time of this process on all its threads."""
    return {"seconds": time.perf_counter(), "cpu_seconds": time.process_time()}


def identity(options: Namespace) -> dict:
    """The options that a resumed run must share with the one that wrote its checkpoint; the epochs may be others."""
    free = {"out", "resume", "root", "device", "preset", "epochs", "ann_epochs"}
    return {key: value for key, value in sorted(vars(options).items()) if key not in free}


def run(options: Namespace) -> None:
    """Train; what goes wrong ends in one sentence."""
    try:
        Run(options).go()
    except (ValueError, OSError, train_step.Breakdown) as error:
        raise SystemExit(f"train.py: {error}") from error
