"""The training of deep ReLU networks: the work of relu.py."""

import argparse
import time

import torch
import torch.nn.functional as F
from common import relu_networks, weights_file
from common.accuracy import ann_accuracy
from common.command import refusing
from common.machine import heading
from common.relu_networks import SEED
from common.tables import check_out, publish
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from tqdm import tqdm

BATCH = 128


def run(options: argparse.Namespace) -> None:
    with refusing("train.py relu"):
        check_out(options.out)
        train_set, test_set = (relu_networks.images(options.net, options.root, split) for split in ("train", "test"))
    path = options.out / relu_networks.file_of(options.net).name
    print(heading(f"{options.net}, random weights", f"{len(train_set[0])} training images", path))
    ann, start = relu_networks.random(options.net), time.process_time()
    with refusing("train.py relu"):
        train(ann, train_set, options)
    seconds = time.process_time() - start
    state = {key: value.half() if value.is_floating_point() else value for key, value in ann.state_dict().items()}
    ann.load_state_dict(state)  # as they are written
    accuracy = ann_accuracy(ann, TensorDataset(*test_set))
    about = {"net": options.net, "seed": SEED, "epochs": options.epochs, "lr": options.lr, "batch": BATCH}
    about |= {"precision": options.precision, "test_accuracy": f"{accuracy:.4f}", "cpu_seconds": f"{seconds:.0f}"}
    about |= {"torch": torch.__version__}
    publish(path, weights_file.content(state, {key: str(value) for key, value in about.items()}))
    print(f"{options.net}: {accuracy:.2%} of the test images right, {seconds:.0f} s of processor time; wrote {path}")


def train(ann: nn.Module, dataset: tuple[Tensor, Tensor], options: argparse.Namespace) -> None:
    """Some epochs, images mirrored at random.

    Raises:
        ValueError: the loss is not finite.
    """
    torch.manual_seed(SEED + 1)
    images, labels = dataset
    epochs, name, bfloat16 = options.epochs, options.net, options.precision == "bfloat16"
    ann.train()
    optimizer = torch.optim.Adam(ann.parameters(), options.lr)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    with tqdm(total=steps, desc=name, unit="batch", mininterval=0.5) as bar:
        for _ in range(epochs):
            for indices in torch.randperm(len(images))[: len(images) // BATCH * BATCH].split(BATCH):
                x = images[indices]
                x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
                with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                    outputs = ann(x)
                loss = F.cross_entropy(outputs.float(), labels[indices])
                if not loss.isfinite():
                    raise ValueError(f"the loss became {loss.item()} in step {bar.n + 1} of {name}; lower --lr")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
    ann.eval()
