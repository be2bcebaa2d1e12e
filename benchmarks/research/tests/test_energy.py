"""The energy of both networks, counted alike; and the page's tables are those of the CSV file."""

import csv
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accuracy import energy_table as energy
from accuracy import work
from common import conversion, cost, nets
from torch import nn
from torch.utils.data import TensorDataset

import proxykernels as pk

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture
def twins():
    """A small network, and its ReLU network as plain modules."""
    torch.manual_seed(0)
    net = nets.build("4C3-P2-3C3-12", 0.25, None, (1, 8, 8), 5, batch_norm=False).eval()
    return net, conversion.relu_network(pk.ProxyNet(net, 4, clip=True))


def dataset(images: torch.Tensor) -> TensorDataset:
    return TensorDataset(images, torch.zeros(len(images), dtype=torch.long))


def test_products_leave_out_zeros_and_what_pads(generator):
    x = torch.rand(2, 3, 7, 7, generator=generator) * (torch.rand(2, 3, 7, 7, generator=generator) < 0.5)
    convolution, linear = nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Linear(7, 11)
    windows = F.unfold((x != 0).float(), 3, padding=1, stride=2)
    assert work.products(convolution, x != 0) == 5 * windows.sum() > 0
    assert work.products(linear, x != 0) == 11 * (x != 0).sum()


def test_an_addition_for_each_product_where_all_neurons_fire_at_each_step(twins):
    """Padding is counted alike: spikes without end cost as many additions a step as a dense ReLU network products."""
    net, ann = twins
    for layer in net:
        if isinstance(layer, pk.layers.Fused):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, layer.v_threshold)
    dense, sparse, first = work.relu_work(ann, dataset(torch.ones(3, 1, 8, 8)))
    accuracy, steps, found = work.spiking_work(net, dataset(torch.ones(3, 1, 8, 8)), 3, None, None, first)
    assert steps == 3 and accuracy == 0  # all outputs tie
    assert found.products == first == 4 * (8 * 3 - 2) ** 2
    assert found.additions == 3 * (dense.products - first)
    assert found.updates == 2 * 3 * (4 * 64 + 3 * 16 + 12 + 5)
    _, _, dark = work.relu_work(ann, dataset(torch.zeros(3, 1, 8, 8)))
    assert dark == 0 and sparse.products < dense.products


def test_work_of_a_network_that_fires_now_and_then(twins, generator):
    net, ann = twins
    images = torch.rand(4, 1, 8, 8, generator=generator)
    dense, sparse, first = work.relu_work(ann, dataset(images))
    _, _, found = work.spiking_work(net, dataset(images), 5, None, None, first)
    assert 0 < found.additions < 5 * dense.products and 0 < sparse.products < dense.products
    assert dense.weights == sum(p.numel() for p in ann.parameters() if p.ndim > 1)
    row = found.row(cost.FLOAT32, work.STATE_BYTES)
    expected = 4.6e-6 * first + 0.9e-6 * found.additions
    assert float(row["arithmetic_uj"]) == pytest.approx(expected, abs=1e-3)
    assert float(row["dram_uj"]) > float(row["sram_uj"]) > 0


@pytest.mark.parametrize("bits", [8, 32])
def test_graded_messages_are_products_and_have_more_bits_than_spikes(twins, generator, bits):
    _, ann = twins
    images = torch.rand(5, 1, 8, 8, generator=generator)
    every = pk.convert(ann, images, neuron=pk.neurons.Graded())
    _, sparse, _ = work.relu_work(ann, dataset(images))
    accuracy, found = work.graded_work(every, dataset(images), None if bits == 32 else "int8", bits)
    assert accuracy == (ann(images).argmax(1) == 0).float().mean()
    assert found.products == pytest.approx(sparse.products, rel=1e-6 if bits == 32 else 0.1) and found.additions == 0
    spikes = 2 * (4 * 16 + 3 * 16 + 12)  # of neurons, the first behind the pooling; written and read
    assert found.bits == bits * spikes
    fewer = pk.convert(ann, images, neuron=pk.neurons.Graded(0.5))
    assert 0 < work.graded_work(fewer, dataset(images), None, bits)[1].products < found.products


@pytest.mark.long
def test_margins_are_judged_as_simulate_stops():
    images, labels = pk.samples.fashion_mnist()
    data = TensorDataset(images[:60], labels[:60])
    net = pk.convert(pk.samples.relu_network(), images[:60])
    counts, truth = energy.traced(net, data, 12, None)
    found = set()
    for margin in (1, 3):
        accuracy, steps, _ = work.spiking_work(net, data, 12, pk.stop.margin(margin), None, 0.0)
        assert energy._exit_accuracy(counts, truth, margin) == pytest.approx(accuracy)
        found.add(steps)
    assert len(found) == 2 and max(found) < 12
    wanted = energy.strict_accuracy(counts[-1], truth)
    name, T, accuracy = energy.choose_steps(counts, truth, wanted)
    assert name == f"T = {T}" and accuracy >= wanted - energy.MOST_LOST
    assert all(energy.strict_accuracy(of_T, truth) < wanted - energy.MOST_LOST for of_T in counts[: T - 1])
    assert energy.choose_margin(counts, truth, 2.0)[2] == max(
        energy._exit_accuracy(counts, truth, margin) for margin in energy.MARGINS
    )


def test_eight_bits(twins, generator):
    _, ann = twins
    images = torch.rand(30, 1, 8, 8, generator=generator)
    rounded = energy.rounded_to_bytes(ann, images)
    with torch.no_grad():
        difference = (rounded(images) - ann(images)).abs().max() / ann(images).abs().max()
    assert 0 < difference < 0.05
    assert len(rounded[1].weight[0].unique()) <= 255


def test_the_pages_tables_are_those_of_the_csv():
    rows = list(csv.DictReader((CHECKOUT / "benchmarks" / "results" / "energy.csv").open()))
    page = (CHECKOUT / "docs" / "paper.md").read_text()
    for net in ("small", "paper"):
        table = energy.markdown([row for row in rows if row["net"] == net])
        assert table in page and table.count("\n") == 16
    assert energy.summary(rows) in page and energy.summary(rows, energy.CASCADE) in page
    dense = next(int(row["products"]) for row in rows if row["net"] == "paper")
    convolutions = 82**2 * 128 * (1 + 128) + 40**2 * 128 * 128  # (3 * 28 - 2)^2 positions of a window within the image
    assert dense == convolutions + 7**2 * 128 * 2560 + 2560 * 1152 + 1152 * 256 + 256 * 10
