"""video.py: what is counted, what is compared, and files that are no videos."""

import csv

import pytest
import torch
import video
from accuracy import video_clips, video_delta, video_table
from common import relu_networks
from equality import equal
from torch import nn

import proxykernels as pk


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5),
    ).eval()  # fmt: skip


def moving(count: int) -> torch.Tensor:
    """A square that moves by a pixel a frame."""
    frames = torch.full((count, 3, 12, 12), 0.25)
    for k in range(count):
        frames[k, :, 4:8, k % 8 : k % 8 + 4] = 0.75
    return frames


@pytest.fixture
def command(tmp_path, monkeypatch):
    """video.py on frames of ours."""
    monkeypatch.setattr(relu_networks, "load", lambda name: (network(), 0))
    monkeypatch.setattr(video_clips, "read", lambda path, count, pixels: moving(count))

    def run() -> list[dict[str, str]]:
        video.main(["a.mp4", "--frames", "12", "--rounds", "1", "--out", str(tmp_path)])
        return list(csv.DictReader((tmp_path / "video.csv").open()))

    return run


@pytest.mark.slow
def test_every_contender_has_a_row_of_each_clip(command, capsys):
    rows = command()
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    assert kinds == ["as it is", "first frame, still", "first frame, noise of 1/255"]
    of = {(row["kind"], row["contender"]): row for row in rows}
    still, moves, default = "first frame, still", "as it is", "sigma-delta, K = 9"
    for K in (9, 6, 4):
        row = of[still, f"sigma-delta, K = {K}"]
        assert float(row["million_additions"]) == float(row["million_products"]) == 0 < float(row["neurons_uj"])
    costs = [float(of[moves, f"sigma-delta, K = {K}"]["million_additions"]) for K in (4, 6, 9)]
    assert 0 < costs[0] < costs[1] < costs[2]
    assert 0 < float(of[moves, default]["arithmetic_uj"]) < float(of[moves, "ReLU network"]["arithmetic_uj"])
    graded = [of[moves, f"graded, threshold {threshold}"] for threshold in (0.02, 0.05, 0.1)]
    messages = [float(row["thousand_messages"]) for row in graded]
    assert messages[0] > messages[2] > 0 and all(float(row["million_additions"]) == 0 for row in graded)
    assert float(of[still, "graded, threshold 0.02"]["thousand_messages"]) == 0 < float(graded[0]["million_products"])
    products = [float(row["million_products"]) for row in rows if row["kind"] == moves and "change" in row["contender"]]
    assert len(products) == 4 and products[0] > 0 and products == sorted(products, reverse=True)
    assert of[moves, "ReLU network, all changes"]["same_class"] == of[still, default]["same_class"] == "100.0"
    timed = [name for kind, name in of if kind == moves and of[kind, name]["ms"]]
    assert {default, "graded, threshold 0.02", "ReLU network, torch", "ReLU network, OpenVINO float32"} <= set(timed)
    assert all(row["commit"] and row["frames"] == "4" for row in rows)
    assert "first frame, still" in capsys.readouterr().out
    assert len(command()) == len(rows)  # replaces the earlier rows


@torch.no_grad()
def test_all_changes_are_the_relu_network():
    net, frames = network(), moving(6)
    delta = video_delta.DeltaNetwork(net, frames[:2], 0.0)
    for frame in frames.split(1):
        assert equal(delta(frame), net(frame))
    before = delta.products
    assert equal(delta(frames[5:]), net(frames[5:])) and delta.products == before > 0  # which stands still


@torch.no_grad()
def test_only_changes_above_the_threshold_are_taken():
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False)).eval()
    first = torch.zeros(1, 1, 4, 4)
    first[..., 1, 1] = 1.0
    delta = video_delta.DeltaNetwork(net, first, 0.5)
    assert equal(delta(first), net(first)) and delta.products == 2 * 9
    second = first.clone()
    second[..., 0, 0], second[..., 3, 3] = 0.5, 0.625  # as much as the threshold is not above it
    taken = second.clone()
    taken[..., 0, 0] = 0.0
    assert equal(delta(second), net(taken)) and delta.products == 2 * 9 + 2 * 4
    assert equal(delta(second), net(taken)) and delta.products == 2 * 9 + 2 * 4


def test_the_reach_of_an_input():
    for module, x in ((nn.Conv2d(2, 6, 3, 2, groups=2), torch.rand(1, 2, 7, 6)), (nn.Linear(5, 3), torch.rand(1, 5))):
        counts = torch.zeros_like(x)
        for place in range(x.numel()):
            one = torch.zeros_like(x)
            one.view(-1)[place] = 1
            with torch.no_grad():
                ones = module.requires_grad_(False)
                nn.init.ones_(ones.weight), nn.init.zeros_(ones.bias)
                counts.view(-1)[place] = ones(one).sum()
        assert equal(video_delta.reach(module, x), counts) and counts.any()


@torch.no_grad()
def test_a_run_in_single_steps_is_a_simulation_of_frames():
    net, frames = network(), moving(12)
    converted = pk.convert(net, frames[:8], neuron="sigma-delta")
    found = video_table.in_steps(converted, frames.split(1))
    whole = pk.simulate(converted, frames.unsqueeze(1), 12)
    assert equal(found.logits, whole.potentials[8:, 0])
    before = pk.simulate(converted, frames[:8].unsqueeze(1), 8)
    additions, products = (
        sum(getattr(whole.synops, name).values()) - sum(getattr(before.synops, name).values())
        for name in ("accumulates", "multiply_accumulates")
    )
    assert found.work.additions == pytest.approx(additions / 4) and additions > 0
    assert found.work.products == pytest.approx(products / 4) and products > 0
    sent = [sum(result.places[name] * rate for name, rate in result.rates.items()) for result in (whole, before)]
    assert found.messages == pytest.approx((sent[0] - sent[1]) / 4) and found.messages > 0
    step = video_table.stepper(converted, frames[:1])
    assert equal(torch.cat([step(frame) for frame in frames.split(1)])[8:], found.logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("missing.mp4 --net resnet20-cifar10", "missing.mp4 is no file; give a video"),
        ("text.mp4 --net resnet20-cifar10", "text.mp4 is no video that PyAV reads"),
        ("missing.mp4 --frames 8", "--frames must be above the 8 that thresholds are taken from, got 8"),
    ],
)
def test_files_that_are_no_videos(tmp_path, monkeypatch, options, message):
    if "--frames" not in options:
        pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(SystemExit, match=message):
        video.main([*options.split(), "--out", str(tmp_path / "results")])


def test_a_video_is_read(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for k in range(5):
            image = torch.full((32, 64, 3), 40 * (k + 1), dtype=torch.uint8)
            image[:, :16] = image[:, 48:] = 255  # beside the middle square
            for packet in stream.encode(av.VideoFrame.from_ndarray(image.numpy(), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    frames = video_clips.read(path, 4, 8)
    assert frames.shape == (4, 3, 8, 8)
    means = frames[:, :, :, 2:6].mean((1, 2, 3)) * 255
    assert all(abs(mean - 40 * (k + 1)) < 8 for k, mean in enumerate(means.tolist()))
    with pytest.raises(ValueError, match="a.mp4 has 5 frames; give --frames 5 or fewer"):
        video_clips.read(path, 6, 8)
