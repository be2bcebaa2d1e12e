"""Accuracy against the number of steps: the trained ReLU network converted by each method, and the proxy-trained net.

    python benchmarks/anytime.py

Every curve is one simulation, read at every step. Then early exit: how many steps the proxy-trained and a converted
network take on average if each image stops when its first class leads by a margin. Writes results/anytime.csv,
results/early_exit.csv and a plot. Accuracy is strict: a tie is wrong.
"""

import argparse
import csv
import time
from pathlib import Path

import ann as relu
import nets
import torch
from data import fashion_mnist
from torch import Tensor, nn
from tqdm import tqdm

import proxykernels as pk

RESULTS = Path(__file__).parent / "results"
STEPS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
LEADS = (2, 3, 4, 5, 6, 8, 10, 12)
BATCH = 50
EXIT_STEPS, EXIT_CHUNK = 64, 2  # steps without early exit, and steps between two looks
CALIBRATION_IMAGES = 1000


def networks() -> dict[str, nn.Module]:
    """The networks by the names of their curves."""
    calibration = fashion_mnist("train")[0][:CALIBRATION_IMAGES]
    result = {"proxy-trained, hard reset": nets.load("small", 0.0)[0]}
    for method in ("max", "percentile"):
        for v_init, start in ((0.0, ""), (0.5, ", half a threshold to start")):
            net = pk.convert(relu.load(), calibration, method=method, v_init=v_init)
            result[f"converted, {method}{start}"] = net
    return result


def curve(net: nn.Module, images: Tensor, T: int, name: str) -> pk.Spikes:
    """The output spikes of all images."""
    parts = [pk.simulate(net, part, T).spikes.dense(torch.bool) for part in tqdm(images.split(BATCH), name)]
    return pk.pack(torch.cat(parts, 1))


def early_exit(net: nn.Module, images: Tensor, labels: Tensor, lead: float | None) -> dict:
    """Strict accuracy, mean steps and time of a run with a margin (None: without early exit)."""
    start, counts, steps = time.perf_counter(), [], []
    for part in images.split(BATCH):
        stop = None if lead is None else pk.margin(lead)
        result = pk.simulate(net, part, EXIT_STEPS, chunk=EXIT_CHUNK if stop else None, stop=stop)
        counts.append(result.count())
        steps.append(result.steps)
    seconds = time.perf_counter() - start
    counts, steps = torch.cat(counts), torch.cat(steps)
    true = counts.gather(1, labels.unsqueeze(1))
    rivals = counts.scatter(1, labels.unsqueeze(1), -1).amax(1, keepdim=True)
    return {
        "margin": lead or "none",
        "accuracy": f"{(true > rivals).float().mean():.4f}",
        "mean_steps": f"{steps.float().mean():.2f}",
        "ms_an_image": f"{1e3 * seconds / len(images):.2f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500, help="test images for the curves")
    parser.add_argument("--exit-images", type=int, default=2000, help="test images for early exit")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    images, labels = fashion_mnist("test")
    n = options.images
    nets_by_name = networks()
    spikes = {name: curve(net, images[:n], STEPS[-1], name) for name, net in nets_by_name.items()}
    ax = pk.plot.accuracy_vs_T(spikes, labels[:n])
    ax.axhline(100 * relu.accuracy(relu.load(), images[:n], labels[:n]), color="black", linestyle=":", linewidth=1)
    ax.set(xlim=(4, STEPS[-1]), ylim=(60, 95), title=f"{n} Fashion-MNIST test images; dotted: the ReLU network")
    ax.figure.savefig(options.out / "anytime.png", dpi=120)
    rows = []
    for name, train in spikes.items():
        accuracy = pk.plot.accuracy(train, labels[:n])
        rows += [{"network": name, "T": T, "accuracy": f"{accuracy[T - 1]:.4f}", "images": n} for T in STEPS]
    write(options.out / "anytime.csv", rows)
    m, rows = options.exit_images, []
    for name in ("proxy-trained, hard reset", "converted, percentile, half a threshold to start"):
        for lead in (None, *LEADS):
            row = {"network": name, **early_exit(nets_by_name[name], images[:m], labels[:m], lead), "images": m}
            tqdm.write(str(row))
            rows.append(row)
    write(options.out / "early_exit.csv", rows)


def write(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
