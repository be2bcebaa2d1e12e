"""How the answers of a converted ImageNet network settle as steps go by: what imagenet.py does."""

import argparse
from datetime import date

import torch
from common import imagenet_models as models
from common import photographs
from common.command import refusing
from common.machine import heading
from common.printed import print_table
from common.tables import check_out, write_csv
from rich.console import Console
from torch import Tensor
from tqdm import tqdm

import proxykernels as pk
from images import picture
from images.contenders import speed
from images.settling import STEPS, Reading, correlation, readings

SURE = 0.5  # probability of the ReLU network's answer


def run(options: argparse.Namespace) -> None:
    with refusing("imagenet.py"):
        check_out(options.out)
    print(heading(f"{options.model}, converted", "photographs of packages", options.out))
    with refusing("imagenet.py"):
        model = models.load(options.model, options.state_dict)
    names, images = photographs.photographs(options.size)
    x = model.normalised(images)
    crops = model.normalised(photographs.crops(images, options.calibration))
    net = pk.convert(model.ann, torch.cat([x, crops]), method=options.method)
    with torch.no_grad():
        expected = model.ann(x)
    bar = tqdm(total=options.longest, unit="step", leave=False, disable=None)
    found: list[Reading] = []
    for reading in readings(net, x, [T for T in STEPS if T <= options.longest]):
        bar.update(reading.T - bar.n)
        found.append(reading)
    bar.close()
    shared = {
        "date": date.today().isoformat(), "net": model.name, "method": options.method, "size": options.size,
        "photographs": len(x), "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    rows = [agreement(reading, expected) for reading in found]
    answers = [row for reading in found for row in answers_of(reading, names, expected)]
    write_csv(options.out / "imagenet.csv", [*shared, *rows[0]], [shared | row for row in rows])
    write_csv(options.out / "imagenet_answers.csv", list(answers[0]), answers)
    console = Console()
    report(console, rows, answers, expected, found[-1].result)
    picture.draw(options.out)
    if options.speed_steps:
        timed = [shared | row for row in speed(net, x, options.speed_steps, options.repeats)]
        write_csv(options.out / "imagenet_speed.csv", list(timed[0]), timed)
        print_table(console, f"{len(x)} photographs, {options.speed_steps} steps", picture.SPEED_HEADINGS, [
            [str(row[key]) for key in picture.SPEED_COLUMNS] for row in timed
        ])  # fmt: skip


def agreement(reading: Reading, expected: Tensor) -> dict:
    """A row of imagenet.csv: how far the logits agree with those expected [N, classes]."""
    sure, classes = expected.softmax(1).max(1).values > SURE, expected.argmax(1)
    same, first_five = reading.logits.argmax(1) == classes, expected.topk(5).indices
    common = (reading.logits.topk(5).indices[:, :, None] == first_five[:, None]).sum((1, 2)).float().mean()
    return {
        "T": reading.T, "correlation": f"{correlation(reading.logits, expected).mean():.4f}",
        "correlation_of_all_steps": f"{correlation(reading.from_all, expected).mean():.4f}",
        "same_class": f"{int(same.sum())} of {len(expected)}",
        "same_class_of_sure": f"{int(same[sure].sum())} of {int(sure.sum())}", "common_of_first_five": f"{common:.2f}",
    }  # fmt: skip


def answers_of(reading: Reading, names: list[str], expected: Tensor) -> list[dict]:
    """Rows of imagenet_answers.csv: what each photograph shows, by the ReLU network and after T steps."""
    relu, spiking = expected.softmax(1), reading.logits.softmax(1)
    return [
        {
            "photograph": name, "T": reading.T, "relu_class": photographs.class_name(int(relu[k].argmax())),
            "relu_probability": f"{relu[k].max():.4f}",
            "probability_of_it": f"{spiking[k, relu[k].argmax()]:.4f}",
            "first_five": "; ".join(f"{photographs.class_name(int(c))} {spiking[k, c]:.4f}"
                                    for c in spiking[k].topk(5).indices),
        }
        for k, name in enumerate(names)
    ]  # fmt: skip


def report(console: Console, rows: list[dict], answers: list[dict], expected: Tensor, result) -> None:
    headings = ["T", "correlation", "of all steps", "same class", "of the sure", "common of the first 5"]
    columns = list(rows[0])
    title = "logits of the second half of the steps, against the ReLU network's"
    print_table(console, title, headings, [[str(row[key]) for key in columns] for row in rows])
    by_name: dict[str, list[dict]] = {}
    for answer in answers:
        by_name.setdefault(answer["photograph"], []).append(answer)
    print_table(console, "first class", ["photograph", "ReLU network", *(f"T = {row['T']}" for row in rows)], [
        [name, f"{row[0]['relu_class']} ({float(row[0]['relu_probability']):.0%})",
         *(answer["first_five"].split(";")[0].rsplit(" ", 1)[0] for answer in row)]
        for name, row in by_name.items()
    ], left=9)  # fmt: skip
    fires = list(result.rates.values())
    steps = int(result.steps[0])
    console.print(
        f"\nmean rate of the layers {sum(fires) / len(fires):.1%}; synaptic operations a step and photograph "
        f"{result.synops.total / steps / len(expected) / 1e6:.0f} million, "
        f"{result.synops.joules / steps / len(expected):.2g} J",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
