"""docs/few_steps.md says what its tables of figures hold."""

import re

import pytest
from common.checkout import RESULTS
from common.tables import read_csv
from speed import levels

PAGE = (RESULTS.parents[1] / "docs" / "few_steps.md").read_text()
NETS = {
    "resnet20": "ResNet-20", "small": "small", "paper": "paper's", "lite0": "EfficientNet-Lite0",
    "vgg11-cifar10": "VGG-11, CIFAR-10, neurons before the pooling",
}  # fmt: skip
NAMES = {
    "resnet20": "ResNet-20", "resnet20-cifar10": "ResNet-20, CIFAR-10", "vgg11-cifar10": "VGG-11, CIFAR-10",
    "small": "small", "paper": "paper's",
}  # fmt: skip
WAYS = {
    "float32": "one pass, float32", "8 bits": "one pass, 8 bits", "4 bits": "one pass, 4 bits",
    "two signed powers": "one pass, two signed powers",
}  # fmt: skip


def joules(net: str, neurons: str, T: str | None = "") -> float:
    """Arithmetic and neurons; ``T`` None: of any."""
    (row,) = (
        row for row in read_csv(RESULTS / "few_steps_sigma_delta.csv")
        if row["net"] == net and row["neurons"] == neurons and T in (None, row["T"])
    )  # fmt: skip
    return float(row["arithmetic_uj"]) + float(row["neurons_uj"])


@pytest.mark.parametrize("net", NETS)
def test_energies_are_those_of_the_table(net):
    ours = "sigma-delta, K = 9"
    dense, skipped = (f"{joules(net, name):,.0f}" for name in ("ReLU", "ReLU, zeros skipped"))
    (line,) = re.findall(rf"^\| {re.escape(NETS[net])} \({dense}, {skipped}\) \|.*$", PAGE, re.MULTILINE)
    wanted = [joules(net, ours, "2"), joules(net, ours, "4"), joules(net, f"{ours}, settled", None)]
    assert [cell.strip() for cell in line.split("|")[-5:-1]] == [
        f"{value:,.0f}" for value in (*wanted, joules(net, "IF", "128"))
    ]


def accuracies() -> str:
    """What the page has of against_relu_*.csv: of all test images, sigma-delta neurons and IF neurons by logits."""
    lines = ["| | ReLU network | T = 1 | 2 | 3 | 4 | IF, T = 4 | 8 | 16 |", f"|{'---|' * 9}"]
    for net, name in NAMES.items():
        rows = levels.of_batch(read_csv(RESULTS / f"against_relu_{net}.csv"), "1")
        shown = [levels.reference(rows), *levels.line(rows, levels.SIGMA_DELTA, "float32")]
        shown += [row for row in levels.line(rows, levels.IF, "float32") if row["T"] in ("4", "8", "16")]
        lines.append(f"| {name} | {' | '.join(row['right'] for row in shown)} |")
    return "\n".join(lines)


def test_accuracies_are_those_of_the_tables():
    assert accuracies() in PAGE, accuracies()


@pytest.mark.parametrize("net", NAMES)
def test_early_exit_is_that_of_the_table(net):
    rows = [row for row in read_csv(RESULTS / "few_steps_sigma_delta.csv") if row["net"] == net]
    (row,) = (row for row in rows if row["neurons"] == "sigma-delta, K = 9, settled")
    (whole,) = (each for each in rows if (each["neurons"], each["T"]) == ("sigma-delta, K = 9", "8"))
    cells = row["T"], int(row["images"]), 100 * float(row["right"]), 100 * float(whole["right"])
    assert "| {} | {} | {:,} | {:.2f} | {:.2f} |".format(NAMES[net], *cells) in PAGE


def test_shares_of_a_pass_are_those_of_the_table():
    ours, nets = ("sigma-delta, K = 9", "4"), ("resnet20", "resnet20-cifar10", "small", "paper")
    for name, text in (("ReLU", "{} to {} of a dense pass"), ("ReLU, zeros skipped", "{} to {} of a")):
        shares = [joules(net, *ours) / joules(net, name) for net in nets]
        assert text.format(f"{min(shares):.2f}", f"{max(shares):.2f}") in PAGE.replace("\n", " ")
    vgg = [joules("vgg11-cifar10", *ours) / joules("vgg11-cifar10", name) for name in ("ReLU", "ReLU, zeros skipped")]
    assert f"{vgg[0]:.2f} for VGG-11 as of the former commit, and {vgg[1]:.2f} of" in PAGE


def test_controls_are_those_of_the_table():
    rows = [row for row in read_csv(RESULTS / "few_steps_controls.csv") if row["net"] == "resnet20"]
    assert len(rows) == 15
    for row in rows:
        name = WAYS.get(row["sent_as"]) or f"sigma-delta, T = {row['T']}"
        (line,) = re.findall(rf"^\| {re.escape(name)} \|.*$", PAGE, re.MULTILINE)
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        right, energy = f"{100 * float(row['right']):.1f}", f"{float(row['arithmetic_uj']):.1f}"
        if row["weights"] == "int8":
            assert cells[5:] == [right, energy]
        else:
            messages, bits = f"{float(row['messages_a_neuron']):.2f}", f"{float(row['bits_a_neuron']):.1f}"
            assert cells[:5] == [messages, row["bits_a_message"], bits, right, energy]


SHOWN = {
    "ReLU network, zeros skipped": "a pass, zeros skipped", "sigma-delta, K = 9": "sigma-delta, K = 9",
    "sigma-delta, K = 6": "sigma-delta, K = 6", "graded, threshold 0.05": "graded, threshold 0.05",
    "ReLU network, changes above 3% of the largest": "changes above 3 %",
}  # fmt: skip
PASSES = "ReLU network, OpenVINO float32", "ReLU network, OpenVINO int8"


def video_table(net: str) -> str:
    """What the page has of video.csv: of each clip what a frame takes, with the times of a pass by OpenVINO."""
    found = [row for row in read_csv(RESULTS / "video.csv") if row["net"] == net]
    rows = {(row["clip"], row["kind"], row["contender"]): row for row in found}
    lines = [
        "| clip | | same class, % | million additions | million products | µJ | ms |", "|---|---|---|---|---|---|---|"
    ]  # fmt: skip
    for clip, kind in dict.fromkeys((clip, kind) for clip, kind, _ in rows):
        for contender, name in SHOWN.items():
            if (row := rows.get((clip, kind, contender))) is None:
                continue
            joules = float(row["arithmetic_uj"]) + float(row["neurons_uj"])
            times = [rows[clip, kind, each]["ms"] for each in (PASSES if "zeros" in name else (contender,))]
            shown = " / ".join(f"{float(ms):.3g}" for ms in times if ms)
            numbers = (f"{float(row[column]):.3g}" for column in ("million_additions", "million_products"))
            same = f"{float(row['same_class']):.0f}"
            lines.append(f"| {clip.partition('_')[0].partition('.')[0]}, {kind} | {name} | {same} | "
                         f"{' | '.join(numbers)} | {joules:.0f} | {shown} |")  # fmt: skip
    return "\n".join(lines)


@pytest.mark.parametrize("net", sorted({row["net"] for row in read_csv(RESULTS / "video.csv")}))
def test_video_is_that_of_the_table(net):
    assert video_table(net) in PAGE, video_table(net)
