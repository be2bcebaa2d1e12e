"""NIR's paper: graphs and recordings built like its own, and these where NIR_PAPER names their folder."""

import contextlib
import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch

nir = pytest.importorskip("nir")
pytest.importorskip("nir.data_ir")
if not hasattr(nir, "CubaLI"):
    pytest.skip("this version of nir has no CubaLI", allow_module_level=True)

from referee import definition, paper, suite, verdict  # noqa: E402
from referee.rules import Rules  # noqa: E402

NIR_PAPER = os.environ.get("NIR_PAPER")
LATE = {"output": "a step later"}
EARLY = {"spikes": "several a step", "resets": "by subtraction", "decay": "exponential"}
LIKE = {"nengo": {}, "norse": {}, "lava_cpu_float": LATE, "sinabs": EARLY}  # recordings of the folder below: rules


def whole(*shape: int, most: int = 4, unit: float = 1 / 8) -> np.ndarray:
    generator = np.random.default_rng(sum(shape))
    return (generator.integers(-most, most + 3, shape) * unit).astype(np.float32)


def of_currents(C: int, theta: float) -> "nir.CubaLIF":
    """Decays of 1/2 in steps of 1e-4."""
    plain = {"tau_syn": 2e-4, "tau_mem": 2e-4, "r": 2.0, "w_in": 2.0, "v_leak": 0.0, "v_threshold": theta}
    return nir.CubaLIF(**{name: np.full(C, value) for name, value in plain.items()})


def braille(nested: bool, bias: bool) -> "nir.NIRGraph":
    """12 taxels, 38 neurons that their spikes come back to, 7 letters."""

    def weights(inputs: int, outputs: int) -> "nir.Affine | nir.Linear":
        weight = whole(outputs, inputs)
        return nir.Affine(weight, whole(outputs, most=1)) if bias else nir.Linear(weight)

    ends = {"input": nir.Input({"input": np.array([12])}), "output": nir.Output({"output": np.array([7])})}
    nodes = {**ends, "fc1": weights(12, 38), "fc2": weights(38, 7), "lif2": of_currents(7, 2.0)}
    back = {"lif": of_currents(38, 4.0), "w_rec": weights(38, 38)}
    if nested:
        inner = {
            "input": nir.Input({"input": np.array([38])}),
            "output": nir.Output({"output": np.array([38])}),
            **back,
        }
        edges = [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")]
        nodes["lif1"] = nir.NIRGraph(inner, edges, type_check=False)
        edges = [("fc1", "lif1"), ("lif1", "fc2")]
    else:
        nodes |= {f"lif1.{name}": node for name, node in back.items()}
        edges = [("fc1", "lif1.lif"), ("lif1.lif", "lif1.w_rec"), ("lif1.w_rec", "lif1.lif"), ("lif1.lif", "fc2")]
    return nir.NIRGraph(nodes, [("input", "fc1"), *edges, ("fc2", "lif2"), ("lif2", "output")], type_check=False)


def cnn() -> "nir.NIRGraph":
    """Convolutions, sums of 2 x 2, and fully connected layers, each with IF neurons."""

    def neurons(*shape: int) -> "nir.IF":
        return nir.IF(r=np.ones(shape), v_threshold=np.ones(shape))

    def conv(size: int, inputs: int, outputs: int, kernel: int, stride: int) -> "nir.Conv2d":
        weight = whole(outputs, inputs, kernel, kernel, most=2, unit=1 / 16)
        return nir.Conv2d((size, size), weight, stride, 1, 1, 1, np.zeros(outputs, np.float32))

    pool = nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
    nodes = {
        "0": conv(34, 2, 4, 5, 2), "1": neurons(4, 16, 16), "2": conv(16, 4, 4, 3, 1), "3": neurons(4, 16, 16),
        "4": pool, "5": conv(8, 4, 2, 3, 1), "6": neurons(2, 8, 8), "7": pool,
        "8": nir.Flatten({"input": np.array([2, 4, 4])}, start_dim=0, end_dim=-1),
        "9": nir.Affine(whole(16, 32, unit=1 / 16), np.zeros(16)), "10": neurons(16),
        "11": nir.Affine(whole(10, 16), np.zeros(10)), "12": neurons(10),
    }  # fmt: skip
    names = ["input", *nodes, "output"]
    ends = {"input": nir.Input({"input": np.array([2, 34, 34])}), "output": nir.Output({"output": np.array([10])})}
    return nir.NIRGraph({**ends, **nodes}, list(zip(names[:-1], names[1:], strict=True)), type_check=False)


def lif(weight: float = 1.0, r: float = 1.0) -> "nir.NIRGraph":
    neurons = suite._lif(1, tau=suite._of(1, 0.0025), r=suite._of(1, r), v_threshold=suite._of(1, 0.1))
    return suite._chain({"0": nir.Linear(suite._of((1, 1), weight)), "1": neurons})


def two_lif() -> "nir.NIRGraph":
    first = suite._lif(1, tau=suite._of(1, 0.01), r=suite._of(1, 1.0), v_leak=suite._of(1, 1.2))
    last = suite._lif(1, tau=suite._of(1, 0.01), r=suite._of(1, 1.0), v_threshold=suite._of(1, 20.0))
    linear = [nir.Linear(suite._of((1, 1), 1.0)) for _ in range(2)]
    return suite._chain({"linear1": linear[0], "lif1": first, "linear2": linear[1], "lif2": last})


BUILT = {
    "lif_norse": lif, "lif_rockpool": lambda: lif(0.04, 24.0), "two_lif_neurons": two_lif, "cnn_sinabs": cnn,
    "braille_zero": lambda: braille(False, True), "braille_subtract": lambda: braille(False, False),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Graphs of the same nodes and edges as the paper's, and recordings by rules that are known."""
    place = tmp_path_factory.mktemp("paper")
    for name, build in BUILT.items():
        path = place / paper.GRAPHS[name].path
        path.parent.mkdir(parents=True, exist_ok=True)
        nir.write(path, build())
    graph = definition.Graph(nir.read(place / paper.LIF, type_check=False))
    x = verdict.input_of(graph, 200, 0.15)
    for name, answers in LIKE.items():
        output = definition.run(graph, x, paper.DT, Rules(**answers))[graph.output]
        columns = torch.stack([x.flatten(), torch.zeros(200, dtype=torch.float64), output.flatten()], 1)
        np.savetxt(place / f"01_lif/lif_{name}.csv", columns.numpy(), delimiter=",")
    return place


@pytest.mark.parametrize("name", paper.GRAPHS)
def test_graphs_like_the_papers(folder, name):
    _, _, neurons, spikes, differing = paper.judge(folder, name)
    assert differing == 0 and 1 < spikes < 0.95 * neurons * paper.GRAPHS[name].T


def test_a_recurrent_graph_within_a_graph(folder, monkeypatch):
    monkeypatch.setitem(paper.GRAPHS, "nested", paper.Case("nested.nir", T=64))
    nir.write(folder / "nested.nir", braille(nested=True, bias=True))
    _, _, _, spikes, differing = paper.judge(folder, "nested")
    assert differing == 0 and spikes > 1


def test_recordings_by_rules_that_are_known(folder):
    found = {row[0]: row for row in paper.recordings(folder / paper.LIF)}
    assert set(found) == set(LIKE) and all(row[1] > 1 for row in found.values())
    for name in ("nengo", "norse"):
        assert found[name][2:] == (0, "", "")
    assert found["lava_cpu_float"][2] > 0 and found["lava_cpu_float"][3:] == (1, "output: a step later")
    assert found["sinabs"][2] > 0 and "resets: by subtraction" in found["sinabs"][4]


def test_the_command_writes_two_tables(folder, tmp_path, monkeypatch):
    few = {name: case._replace(T=50) for name, case in paper.GRAPHS.items() if name.startswith("braille")}
    monkeypatch.setattr(paper, "GRAPHS", few)
    monkeypatch.setattr("sys.argv", ["nir_referee.py paper", str(folder), "--out", str(tmp_path)])
    with contextlib.redirect_stdout(io.StringIO()) as said:
        paper.main()
    assert "braille_subtract" in said.getvalue() and "lava_cpu_float" in said.getvalue()
    for name, columns in (("graphs", paper.GRAPH_COLUMNS), ("lif", paper.RECORDING_COLUMNS)):
        with (tmp_path / f"nir_paper_{name}.csv").open() as file:
            assert tuple(next(csv.reader(file))) == columns


def test_a_folder_without_the_graphs_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["nir_referee.py paper", str(tmp_path)])
    with pytest.raises(SystemExit):
        paper.main()
    assert "give the folder paper/ of github.com/neuromorphs/NIR" in capsys.readouterr().err


needs_paper = pytest.mark.skipif(not NIR_PAPER, reason="NIR_PAPER names no folder paper/ of github.com/neuromorphs/NIR")


@needs_paper
@pytest.mark.parametrize("name", paper.GRAPHS)
def test_the_papers_graphs(name):
    _, _, _, spikes, differing = paper.judge(Path(NIR_PAPER or ""), name)
    assert differing == 0 and spikes > 1


@needs_paper
def test_the_papers_recordings(monkeypatch):
    """Who agrees with the equations, who is a step late, and who is early. Which rule it is takes minutes to find."""
    monkeypatch.setattr(verdict, "explain", lambda *_: "")
    late = {row[0]: row[3] for row in paper.recordings(Path(NIR_PAPER or "") / paper.LIF)}
    assert {name for name, steps in late.items() if steps == ""} == {
        "exact",
        "nengo",
        "norse",
        "snntorch",
        "spinnaker2",
    }
    assert {name for name, steps in late.items() if steps == 1} == {
        "lava_cpu_fixed", "lava_cpu_float", "lava_loihi_fixed", "spyx",
    }  # fmt: skip
    assert {name for name, steps in late.items() if steps == -10} == {"rockpool", "sinabs"}
