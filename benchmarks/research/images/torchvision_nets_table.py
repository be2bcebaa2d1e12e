"""torchvision's networks as spiking ones, exactness, rates and speed: the work of torchvision_nets.py."""

import argparse
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from common import figures
from common.command import refusing
from common.machine import heading
from common.tables import check_out, read_csv, save_figure, write_csv
from speed.timing import Contender, measure
from torch import Tensor, nn
from torchvision import models

import proxykernels as pk
from images.network_loop import output_counts
from proxykernels import samples

METHODS = ("max", "percentile")
STEPS = (8, 16, 32, 64, 128, 256, 512, 1024)  # at which rates are read
CALIBRATION_IMAGES = 32
WEIGHT_GRID, IMAGE_GRID = 2**-8, 2**-4  # sums of some thousand weights times pixels have under 24 bits
DRAWN = ("net", "method", "T", "relative_error", "images", "size")
MEASURED = ("net", "size", "batch", "T", "threads")  # what a row of the speeds is of


def run(options: argparse.Namespace) -> int:
    """Returns the exit status: 1 if a network is not equal to the step loop."""
    with refusing("imagenet.py torchvision"):
        if options.batch > samples.SIZE - CALIBRATION_IMAGES:
            most = samples.SIZE - CALIBRATION_IMAGES
            raise ValueError(f"--batch must be at most {most} of the images that are shipped, got {options.batch}")
        check_out(options.out)
    images_are = f"{options.batch} Fashion-MNIST images of {options.size} x {options.size} pixels"
    print(heading(f"{', '.join(options.nets)}, random weights", images_are, options.out))
    sample = real_images(options.size)
    calibration, images = sample[:CALIBRATION_IMAGES], sample[CALIBRATION_IMAGES:][: options.batch]
    unequal, rates, times = [], [], []
    for name in options.nets:
        ann = random_network(name, calibration)
        if "equality" in options.parts and not equal_to_the_step_loop(name, ann, calibration, images, options.T):
            unequal.append(name)
        if "rates" in options.parts:
            rates += [row for method in METHODS for row in rate_errors(name, ann, method, calibration, images, options)]
        if "speed" in options.parts:
            times.append(speed(name, ann, calibration, images, options))
        if times:
            write_speed(options.out / "torchvision_speed.csv", times)
        if rates:
            write_csv(options.out / "torchvision_rates.csv", list(rates[0]), rates)
    if rates:
        draw(options.out)
        print(f"wrote {options.out / 'torchvision_rates.png'}")
    return 1 if unequal else 0


def real_images(size: int) -> Tensor:
    """Test images of Fashion-MNIST in three equal channels: [256, 3, size, size]."""
    images = F.interpolate(pk.samples.fashion_mnist()[0], size, mode="bilinear", antialias=True)
    return images.expand(-1, 3, -1, -1).contiguous()


def random_network(name: str, images: Tensor) -> nn.Module:
    """torchvision's network with random weights, in evaluation mode; its normalisations have seen the images."""
    torch.manual_seed(0)
    ann = getattr(models, name)(num_classes=10)
    for module in ann.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # running statistics are those of the one batch that follows
    with torch.no_grad():
        ann.train()(images)
    return ann.eval()


def equal_to_the_step_loop(name: str, ann: nn.Module, calibration: Tensor, images: Tensor, T: int) -> bool:
    """Print whether the converted network with rounded weights gives the step loop's counts."""
    net = pk.convert(ann, calibration)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_((parameter / WEIGHT_GRID).round() * WEIGHT_GRID)
    images = (images / IMAGE_GRID).round() * IMAGE_GRID
    result = pk.simulate(net, images, T)
    counts, expected = result.count(), output_counts(net, images, T).int()
    equal = torch.equal(counts, expected)
    print(
        f"{name}, weights rounded to 1/{round(1 / WEIGHT_GRID)}, T = {T}: {counts.sum()} output spikes; "
        f"{'all counts equal' if equal else f'{(counts != expected).sum()} of {counts.numel()} counts differ from'} "
        "the step loop's"
    )
    return equal


def rate_errors(name: str, ann: nn.Module, method: str, calibration: Tensor, images: Tensor, options) -> list[dict]:
    """Mean |rate - ReLU output| over the mean ReLU output, after several numbers of steps of one run."""
    net = pk.convert(ann, calibration, method=method)
    with torch.no_grad():
        scale = ann(calibration).max()
        outputs = ann(images).relu() / scale
    result = pk.simulate(net, images, options.longest)
    rows = []
    for T in (t for t in STEPS if t <= options.longest):
        rates = result.count(until=T) / T
        error = ((rates - outputs).abs().mean() / outputs.mean()).item()
        same = (rates.argmax(1) == outputs.argmax(1)).float().mean().item()
        rows.append({
            "net": name, "method": method, "T": T, "relative_error": f"{error:.5f}", "same_class": f"{same:.3f}",
            "images": len(images), "size": options.size,
        })  # fmt: skip
    table = "  ".join(f"T={row['T']}: {float(row['relative_error']):.1%}" for row in rows)
    print(f"{name}, {method}: rates are off the ReLU network's outputs by {table}")
    return rows


def speed(name: str, ann: nn.Module, calibration: Tensor, images: Tensor, options: argparse.Namespace) -> dict:
    """Print the time an image of pk.simulate, of the engine and of the step loop; returns a row for the table."""
    net, rates = pk.convert(ann, calibration), {}
    engine = pk.compile(net, images)

    def ours(T: int) -> Tensor:
        result = pk.simulate(net, images, T)
        rates.update(result.rates)
        return result.count()

    contenders = [
        Contender("proxykernels", "pk.simulate", pk.__version__, ours, steady=False),  # chunks grow
        Contender("engine", "pk.compile", pk.__version__, lambda T: engine(images, T).count()),
        Contender("step loop", "channels last, in place", torch.__version__, lambda T: output_counts(net, images, T)),
    ]
    measured = measure(
        contenders, options.T, images.device, deadline=0.0, share=1.0, repeats=options.repeats,
        progress=lambda what, left: None,
    )  # fmt: skip
    milliseconds = [1e3 * m.median_s / len(images) for m in measured]
    megabytes = ["" if m.peak_bytes is None else round(m.peak_bytes / 2**20) for m in measured]
    loop = milliseconds[-1]
    different = int((measured[0].counts != measured[-1].counts).sum())
    mean_rate = sum(rates.values()) / len(rates)
    print(
        f"{name}, {len(images)} images of {options.size} x {options.size}, T = {options.T}, soft reset, "
        f"{torch.get_num_threads()} threads: {milliseconds[0]:.1f} ms an image, engine {milliseconds[1]:.1f}, "
        f"step loop {loop:.0f} ({loop / milliseconds[0]:.1f} and {loop / milliseconds[1]:.1f} times as long); "
        f"mean rate of the layers {mean_rate:.1%}; "
        f"{different} of {measured[0].counts.numel()} counts differ, by rounding; at the peak {megabytes[0]} and "
        f"{megabytes[-1]} MB beyond the network"
    )
    return {
        "date": date.today().isoformat(), "net": name, "size": options.size, "batch": len(images), "T": options.T,
        "threads": torch.get_num_threads(), "ms_an_image": f"{milliseconds[0]:.1f}",
        "engine_ms_an_image": f"{milliseconds[1]:.1f}", "step_loop_ms_an_image": f"{loop:.1f}",
        "peak_mb": megabytes[0], "step_loop_peak_mb": megabytes[-1], "mean_rate": f"{mean_rate:.4f}",
        "counts_different": different, "repeats": options.repeats, "torch": torch.__version__,
    }  # fmt: skip


def write_speed(path: Path, times: list[dict]) -> None:
    """The rows, in place of those that were measured of the same before, and beside the others."""
    same = {tuple(str(row[key]) for key in MEASURED) for row in times}
    kept = [row for row in read_csv(path) if tuple(row[key] for key in MEASURED) not in same]
    write_csv(path, list(times[0]), [*kept, *times])


def draw(folder: Path) -> None:
    """The error of the rates against T, both logarithmic, from the table."""
    rows = read_csv(folder / "torchvision_rates.csv", DRAWN)
    figure, (axes,) = figures.new_figure(5.0)
    lines = {}
    for row in rows:
        lines.setdefault(f"{row['net']}, {row['method']}", []).append(
            (int(row["T"]), 100 * float(row["relative_error"]))
        )
    for name, points in lines.items():
        axes.loglog(*zip(*points, strict=True), marker="o", markersize=5, **figures.line(name))
    steps = sorted({int(row["T"]) for row in rows})
    end = min(points[-1][1] for points in lines.values())
    axes.plot(steps, [end * steps[-1] / T for T in steps], color=figures.GRAY, linestyle=":", label="1 / T")
    figures.ticks(axes.xaxis, steps)
    errors = [error for points in lines.values() for _, error in points]
    axes.set_ylim(min(errors) / 1.3, max(errors) * 1.3)
    figures.plain_numbers(axes.yaxis, min(errors) / 1.3, max(errors) * 1.3)
    axes.set(xlabel="steps T", ylabel="mean error of the rates,\n% of the mean output")
    figures.legend(figure, axes)
    sentence = f"After {steps[-1]} steps the best rates are off by {end:.1f} % of the mean output"
    images = f"{rows[0]['images']} real images of {rows[0]['size']} x {rows[0]['size']} pixels"
    figures.title(figure, sentence, f"against the ReLU network's outputs; {images}, random weights")
    save_figure(folder / "torchvision_rates.png", figure)
