"""NeuroBench's metrics of a network here, against NeuroBench's own hooks on the same network in snnTorch.

The networks are those of its examples (keyword spotting, gestures, primate reaching), smaller and with random weights.
"""

import importlib
import sys

import pytest
import torch
from equality import equal
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import proxykernels as pk

for needed in ("neurobench", "snntorch"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: pip install --no-deps {needed} tonic importRosbag")

import snntorch as snn  # noqa: E402
from neurobench.benchmarks import Benchmark  # noqa: E402
from neurobench.metrics import static, workload  # noqa: E402
from neurobench.models import SNNTorchModel  # noqa: E402
from neurobench.processors.postprocessors import ChooseMaxCount  # noqa: E402

from proxykernels.neurobench import Model, SynapticOperations  # noqa: E402

T = 12
STATIC = [static.Footprint, static.ConnectionSparsity, static.ParameterCount]
WORKLOAD = [
    workload.ActivationSparsity,
    workload.MembraneUpdates,
    workload.NeuronOperations,
    workload.ClassificationAccuracy,
    workload.ActivationSparsityByLayer,
]
THEIRS, OURS = [*WORKLOAD, workload.SynapticOperations], [*WORKLOAD, SynapticOperations]


def leaky(**options) -> nn.Module:
    return snn.Leaky(**{"beta": 0.9, "threshold": 0.2, "init_hidden": True} | options)


def keywords(**options) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(20, 32), leaky(**options), nn.Linear(32, 24), leaky(**options),
        nn.Linear(24, 5), leaky(output=True, **options),
    )  # fmt: skip


class Gestures(nn.Module):
    """Pooled currents, as in NeuroBench's network for DVS Gesture."""

    def __init__(self):
        super().__init__()
        self.conv1, self.pool1, self.lif1 = nn.Conv2d(2, 4, 3, padding="same"), nn.MaxPool2d(2), leaky()
        self.conv2, self.lif2 = nn.Conv2d(4, 6, 3, stride=2), leaky()
        self.linear, self.lif3 = nn.Linear(6 * 3 * 3, 5), leaky(output=True)

    def forward(self, x):
        y = self.lif2(self.conv2(self.lif1(self.pool1(self.conv1(x)))))
        return self.lif3(self.linear(y.flatten(1)))


NETWORKS = {
    "keywords": (keywords, (20,)),
    "reset to zero": (lambda: keywords(reset_mechanism="zero"), (20,)),
    "reset at once": (lambda: keywords(reset_mechanism="zero", reset_delay=False), (20,)),
    "gestures": (Gestures, (2, 16, 16)),
    "reaching": (
        lambda: nn.Sequential(
            nn.Linear(96, 50, bias=False), leaky(reset_mechanism="zero"),
            nn.Linear(50, 2, bias=False), leaky(reset_mechanism="none", output=True),
        ),
        (96,),
    ),
}  # fmt: skip


def made(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network of snnTorch, a fifth of whose weights are 0, and data [N, T, ...]."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    net = make().eval()
    for weight in net.parameters():
        weight.data *= torch.rand(weight.shape) > 0.2
    return net, (torch.rand(5, T, *shape) < 0.3).float()


def measured(model, x: torch.Tensor, metrics: list) -> dict:
    """What the harness prints, in two batches; names of layers differ, and stand in their order."""
    loader = DataLoader(TensorDataset(x, torch.arange(len(x)) % 5), 3)
    found = Benchmark(model, loader, [], [ChooseMaxCount()], [STATIC, metrics]).run(quiet=True)
    by_layer = [*found.pop("ActivationSparsityByLayer").values()]
    return found | {f"layer {k}": sparsity for k, sparsity in enumerate(by_layer)}


@pytest.mark.parametrize("name", NETWORKS)
def test_metrics_equal_those_of_the_hooks(name):
    net, x = made(name)
    ours = pk.from_snntorch(net, x[:2, 0], check=False)
    theirs = measured(SNNTorchModel(net), x, THEIRS)
    delayed = name != "reset at once"
    assert measured(Model(ours, reset_delay=delayed), x, THEIRS) == theirs
    assert measured(Model(ours, reset_delay=delayed), x, OURS) == theirs
    assert 0.1 < theirs["ConnectionSparsity"] < 0.3 and 0 < theirs["ActivationSparsity"] < 1
    assert 0 < theirs["SynapticOperations"]["Effective_ACs"] < theirs["SynapticOperations"]["Dense"]
    assert 0 < theirs["MembraneUpdates"]


def test_real_values_are_multiplied():
    """Some steps of the input are spikes, others values: operations of the first layer are of both kinds."""
    net, x = made("keywords")
    x[:, ::2] *= torch.randint(1, 8, x[:, ::2].shape) / 4
    theirs = measured(SNNTorchModel(net), x, THEIRS)
    ours = pk.from_snntorch(net, x[:2, 0], check=False)
    assert measured(Model(ours), x, OURS) == measured(Model(ours), x, THEIRS) == theirs
    assert theirs["SynapticOperations"]["Effective_MACs"] > 0 < theirs["SynapticOperations"]["Effective_ACs"]


def test_without_hooks():
    """A model gives what simulate gives, with samples in front; accuracy alone needs no hooks."""
    net, x = made("keywords")
    ours = pk.from_snntorch(net, x[:2, 0], check=False)
    expected = pk.simulate(ours, x.transpose(0, 1), T).spikes.dense().transpose(0, 1)
    assert equal(Model(ours)(x), expected) and expected.any()
    loader = DataLoader(TensorDataset(x, expected.sum(1).argmax(1)), 3)
    found = Benchmark(Model(ours), loader, [], [ChooseMaxCount()], [[], [workload.ClassificationAccuracy]])
    assert found.run(quiet=True) == {"ClassificationAccuracy": pytest.approx(1)}


def test_recurrent_layers():
    """Weights of a layer's own spikes are synaptic operations, too: counted from the spikes of the step before."""
    torch.manual_seed(0)
    recurrent = pk.FusedRecurrentLinear(10, 8, neuron=pk.neurons.LIFNeuron(decay=0.5, v_threshold=0.25))
    net, x = nn.Sequential(recurrent, pk.FusedLILinear(8, 2, decay=0.5)), (torch.rand(3, T, 10) < 0.4).float()
    found = Benchmark(Model(net), DataLoader(TensorDataset(x, x), 3), [], [], [[], [SynapticOperations]]).run(
        quiet=True
    )
    spikes = pk.simulate(net, x.transpose(0, 1), T, record=["0"]).records["0"].dense()
    added = x.sum() * 8 + spikes[:-1].sum() * 8 + spikes.sum() * 2
    assert found["SynapticOperations"]["Effective_ACs"] == pytest.approx(float(added) / 3) and spikes.any()
    assert found["SynapticOperations"]["Dense"] == T * (10 * 8 + 8 * 8 + 8 * 2)
    theirs = Benchmark(Model(net), DataLoader(TensorDataset(x, x), 3), [], [], [[], [workload.SynapticOperations]]).run(
        quiet=True
    )
    assert theirs == found


def mackey_glass(steps: int, tau: int = 17, parts: int = 10) -> torch.Tensor:
    """x' = 0.2 x(t - tau) / (1 + x(t - tau)**10) - 0.1 x, from a constant past, at every unit of time."""
    x = [0.7206597] * (tau * parts + 1)
    for _ in range(steps * parts):
        late = x[-tau * parts - 1]
        x.append(x[-1] + (0.2 * late / (1 + late**10) - 0.1 * x[-1]) / parts)
    return torch.tensor(x[tau * parts :: parts])


def test_mackey_glass():
    """Its data from the equation, a readout's potentials as the forecast, and sMAPE."""
    torch.manual_seed(0)
    series = mackey_glass(200)
    assert 0.2 < series.min() < series.max() < 1.5 and series[100:].std() > 0.1
    windows = series.unfold(0, 21, 1)
    loader = DataLoader(TensorDataset(windows[:, :20, None], windows[:, 20:]), 60)
    net = nn.Sequential(pk.FusedLIFLinear(1, 16, decay=0.5, v_threshold=0.25), pk.FusedLILinear(16, 1, decay=0.5))
    metrics = [workload.SMAPE, SynapticOperations, workload.MembraneUpdates]
    found = Benchmark(Model(net), loader, [], [lambda v: v[:, -1]], [[static.Footprint], metrics]).run(quiet=True)
    assert 0 < found["SMAPE"] <= 200 and found["SynapticOperations"]["Effective_MACs"] == 20 * 16
    assert found["SynapticOperations"]["Effective_ACs"] > 0 < found["MembraneUpdates"] <= 20 * 16


def test_what_is_no_model():
    with pytest.raises(TypeError, match="net must have layers of neurons of proxykernels, got a Linear without any"):
        Model(nn.Linear(2, 2))
    ann = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    with pytest.raises(ValueError, match="NeuroBench has no metrics for: use result.synops"):
        Model(pk.convert(ann, torch.rand(9, 6), neuron="sigma-delta"))
    net, _ = made("keywords")
    with pytest.raises(TypeError, match="model must be a proxykernels.neurobench.Model, got SNNTorchModel"):
        SynapticOperations()(SNNTorchModel(net), None, (torch.zeros(1),))


def test_without_neurobench(monkeypatch):
    monkeypatch.setitem(sys.modules, "neurobench.metrics", None)
    monkeypatch.delitem(sys.modules, "proxykernels.neurobench")
    with pytest.raises(ImportError, match=r'needs NeuroBench .*: pip install "proxykernels\[neurobench\]"'):
        importlib.import_module("proxykernels.neurobench")
