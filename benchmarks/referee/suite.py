"""The conformance suite: small graphs, one for each node and each question, with the spikes that NIR's equations give.

    python benchmarks/nir_referee.py suite

Writes a zip file of NAME.nir, a graph, and NAME.data.nir, its recording: nir.NIRGraphData with the observable "spikes"
(of readouts "v") of the input and of each neuron. A step has the length 1. Another project needs only nir:

    graph, data = nir.read("lif.nir", type_check=False), nir.read_data("lif.data.nir")
    x, expected = (data.nodes[name].observables["spikes"].data for name in ("input", "n"))  # [1, T, neurons], bool

A graph that asks a question is written only if the other answer gives other spikes, and if no potential is within
1e-6 of its threshold, but where the question is what happens there.
"""

import argparse
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch

from .definition import NEURONS, SPIKING, Graph, run
from .rules import ANSWERS, Rules

PLACE = Path(__file__).parent / "graphs.zip"
SINCE = (2026, 1, 1, 0, 0, 0)  # what a zip file says of each, so that equal files are written
T = 32
UNIT = 16  # weights are multiples of 1 / UNIT, so that most sums are exact in any order


def graphs() -> dict[str, tuple[nir.NIRGraph, str]]:
    """Name -> a graph, and the question that it asks, or ""."""
    asked = {
        "if": ({"l": _linear(4, 3), "n": _if(3)}, ""),
        "if_r": ({"l": _linear(4, 3), "n": _if(3, r=np.full(3, 0.5))}, ""),
        "lif": ({"l": _linear(4, 3), "n": _lif(3)}, ""),
        "cubalif": ({"l": _linear(4, 3, 2.0), "n": _cuba(3)}, ""),
        "li": ({"l": _linear(4, 3), "n": nir.LI(_of(3, 4.0), _of(3, 4.0), _of(3, 0.0))}, ""),
        "threshold": ({"l": _linear(4, 3), "n": nir.Threshold(_of(3, 0.51))}, ""),
        "affine": ({"l": nir.Affine(_weights(3, 4), np.array([0.25, -0.125, 0.5])), "n": _lif(3)}, ""),
        "linear_in_a_row": ({"l": _linear(4, 6), "m": _linear(6, 3), "n": _lif(3)}, ""),
        "scale": ({"s": nir.Scale(np.array([2.0, 0.5, -1.0, 1.0])), "l": _linear(4, 3), "n": _lif(3)}, ""),
        "delay": ({"d": nir.Delay(np.array([0.0, 1.0, 3.0, 5.0])), "l": _linear(4, 3), "n": _lif(3)}, ""),
        "conv2d": ({"c": _conv(), "n": _lif((2, 4, 4))}, ""),
        "pool_and_flatten": (
            {
                "p": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
                "f": nir.Flatten({"input": np.array([1, 2, 2])}, start_dim=0, end_dim=-1),
                "l": _linear(4, 3), "n": _lif(3),
            },
            "",
        ),
        "by_neuron": (
            {
                "l": _linear(4, 3),
                "n": _lif(3, v_threshold=np.array([0.51, 1.01, 2.01]), v_reset=np.array([0, -0.5, 0.25])),
            },
            "",
        ),
        "euler": ({"l": _linear(4, 3), "n": _lif(3, tau=_of(3, 2.0), r=_of(3, 2.0))}, "decay"),
        "new_current": ({"l": _linear(4, 3, 2.0), "n": _cuba(3)}, "current"),
        "reset_now": ({"l": _linear(4, 3), "n": _lif(3, v_reset=_of(3, -1.0))}, "reset"),
        "reset_to": ({"l": _linear(4, 3), "n": _lif(3)}, "resets"),
        "one_spike": ({"l": _linear(4, 3, 4.0), "n": _if(3)}, "spikes"),
        "equal": ({"l": _linear(4, 3), "n": _if(3, v_threshold=_of(3, 0.5))}, "fires"),
        "start": ({"l": _linear(4, 3), "n": _lif(3, v_leak=_of(3, 0.9))}, "start"),
        "self_firing": ({"l": _linear(4, 3), "n": _lif(3, v_leak=_of(3, 1.5))}, ""),
        "same_step": ({"l": _linear(4, 3), "n": _lif(3), "m": _linear(3, 2, 2.0), "o": _lif(2)}, "output"),
    }  # fmt: skip
    return {name: (_chain(nodes), question) for name, (nodes, question) in asked.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PLACE, help="zip file")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, (graph, question) in graphs().items():
            nir.write(f"{folder}/{name}.nir", graph)
            nir.write_data(f"{folder}/{name}.data.nir", recording(graph, question))
            for part in (f"{name}.nir", f"{name}.data.nir"):
                file.writestr(zipfile.ZipInfo(part, SINCE), Path(folder, part).read_bytes(), zipfile.ZIP_DEFLATED)
    print(f"-> {out}: {len(graphs())} graphs")


def recording(graph: nir.NIRGraph, question: str) -> nir.NIRGraphData:
    """What the equations give for the graph's input.

    Raises:
        ValueError: the graph is silent, or does not tell the answers to its question apart.
    """
    solved, x = Graph(graph), input_of(graph)
    given = run(solved, x, 1.0, Rules())
    output = given[solved.output]
    if not output.any():
        raise ValueError(f"a graph is silent: {list(graph.nodes)}")
    near = (nudged(graph, x, by) for by in (1 - 1e-6, 1 + 1e-6))
    if question != "fires" and any(not torch.equal(output, other) for other in near if not _potentials(solved)):
        raise ValueError(f"a potential is near the threshold: {question or list(graph.nodes)}")
    if question:
        other = run(solved, x, 1.0, Rules(**{question: ANSWERS[question][1]}))[solved.output]
        if torch.equal(output, other):
            raise ValueError(f"both answers give the same spikes: {question}")
    names = {"input": x} | {n: given[n] for n in solved.order if isinstance(solved.nodes[n], NEURONS)}
    return nir.NIRGraphData(
        {n: _observed(v, isinstance(graph.nodes[n], SPIKING) or n == "input") for n, v in names.items()}
    )


def nudged(graph: nir.NIRGraph, x: torch.Tensor, by: float) -> torch.Tensor:
    """The output for thresholds multiplied by ``by``."""
    other = Graph(graph)
    for name, node in other.nodes.items():
        if isinstance(node, SPIKING):
            other.nodes[name] = _with_threshold(node, by)
    return run(other, x, 1.0, Rules())[other.output]


def input_of(graph: nir.NIRGraph) -> torch.Tensor:
    shape = [int(n) for n in graph.nodes["input"].input_type["input"]]
    return (torch.rand(T, 1, *shape, generator=torch.Generator().manual_seed(3)) < 0.4).double()


def _potentials(graph: Graph) -> bool:
    return not any(isinstance(node, SPIKING) for node in graph.nodes.values())


def _with_threshold(node: Any, by: float) -> Any:
    values = {key: value for key, value in vars(node).items() if key not in ("input_type", "output_type", "metadata")}
    name = "threshold" if isinstance(node, nir.Threshold) else "v_threshold"
    return type(node)(**(values | {name: values[name] * by}))


def _observed(values: torch.Tensor, spikes: bool) -> nir.NIRNodeData:
    array = values.flatten(2).transpose(0, 1).contiguous().numpy()
    return nir.NIRNodeData(
        {"spikes" if spikes else "v": nir.TimeGriddedData(array.astype(bool) if spikes else array, 1.0)}
    )


def _chain(nodes: dict[str, Any]) -> nir.NIRGraph:
    """The nodes one behind another, between an input and an output."""
    first, last = next(iter(nodes.values())), list(nodes.values())[-1]
    shape = np.array([1, 4, 4]) if isinstance(first, nir.Conv2d | nir.SumPool2d) else first.input_type["input"]
    out = np.shape(getattr(last, "v_threshold", getattr(last, "threshold", getattr(last, "r", None))))
    names = ["input", *nodes, "output"]
    whole = {"input": nir.Input({"input": shape}), **nodes, "output": nir.Output({"output": np.array(out)})}
    return nir.NIRGraph(whole, list(zip(names[:-1], names[1:], strict=True)), type_check=False)


def _weights(*shape: int) -> np.ndarray:
    generator = np.random.default_rng(sum(shape))
    return (generator.integers(-3, 9, shape) / UNIT).astype(np.float32)


def _linear(inputs: int, outputs: int, gain: float = 1.0) -> nir.Linear:
    return nir.Linear(gain * _weights(outputs, inputs))


def _conv() -> nir.Conv2d:
    return nir.Conv2d((4, 4), _weights(2, 1, 3, 3), 1, 1, 1, 1, np.zeros(2, np.float32))


def _of(shape: Any, value: float) -> np.ndarray:
    return np.full(shape, value, np.float32)


def _if(n: int, **values: np.ndarray) -> nir.IF:
    return nir.IF(**({"r": _of(n, 1.0), "v_threshold": _of(n, 1.01), "v_reset": _of(n, 0.0)} | values))


def _lif(shape: Any, **values: np.ndarray) -> nir.LIF:
    plain = {"tau": 4.0, "r": 4.0, "v_leak": 0.0, "v_threshold": 1.01, "v_reset": 0.0}
    return nir.LIF(**({name: _of(shape, value) for name, value in plain.items()} | values))


def _cuba(n: int) -> nir.CubaLIF:
    plain = {"tau_syn": 2.0, "tau_mem": 4.0, "r": 4.0, "w_in": 1.0, "v_leak": 0.0, "v_threshold": 1.51, "v_reset": 0.0}
    return nir.CubaLIF(**{name: _of(n, value) for name, value in plain.items()})


if __name__ == "__main__":
    main()
