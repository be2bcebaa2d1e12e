"""Small NIR graphs, one for each node and for each question on which simulators differ, with golden recordings.

``graphs.zip`` has NAME.nir, a graph, and NAME.data.nir, its recording: nir.NIRGraphData with the observable "spikes",
or "v" for readouts, of the input and of each neuron, in steps of length 1. The recordings were computed from the
equations of NIR in float64. No potential lies within 1e-6 of its threshold, except where the graph asks what happens
there.
"""

import zipfile
from pathlib import Path

import pytest
import torch
from equality import equal

import proxykernels as pk

nir = pytest.importorskip("nir")
pytest.importorskip("nir.data_ir")
if not hasattr(nir, "CubaLI"):
    pytest.skip("this version of nir has no CubaLI", allow_module_level=True)

SUITE = Path(__file__).parent / "graphs.zip"
NAMES = sorted({name.split(".")[0] for name in zipfile.ZipFile(SUITE).namelist()})


def observed(data: "nir.NIRGraphData", name: str) -> torch.Tensor:
    (values,) = data.nodes[name].observables.values()
    given = pk.from_nir_data(values)
    return given.dense() if isinstance(given, pk.Spikes) else given


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_gives_what_its_recording_holds(name, tmp_path):
    """Spikes are equal bit by bit, potentials up to rounding."""
    with zipfile.ZipFile(SUITE) as file:
        graph, data = (file.extract(f"{name}{end}", tmp_path) for end in (".nir", ".data.nir"))
    data = nir.read_data(data)
    read = nir.read(graph, type_check=False)
    (last,) = (start for start, end in read.edges if end == "output")
    x = observed(data, "input").unflatten(2, [int(n) for n in read.nodes["input"].input_type["input"]])
    expected = observed(data, last)
    result = pk.simulate(pk.from_nir(graph, reset="v_reset"), x, len(x))
    if isinstance(read.nodes[last], nir.LI):
        assert expected.std() > 0.05
        assert torch.allclose(result.potentials, expected, atol=1e-6)
    else:
        assert 0.01 < expected.mean() < 0.99
        assert equal(result.spikes.dense().flatten(2), expected)
