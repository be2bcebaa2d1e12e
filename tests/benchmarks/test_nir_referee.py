"""The referee of NIR graphs, and its suite: whole runs against the equations in float64, without one difference."""

import contextlib
import io
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

import proxykernels as pk

nir = pytest.importorskip("nir")
pytest.importorskip("nir.data_ir")
if not hasattr(nir, "CubaLI"):
    pytest.skip("this version of nir has no CubaLI", allow_module_level=True)

import nir_referee  # noqa: E402
from referee import definition, suite, verdict  # noqa: E402
from referee.rules import ANSWERS, Rules  # noqa: E402

T = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The suite of the repository, unpacked."""
    place = tmp_path_factory.mktemp("graphs")
    with zipfile.ZipFile(suite.PLACE) as file:
        file.extractall(place)
    return place


def spikes_of(data, name: str) -> Tensor:
    (observed,) = data.nodes[name].observables.values()
    given = pk.from_nir_data(observed)
    return given.dense() if isinstance(given, pk.Spikes) else given


@pytest.mark.parametrize("name", suite.graphs())
def test_suite(folder, name):
    """Here each graph gives what its recording expects: spikes bit by bit, potentials but for rounding."""
    graph, data = folder / f"{name}.nir", nir.read_data(folder / f"{name}.data.nir")
    last = list(suite.graphs()[name][0].nodes)[-2]
    shape = [int(n) for n in nir.read(graph, type_check=False).nodes["input"].input_type["input"]]
    x = spikes_of(data, "input").unflatten(2, shape)
    expected = spikes_of(data, last)
    result = pk.simulate(pk.from_nir(graph, reset="v_reset"), x, len(x))
    if name == "li":
        assert torch.allclose(result.potentials, expected, atol=1e-6) and expected.std() > 0.05
    else:
        actual = result.spikes.dense().flatten(2)
        assert torch.equal(actual, expected) and 0.01 < expected.mean() < 0.99


def test_suite_is_what_its_source_writes(folder):
    for name, (graph, question) in suite.graphs().items():
        data, kept = suite.recording(graph, question), nir.read_data(folder / f"{name}.data.nir")
        for node in data.nodes:
            assert torch.equal(spikes_of(data, node), spikes_of(kept, node)), (name, node)


def chain(**nodes) -> "nir.NIRGraph":
    return suite._chain(nodes)


def random(*shape: int, least: float = 0.0) -> "nir.np.ndarray":
    return (torch.randint(1, 17, shape, generator=torch.Generator().manual_seed(sum(shape))) / 16 + least).numpy()


GRAPHS = {
    "differs within channels": lambda: chain(
        c=suite._conv(), n=suite._lif((2, 4, 4), v_threshold=random(2, 4, 4, least=0.26), v_leak=random(2, 4, 4) / 8)
    ),
    "thresholds within channels": lambda: chain(c=suite._conv(), n=suite._lif((2, 4, 4), tau=2 + random(2, 4, 4))),
    "CubaLIF that rests anywhere": lambda: chain(
        l=suite._linear(4, 3, 2.0),
        n=nir.CubaLIF(**{**vars_of(suite._cuba(3)), "v_leak": torch.tensor([0.0, 0.25, 2.0]).numpy()}),
    ),
    "resets within a layer": lambda: chain(
        l=suite._linear(4, 3), n=suite._lif(3, v_reset=random(3) - 1, v_threshold=random(3, least=0.51))
    ),
    "no weights in front": lambda: chain(n=suite._lif(4, v_leak=random(4, least=0.3), v_reset=random(4) / 4)),
    "fires by itself, as two_lif_neurons of NIR's paper": lambda: chain(
        linear1=nir.Linear(suite._of((1, 1), 1.0)), lif1=suite._lif(1, tau=suite._of(1, 8.0), r=suite._of(1, 1.0),
        v_leak=suite._of(1, 1.2), v_threshold=suite._of(1, 1.0)), linear2=nir.Linear(suite._of((1, 1), 1.0)),
        lif2=suite._lif(1, r=suite._of(1, 4.0), v_threshold=suite._of(1, 0.9)),
    ),
    "delays by neuron": lambda: chain(
        c=suite._conv(), n=suite._lif((2, 4, 4)), d=nir.Delay((random(2, 4, 4) * 4).round()),
        f=nir.Flatten({"input": torch.tensor([2, 4, 4]).numpy()}, 0, -1),
        l=suite._linear(32, 3), m=suite._lif(3, v_threshold=suite._of(3, 3.03)),
    ),
}  # fmt: skip


def vars_of(node) -> dict:
    return {key: value for key, value in vars(node).items() if key not in ("input_type", "output_type", "metadata")}


@pytest.mark.parametrize("name", GRAPHS)
def test_no_spike_differs_from_the_equations(name):
    graph = GRAPHS[name]()
    solved = definition.Graph(graph)
    x = verdict.input_of(solved, T, 0.4)
    expected = definition.run(solved, x, 1.0, Rules())[solved.output].float()
    near = [suite.nudged(graph, x, by).float() for by in (1 - 1e-6, 1 + 1e-6)]
    assert all(torch.equal(expected, other) for other in near), "a potential is at its threshold: no test"
    actual = pk.simulate(pk.from_nir(graph, reset="v_reset"), x.float(), T).spikes.dense()
    assert torch.equal(actual.view(expected.shape), expected) and 0.01 < expected.mean() < 0.99


@pytest.mark.parametrize("question", ["decay", "resets", "reset", "fires", "spikes", "output"])
def test_the_rule_that_differs_is_found(folder, question, monkeypatch):
    """A simulator that answers one question otherwise is told by its spikes alone."""
    name = {"decay": "euler", "resets": "reset_to", "reset": "reset_now", "fires": "equal", "spikes": "one_spike",
            "output": "same_step"}[question]  # fmt: skip
    graph = definition.Graph(nir.read(folder / f"{name}.nir", type_check=False))
    x, other = verdict.input_of(graph, T, 0.4), ANSWERS[question][1]
    output = definition.run(graph, x, 1.0, Rules(**{question: other}))[graph.output]
    found = verdict.explain(graph, x, 1.0, Rules(), verdict._flat(output))
    assert f"{question}: {other}" in found


def test_the_command_prints_a_table(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(verdict.simulators, "installed", lambda: [])
    with contextlib.redirect_stdout(io.StringIO()) as said:
        nir_referee.main([str(folder / "lif.nir"), "--T", "20", "--out", str(tmp_path), "--draw"])
    row = next(line for line in said.getvalue().splitlines() if line.startswith("lif.nir"))
    assert row.split()[1] == "proxykernels" and row.split()[3] == "0" and int(row.split()[2]) > 0
    assert (tmp_path / "nir_referee.csv").is_file() and (tmp_path / "nir_referee_lif.png").is_file()
