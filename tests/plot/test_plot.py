"""Pictures: what is drawn is what was simulated."""

import builtins

import numpy as np
import pytest
import torch
from cases import spikes
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.plot.animation import BETWEEN, mosaic

pytest.importorskip("matplotlib").use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def test_a_raster_of_sums_has_a_dot_where_neurons_fire(generator):
    x, y = (pk.pack((torch.rand(12, 2, 6, generator=generator) < 0.5).float()) for _ in range(2))
    both = x + y
    assert both.max() == 2
    dots = pk.plot.raster(both).collections[0].get_offsets().data.astype(int).tolist()
    assert dots == (both[:, 0] > 0).nonzero().tolist()
    with pytest.raises(ValueError, match="nothing but 0 and 1"):
        pk.plot.raster(both - 0.5)


def test_raster(generator, tmp_path):
    dense = spikes(20, 3, 4, 5, 2, generator=generator)
    ax = pk.plot.raster(pk.pack(dense), sample=1)
    drawn = ax.collections[0].get_offsets().data.astype(int).tolist()
    assert sorted(drawn) == sorted(dense[:, 1].flatten(1).nonzero().tolist())
    ax.figure.savefig(tmp_path / "raster.png")
    assert (tmp_path / "raster.png").stat().st_size > 1000
    two = pk.plot.raster(pk.pack(dense), neurons=[39, 3]).collections[0].get_offsets().data.astype(int).tolist()
    expected = [point for point in dense[:, 0].flatten(1).nonzero().tolist() if point[1] in (3, 39)]
    assert expected and sorted(two) == sorted(expected)
    assert "10 of 40 are drawn" in pk.plot.raster(pk.pack(dense), neurons=10).get_ylabel()
    assert "drawn" not in ax.get_ylabel()
    few = pk.plot.raster(pk.pack(dense), neurons=10).collections[0].get_offsets().data[:, 1]
    assert set(few.astype(int)) <= set(range(0, 40, 4))


def test_a_layers_output_is_drawn_as_its_spikes(generator):
    dense = spikes(20, 3, 4, 5, 2, generator=generator)
    y = pk.IF(v_threshold=1.0)(dense)  # a tensor that stays packed
    for given in (dense, y, dense.clone().requires_grad_()):
        drawn, expected = (pk.plot.raster(x, 1).collections[0].get_offsets().data for x in (given, pk.pack(dense)))
        assert len(drawn) and (drawn == expected).all()


def test_rasters(generator):
    records = {"a": pk.pack(spikes(20, 3, 4, 5, 2, generator=generator)), "b": spikes(20, 3, 6, generator=generator)}
    axes = pk.plot.rasters(records | {"b.v": torch.rand(20, 3, 6)}, 2, neurons=30)
    assert len(axes) == 2 and len({ax.figure for ax in axes}) == 1
    assert axes[1].get_title() == f"b, rate {records['b'].mean():.1%}" and "30 of 40" in axes[0].get_ylabel()
    drawn = axes[1].collections[0].get_offsets().data.astype(int).tolist()
    assert drawn and sorted(drawn) == sorted(records["b"][:, 2].nonzero().tolist())


def test_rate_histogram():
    """By hand: of four neurons two fire in each step of each sample, one in half of them, one never."""
    dense = torch.zeros(4, 2, 4)
    dense[:, :, :2], dense[::2, :, 2] = 1, 1
    ax = pk.plot.rate_histogram({"a": pk.pack(dense)})
    points = {tuple(point) for point in ax.patches[0].get_xy().round(3).tolist()}
    assert {(0.0, 25.0), (50.0, 25.0), (100.0, 50.0)} <= points and {y for _, y in points} == {0.0, 25.0, 50.0}
    assert ax.get_legend().get_texts()[0].get_text() == "a" and "%" in ax.get_xlabel() + ax.get_ylabel()
    assert pk.plot.rate_histogram(dense).get_legend() is None


def test_mosaic():
    """By hand: maps beside each other with lines between, then a block of neurons whose last place is nobody's."""
    fired = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # [1, 2, 1, 2]
    line = BETWEEN
    assert mosaic(fired)[0].tolist() == [[pytest.approx(line)] * 6, pytest.approx([line, 1, 0, line, 0, 1])]
    block = mosaic(torch.tensor([[1.0, 0, 0, 1, 1, 0, 0]]))
    assert block[0].tolist() == [[1, 0, 0], [1, 1, 0], [0, pytest.approx(line), pytest.approx(line)]]


def test_animation(generator, tmp_path):
    net = torch.nn.Sequential(
        pk.FusedIFConv2d(1, 4, 3, v_threshold=0.5), pk.Flatten(), pk.FusedIFLinear(144, 3, v_threshold=0.05)
    ).eval()
    images = torch.rand(2, 1, 8, 8, generator=generator)
    result = pk.simulate(net, images, 6, record=["0", "0.v"])
    frames = pk.plot.animation(result, images[1], sample=1, classes=["a", "b", "c"])
    first, mosaics, bars = (frames._fig.axes[k] for k in range(3))
    counts = result.spikes.dense()[:, 1].cumsum(0)
    assert counts[-1].sum() > 3
    for t in (3, 5):
        frames._draw_frame(t)
        assert [bar.get_width() for bar in bars.patches] == counts[t].tolist()
        fired = int(result.records["0"].dense()[t, 1].sum())
        assert mosaics.get_title() == f"0: {fired:,} spikes" and fired == (mosaics.images[0].get_array() == 1).sum() > 0
    assert equal(torch.from_numpy(first.images[0].get_array().data), images[1, 0])
    frames.save(tmp_path / "spikes.gif", writer="pillow", dpi=40)
    with pytest.importorskip("PIL.Image").open(tmp_path / "spikes.gif") as picture:
        assert picture.n_frames == 6
    with pytest.raises(ValueError, match="classes must be the names of 3 outputs, got 2"):
        pk.plot.animation(result, classes=["a", "b"])
    with pytest.raises(ValueError, match="sample must be within 0 .. 1, got 2"):
        pk.plot.animation(result, sample=2)


def test_rates(generator):
    net = torch.nn.Sequential(pk.FusedIFLinear(5, 4), pk.FusedIFLinear(4, 3))
    result = pk.simulate(net, torch.rand(2, 5, generator=generator), 10)
    ax = pk.plot.rates(result)
    assert [bar.get_width() for bar in ax.patches] == [100 * rate for rate in result.rates.values()]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "1"]


def test_potential(generator):
    v = torch.rand(20, 2, 3, 4, generator=generator)
    from matplotlib import pyplot

    _, given = pyplot.subplots()
    ax = pk.plot.potential(v, sample=1, neurons=4, v_threshold=1.0, ax=given)
    assert ax is given and len(ax.lines) == 5
    assert equal(torch.tensor(ax.lines[1].get_ydata()), v[:, 1].flatten(1)[:, 3])
    ax = pk.plot.potential(v, sample=1, neurons=torch.tensor([11, 2]))
    assert [line.get_label() for line in ax.lines] == ["neuron 11", "neuron 2"]
    assert equal(torch.tensor(ax.lines[0].get_ydata()), v[:, 1].flatten(1)[:, 11])


def test_numbers_of_numpy_and_potentials_of_a_training_pass():
    drawn = pk.plot.raster(pk.pack(torch.ones(4, 2, 5)), neurons=np.int64(3)).collections[0].get_offsets()
    assert len(drawn) == 12
    v = torch.rand(4, 1, 2, dtype=torch.bfloat16, requires_grad=True)
    assert pk.plot.potential(v).lines[1].get_ydata().tolist() == v[:, 0, 1].tolist()


def test_accuracy_of_every_step():
    """By hand: a tie and silence are wrong."""
    dense = torch.zeros(4, 2, 3)
    dense[1, 0, 2] = dense[2, 0, 1] = dense[3, 0, 2] = (
        1  # true class 2: right after step 2, tied after 3, right after 4
    )
    dense[0, 1, 0] = 1  # true class 0: right throughout
    expected = [0.5, 1.0, 0.5, 1.0]
    labels = torch.tensor([2, 0])
    assert pk.plot.accuracy(pk.pack(dense), labels).tolist() == expected
    ax = pk.plot.accuracy_vs_T({"a": pk.pack(dense), "b": pk.pack(dense[:2])}, labels)
    assert ax.lines[0].get_ydata().tolist() == [100 * a for a in expected]
    assert ax.lines[2].get_ydata()[0] == pytest.approx(100 / 3) and ax.texts[0].get_text() == "chance, 33.3 %"
    ax.figure.canvas.draw()
    assert [text.get_text() for text in ax.get_xticklabels()][1:4] == ["1", "2", "4"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert equal(pk.plot.accuracy(dense.cumsum(0), labels), pk.plot.accuracy(pk.pack(dense), labels))  # as values
    silent = pk.pack(torch.zeros(4, 3, 1))  # also where no other class could lead
    assert not pk.plot.accuracy(silent, torch.zeros(3, dtype=torch.int64)).any()


def test_accuracy_by_logits(generator):
    """The logits of each step are those of runs of so many steps; those of sigma-delta neurons are their outputs."""
    images, labels = torch.rand(64, 1, 6, 6, generator=generator), torch.randint(3, (64,), generator=generator)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    labels[:48] = net(images).argmax(1)[:48].detach()
    spiking, changing = pk.convert(net, images), pk.convert(net, images, neuron="sigma-delta")
    result = pk.simulate(spiking, images, 8, record=["3.v"])
    by_logits = pk.plot.accuracy(result, labels)
    runs = [pk.simulate(spiking, images, T).logits for T in range(1, 9)]
    assert equal(by_logits, torch.stack([(run.argmax(1) == labels).float().mean() for run in runs]))
    assert by_logits[1] > pk.plot.accuracy(result.spikes, labels)[1]
    result = pk.simulate(changing, images, 8)
    assert equal(pk.plot.accuracy(result, labels), (result.potentials.argmax(2) == labels).float().mean(1))
    assert len(pk.plot.accuracy_vs_T({"values": result, "spikes": result}, labels).lines) == 3  # and one of chance
    own = nn.Sequential(pk.Flatten(), pk.FusedIFLinear(36, 3))
    result = pk.simulate(own, images, 8)
    assert equal(pk.plot.accuracy(result, labels), pk.plot.accuracy(result.spikes, labels))
    with pytest.raises(ValueError, match=r"simulate with record=\['3.v'\]; or give result.spikes"):
        pk.plot.accuracy(pk.simulate(spiking, images, 8), labels)


def test_bad_arguments(monkeypatch):
    packed = pk.pack(torch.zeros(4, 2, 3))
    for call, error, message in (
        (lambda: pk.plot.raster([0, 1]), TypeError, "spikes must be Spikes .* or a tensor of 0 and 1, got list"),
        (lambda: pk.plot.raster(torch.full((4, 2, 3), 0.5)), ValueError, "0 and 1"),
        (lambda: pk.plot.rasters(packed), TypeError, "records must be spikes by the names of layers, got Spikes"),
        (lambda: pk.plot.rasters({"a.v": packed}), ValueError, "records has no spikes; simulate"),
        (lambda: pk.plot.rate_histogram(pk.pack(torch.zeros(2, 0, 3))), ValueError, "must have a step, a sample"),
        (lambda: pk.plot.animation(packed), TypeError, "result must be what simulate returns, got Spikes"),
        (lambda: pk.plot.raster(packed, 2), ValueError, r"sample must be within 0 .. 1, got 2"),
        (lambda: pk.plot.raster(packed, neurons=[0, 3]), ValueError, r"neurons must be within 0 .. 2, got \[0, 3\]"),
        (lambda: pk.plot.raster(packed, neurons=-2), ValueError, "a number of at least 1, got -2"),
        (lambda: pk.plot.raster(packed, True), TypeError, "sample must be the number of one sample, got True"),
        (lambda: pk.plot.raster(pk.pack(torch.ones(5, 2))), ValueError, r"the shape \(T, N, ...\), got \(5, 2\)"),
        (lambda: pk.plot.accuracy(packed, [0, 1]), TypeError, r"got list; torch.as_tensor\(labels\) makes one"),
        (
            lambda: pk.plot.accuracy(packed, torch.tensor([0, 3])),
            ValueError,
            "labels must be within 0 .. 2, got 0 to 3",
        ),
        (lambda: pk.plot.rates(packed), TypeError, "result must be what simulate returns, got Spikes"),
        (lambda: pk.plot.potential(torch.zeros(4, 2)), ValueError, r"v must have the shape \[T, N"),
        (
            lambda: pk.plot.potential(torch.zeros(4, 2, 3, device="meta")),
            TypeError,
            "v must be a tensor that holds its",
        ),
        (lambda: pk.plot.accuracy_vs_T(packed, torch.zeros(3).long()), ValueError, r"labels must be int64 \[2\]"),
        (
            lambda: pk.plot.accuracy_vs_T([1, 2], torch.zeros(2).long()),
            TypeError,
            "outputs must be a result of simulate",
        ),
        (
            lambda: pk.plot.accuracy(torch.zeros(2, 3), torch.zeros(2).long()),
            ValueError,
            r"the shape \(T, N, classes\)",
        ),
    ):
        with pytest.raises(error, match=message):
            call()
    real_import = builtins.__import__

    def without_matplotlib(name, *rest, **options):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real_import(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        pk.plot.raster(packed)
