"""Train a spiking network, by proxy or by another method, and save its weights for the benchmarks.

The shipped small network and the paper's network on Fashion-MNIST are made by

    python benchmarks/train.py --net small --out benchmarks/weights
    python benchmarks/train.py --net paper-fashion --out runs/paper --ann-epochs 8 --epochs 2 --precision bfloat16

Stages: the ReLU twin alone (--init ann), clipped where an IF neuron saturates, so that its activations are firing
rates; then --method, by default proxy: the spiking network's rates make the loss, and the twin carries its gradient
back. --out holds <net>.safetensors (the best weights so far), checkpoint.json with its tensors, and log.csv. A run that
was stopped goes on with --resume. Several processes share each batch under torchrun:

    torchrun --nproc-per-node 2 benchmarks/train.py --net small
"""

import copy
import os
import resource
from argparse import Namespace

import nets
import torch
import train_checkpoint as checkpoint
import train_data
import train_loop
import train_options
from accuracy import strict_accuracy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from train_log import Log
from train_loop import Stage, Workers

import proxykernels as pk

MEASURED = 200  # images that the spiking network's normalisation is measured on after a stage of the twin alone


def main(arguments: list[str] | None = None) -> None:
    options = train_options.parse(arguments)
    try:
        with_workers(options)
    except (ValueError, OSError) as error:
        raise SystemExit(f"train.py: {error}") from error


def with_workers(options: Namespace) -> None:
    """Run in one process, or as one of torchrun's."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank, device = int(os.environ.get("RANK", "0")), torch.device(options.device)
    if options.batch % world:
        raise ValueError(f"--batch must be a multiple of the {world} processes, got {options.batch}")
    if world > 1:
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        Run(options, Workers(rank, world, device)).go()
    finally:
        if world > 1:
            torch.distributed.destroy_process_group()


class Run:
    """One training run: its data, its model, and where it stands."""

    def __init__(self, options: Namespace, workers: Workers):
        self.options, self.workers = options, workers
        dataset, classes, size = train_data.load(options.data, options.root, "train")
        train_set, self.validation = train_data.held_out(dataset, options.validation)
        self.data = train_data.augment(train_set, options.augment, size, options.seed)
        torch.manual_seed(options.seed)
        v_reset = 0.0 if options.reset == "hard" else None
        self.net = nets.TRAINABLE[options.net](v_threshold=options.threshold, v_reset=v_reset)
        self.net.to(workers.device, memory_format=torch.channels_last)
        self.model = pk.ProxyNet(self.net, options.T, clip=options.twin == "clipped", readout="rate")
        self.stages = [Stage("ann", options.ann_epochs, options.ann_lr)] if options.init == "ann" else []
        self.stages.append(Stage(options.method, options.epochs, options.lr))
        self.steps = len(self.data) // options.batch  # an epoch's
        self.stage, self.epoch, self.step, self.done, self.best = 0, 0, 0, 0, -1.0
        self.termination = train_loop.Termination()

    def go(self) -> None:
        saved = self.resume() if self.options.resume else None
        self.log = Log(self.options.out, self.done, self.options.tensorboard) if self.workers.rank == 0 else None
        while self.stage < len(self.stages):
            self.run_stage(self.stages[self.stage], saved)
            saved = None
            self.stage, self.epoch, self.step = self.stage + 1, 0, 0
        if self.workers.rank == 0:
            self.finish()

    def run_stage(self, stage: Stage, saved: tuple[dict, dict[str, Tensor]] | None) -> None:
        optimizer, factor = train_loop.make_optimizer(stage, self.options, self.model, stage.epochs * self.steps)
        if saved is not None and saved[0]["groups"]:
            checkpoint.restore_optimizer(optimizer, *saved)
        epochs = train_loop.Epoch(self.options, self.workers, self.termination)
        while self.epoch < stage.epochs:
            first_of_stage = self.epoch == 0 or self.options.batch_norm == "always"
            self.model.freeze_batch_norm(stage.method != "ann" and not first_of_stage)
            self.model.train()
            start = train_loop.now()
            shown: dict[str, float] = {}
            for self.step, shown in epochs.run(stage, self.epoch, self.step, self.data, self.model, optimizer, factor):
                self.done += 1
                if self.workers.any(self.termination.asked):
                    self.step += 1
                    self.save(optimizer)
                    raise SystemExit(143)
            self.epoch, self.step = self.epoch + 1, 0
            if self.workers.rank == 0:
                self.report(stage, shown, start, optimizer.param_groups[0]["lr"])
            self.save(optimizer)

    def report(self, stage: Stage, shown: dict[str, float], start: dict[str, float], lr: float) -> None:
        """Measure both twins on the held-out images, log it, and publish the weights if they are the best so far."""
        spent = {key: value - start[key] for key, value in train_loop.now().items()}
        self.model.eval()
        if stage.method == "ann":
            self.model.measure_batch_norm(next(iter(DataLoader(self.validation, MEASURED)))[0].to(self.workers.device))
        net = rounded(self.net)
        snn, rates = measure(net, self.validation, self.options.T, self.workers.device)
        ann = ann_accuracy(self.model, self.validation, self.workers.device)
        row = {"stage": stage.method, "epoch": self.epoch, "step": self.done, "lr": lr, "snn": snn, "ann": ann}
        row |= {"loss": shown.get("loss", float("nan")), "mean_rate": sum(rates.values()) / len(rates), "rates": rates}
        row |= spent | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        self.log.add(row)
        tqdm.write(
            f"{stage.method} {self.epoch}/{stage.epochs}: spiking {snn:.2%}, ReLU twin {ann:.2%} of {len(self.validation)} "
            f"held-out images; firing rates " + ", ".join(f"{name} {rate:.1%}" for name, rate in rates.items())
        )
        if snn > self.best:
            self.best = snn
            self.publish(net, {"validation_accuracy": f"{snn:.4f}"})

    def publish(self, net: nn.Module, accuracy: dict[str, str]) -> None:
        """Write <net>.safetensors: float16, with what evaluate.py needs to know."""
        options = self.options
        state = {key: t.half() if t.is_floating_point() else t for key, t in net.state_dict().items()}
        metadata = {"net": options.net, "v_threshold": str(options.threshold), "reset": options.reset}
        metadata |= {"T": str(options.T), "seed": str(options.seed), **accuracy}
        checkpoint.write_tensors(options.out / f"{options.net.split('-')[0]}.safetensors", state, metadata)

    def finish(self) -> None:
        """Measure the published weights on the test images, and record it with them."""
        pass

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        if self.workers.rank == 0:
            train_loop.save(
                self.options, self.stage, self.epoch, self.step, self.done, self.best, self.model, optimizer
            )

    def resume(self) -> tuple[dict, dict[str, Tensor]]:
        """Restore model and place from the checkpoint in --out; returns it, for the optimizer."""
        position, tensors = checkpoint.read(self.options.out)
        checkpoint.restore_model(self.model, tensors)
        for key in ("stage", "epoch", "step", "done", "best"):
            setattr(self, key, position[key])
        return position, tensors


@torch.no_grad()
def rounded(net: nn.Module) -> nn.Module:
    """A copy with the weights rounded to float16, as they are stored, so that what is measured is the file."""
    net = copy.deepcopy(net).eval()
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())
    return net


def measure(net: nn.Module, dataset: Dataset, T: int, device: torch.device) -> tuple[float, dict[str, float]]:
    """Strict accuracy and firing rates of the spiking network."""
    counts, labels, rates = [], [], []
    for images, truth in DataLoader(dataset, 100):
        result = pk.simulate(net, images.to(device), T)
        counts.append(result.count().cpu())
        labels.append(truth)
        rates.append(result.rates)
    mean_rates = {name: sum(rate[name] for rate in rates) / len(rates) for name in rates[0]}
    return strict_accuracy(torch.cat(counts), torch.cat(labels)), mean_rates


@torch.no_grad()
def ann_accuracy(model: pk.ProxyNet, dataset: Dataset, device: torch.device) -> float:
    """Accuracy of the ReLU twin."""
    correct = [
        (model.ann(images.to(device)).argmax(1).cpu() == labels).float() for images, labels in DataLoader(dataset, 250)
    ]
    return torch.cat(correct).mean().item()


if __name__ == "__main__":
    main()
