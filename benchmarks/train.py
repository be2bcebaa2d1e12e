"""Train a network by proxy on Fashion-MNIST, and save its weights for the benchmarks.

The shipped small network was made by

    python benchmarks/train.py --net small

Two stages, both with the mean squared error to a firing rate of 0.5 for the true class and 0 for the others:
1. warm-up: the ReLU twin alone, clipped where an IF neuron saturates, so that its activations are firing rates;
2. proxy: the spiking network's rates make the loss, and the twin carries its gradient back (ProxyNet).
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from accuracy import evaluate
from data import fashion_mnist
from nets import NETS, WEIGHTS
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2
from tqdm import tqdm

import proxykernels as pk

TARGET_RATE = 0.5  # of the true class's neuron: within what an IF neuron can do, and far from silence


def main() -> None:
    options = parse_options()
    torch.manual_seed(options.seed)
    images, labels = fashion_mnist("train", options.data)
    test_images, test_labels = fashion_mnist("test", options.data)
    net = NETS[options.net](v_threshold=1.0)
    model = pk.ProxyNet(net, options.T, clip=True)
    loader = DataLoader(TensorDataset(images, labels), options.batch, shuffle=True)

    def report(stage: str) -> float:
        accuracy, rates = evaluate(net, test_images, test_labels, options.T)
        rates = ", ".join(f"{name} {rate:.1%}" for name, rate in rates.items())
        tqdm.write(
            f"{stage}: {accuracy:.2%} of the test images at T = {options.T} (a tie is wrong); firing rates {rates}"
        )
        return accuracy

    for stage, output, epochs, rate in (
        ("warm-up", model.ann, options.warmup, options.lr),
        ("proxy", lambda x: model(x) / options.T, options.epochs, options.lr / 3),
    ):
        train(stage, output, net, loader, epochs, rate)
        report(stage)
    round_to_half(net)
    accuracy = report("saved weights")
    save(net, options, accuracy)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=sorted(NETS), default="small")
    parser.add_argument("--warmup", type=int, default=3, help="epochs of the ReLU twin alone")
    parser.add_argument("--epochs", type=int, default=3, help="epochs by proxy")
    parser.add_argument("--T", type=int, default=32, help="time steps of the spiking network")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of the warm-up; a third of it by proxy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="folder with Fashion-MNIST's IDX files")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder for <net>.safetensors")
    return parser.parse_args()


def train(
    stage: str, output: Callable[[Tensor], Tensor], net: nn.Module, loader: DataLoader, epochs: int, rate: float
) -> None:
    """Adam, with a cosine schedule to 0, on ``output(images)``: rates [N, classes]; images are mirrored at random."""
    optimizer = torch.optim.Adam(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs * len(loader)))
    mirror = v2.RandomHorizontalFlip()
    for epoch in range(epochs):
        bar = tqdm(loader, f"{stage} {epoch + 1}/{epochs}", unit="batch", mininterval=0.5)
        for images, labels in bar:
            images = torch.stack([mirror(image) for image in images])
            target = TARGET_RATE * F.one_hot(labels, 10)
            loss = F.mse_loss(output(images), target.float())
            if not torch.isfinite(loss):
                raise SystemExit(f"the loss became {loss.item()} in {stage} epoch {epoch + 1}; lower --lr")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.4f}")


@torch.no_grad()
def round_to_half(net: nn.Module) -> None:
    """Round the weights to float16, as they are stored, so that the accuracy recorded is that of the file."""
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())


def save(net: nn.Module, options: argparse.Namespace, accuracy: float) -> None:
    """Write <net>.safetensors under a temporary name, then rename: never half a file."""
    path = options.out / f"{options.net}.safetensors"
    options.out.mkdir(parents=True, exist_ok=True)
    state = {key: t.half() if t.is_floating_point() else t for key, t in net.state_dict().items()}
    metadata = {
        "v_threshold": "1.0",
        "T": str(options.T),
        "test_accuracy": f"{accuracy:.4f}",
        "seed": str(options.seed),
    }
    temporary = path.with_suffix(".tmp")
    save_file({key: t.contiguous() for key, t in state.items()}, temporary, metadata)
    os.replace(temporary, path)
    print(f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB, {accuracy:.2%}")


if __name__ == "__main__":
    main()
