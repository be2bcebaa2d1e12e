"""Pictures: what is drawn is what was simulated."""

import builtins

import numpy as np
import pytest
import torch
from cases import spikes
from equality import equal

import proxykernels as pk

pytest.importorskip("matplotlib").use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    from matplotlib import pyplot

    pyplot.close("all")


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
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    silent = pk.pack(torch.zeros(4, 3, 1))  # also where no other class could lead
    assert not pk.plot.accuracy(silent, torch.zeros(3, dtype=torch.int64)).any()


def test_bad_arguments(monkeypatch):
    packed = pk.pack(torch.zeros(4, 2, 3))
    for call, error, message in (
        (lambda: pk.plot.raster(torch.zeros(4, 2, 3)), TypeError, "spikes must be Spikes"),
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
        (lambda: pk.plot.accuracy_vs_T(packed, torch.zeros(3).long()), ValueError, r"labels must be int64 \[2\]"),
        (lambda: pk.plot.accuracy_vs_T(torch.zeros(4, 2, 3), torch.zeros(2).long()), TypeError, "must be Spikes"),
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
