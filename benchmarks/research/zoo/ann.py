"""The small network as an ordinary ReLU network, trained on Fashion-MNIST: what conversion starts from.

The shipped weights were made by

    cd benchmarks/research && PYTHONPATH=.. python -m zoo.ann
"""

from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
import torch
import torch.nn.functional as F
from common.accuracy import ann_accuracy
from common.command import command
from common.data import fashion_mnist
from common.printed import new_parser
from safetensors.torch import save_file
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from proxykernels import samples

PATH = samples.FOLDER / "relu_network.safetensors"


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--root", type=Path, help="folder of Fashion-MNIST")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    images, labels = fashion_mnist("train", options.root)
    ann = samples.untrained_relu_network()
    loader = DataLoader(TensorDataset(images, labels), 128, shuffle=True)
    optimizer = torch.optim.Adam(ann.parameters(), options.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2 * options.lr, options.epochs * len(loader))
    for epoch in range(options.epochs):
        for images, labels in tqdm(loader, f"epoch {epoch + 1}/{options.epochs}", unit="batch"):
            flip = torch.rand(len(images), 1, 1, 1) < 0.5
            loss = F.cross_entropy(ann(torch.where(flip, images.flip(3), images)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    state = {key: tensor.half() for key, tensor in ann.eval().state_dict().items()}
    ann.load_state_dict(state)  # measured as they are stored
    measured = ann_accuracy(ann, TensorDataset(*fashion_mnist("test", options.root)))
    save_file(state, PATH, {"test_accuracy": f"{measured:.4f}"})
    print(f"wrote {PATH}: {measured:.2%} of the test images")


if __name__ == "__main__":
    command(main)
