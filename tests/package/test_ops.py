"""The operators as PyTorch sees them, the house's rules, and life without the C++ library."""

import ast
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

import pytest
import torch
from cases import dyadic, spikes
from torch import nn

import proxykernels as pk
from proxykernels import ops
from proxykernels.kernels.neurons import if_neuron

ROOT = Path(__file__).parents[2]


def samples(generator):
    """Arguments for each operator."""
    T, N, C, H, W = 9, 2, 5, 4, 6
    dense = spikes(T, N, C, H * W, generator=generator).bool()
    words = ops.pack(dense)
    flat = ops.flatten(words, C)
    current, ones = dyadic(T, N, H * W, C, generator=generator), torch.ones(6)
    few, neuron = if_neuron(torch.ones(C), 0.0), if_neuron(ones, 0.0)
    v, v6 = torch.zeros(N, H * W, C), torch.zeros(N, H * W, 6)
    weight, matrix = dyadic(6, C, 3, 3, generator=generator), dyadic(6, C * H * W, generator=generator)
    periods, _ = ops.find_periods(current[0], T, few)
    window = [1, 1], [1, 1], [1, 1]
    grad, surrogate = dyadic(T, N, H * W, 6, generator=generator), pk.ATan().kernel
    images = current.unflatten(2, (H, W)).permute(0, 1, 4, 2, 3)
    return {
        "pack": (dense,),
        "pack_binary": (dense.float().unflatten(3, (H, W)),),
        "unpack": (words, T, C, torch.bool),
        "count": (words, C, 7),
        "total_of_pixels": (words,),
        "flatten": (words, C),
        "max_pool2d": (words, C, [H, W], [2, 2], [2, 2], [0, 0]),
        "max_rate_pool2d": (words, T, v, [H, W], [2, 2], [2, 2], [0, 0]),
        "if_scan": (current, v, *few),
        "scan_backward": (current, v, current, v, *few, *surrogate),
        "conv2d_currents": (words, T, [H, W], weight, ones, v6, *neuron, *window, 1),
        "period_conv2d_currents": (periods, 4, T, [H, W], weight, ones, v6, *neuron, *window),
        "conv2d_weight_gradient": (words, [H, W], grad, weight.shape, *window, 1),
        "max_pool2d_backward": (words, current[:, :, :6], [H, W], [2, 2], [2, 2], [0, 0]),
        "if_hold": (current[0], T, v, *if_neuron(torch.ones(C), None)),
        "if_conv2d": (words, T, [H, W], weight, ones, v6, *neuron, *window, 1),
        "conv2d": (images, weight, ones, *window, 1),
        "if_conv2d_real": (images, weight[:, :, :1, :1], ones, v6, *neuron, [1, 1], [0, 0], [1, 1], 1),
        "find_periods": (current[0], T, *few),
        "expand_periods": (periods, 4, T),
        "total_periods": (periods, 4, T),
        "if_period_conv2d": (periods, 4, T, [H, W], weight, ones, v6, *neuron, *window),
        "if_shortcut_conv2d": (
            words,
            T,
            [H, W],
            weight,
            ones,
            v6,
            *neuron,
            *window,
            ops.pack(grad.transpose(2, 3) > 0),
        ),
        "if_linear": (flat, T, matrix, None, v6[:, :1], *neuron),
    }


@pytest.mark.slow
def test_opcheck(backend, generator):
    """Schemas and fakes are compared with what each way gives; the dispatch, which traces, knows no ways: once."""
    cases = samples(generator)
    tests = ["test_schema", "test_faketensor"]
    if backend == "any-chosen":
        tests += ["test_autograd_registration", "test_aot_dispatch_dynamic"]
    registered = {
        n.split("::")[1].split(".")[0] for n in torch._C._dispatch_get_all_op_names() if "proxykernels::" in n
    }
    over_time = {
        "total",
        "if_conv2d_pooled",
        "conv2d_current_sums",
        "add_counts",
    }  # of words: test_triton_network.py, test_triton_words.py
    assert registered == set(cases) | over_time
    for name, arguments in cases.items():
        torch.library.opcheck(getattr(torch.ops.proxykernels, name).default, arguments, test_utils=tests)


def test_an_operator_compiles(generator):
    arguments = samples(generator)["if_conv2d"]
    compiled = torch.compile(lambda *a: torch.ops.proxykernels.if_conv2d(*a), fullgraph=True, backend="aot_eager")
    expected_results = torch.ops.proxykernels.if_conv2d(*arguments)
    for actual, expected in zip(compiled(*arguments), expected_results, strict=True):
        assert torch.equal(actual, expected)


# From the ground up; a folder stands where all of its files stand.
LAYERS = [
    "kernels",
    "ops",
    "packed",
    "storage",
    "channels_last",
    "handles",
    "known",
    "spikes",
    "spike_tensor",
    "checks",
    "neuron_checks",
    "window_checks",
    "padding",
    "surrogates",
    "neurons",
    "gradients",
    "encode",
    "spike_ops",
    "spike_tensor_functions",
    "currents",
    "any_neuron",
    "functional",
    "parametrized",
    "layers",
    "network",
    "sequences",
]
LAYERS += ["simulation", "engine", "training", "conversion", "plot"]
ROOMS = {  # within a folder
    "kernels": [
        "heap",
        "rounding",
        "neurons",
        "recording",
        "constants",
        "surrogates",
        "reference",
        "reference_gradients",
        "weight_layouts",
        "weight_cache",
        "unfused",
        "unfused_backward",
        "max_rate_pool",
        "cpu",
        "gpu",
        "backends",
    ],
    "layers": [
        "synapses",
        "attributes",
        "base",
        "folded",
        "fused",
        "pooling",
        "pooling1d",
        "running_max",
        "rearranging",
        "dropout",
        "sums",
        "other_names",
        "integrate_and_fire",
        "leaky",
        "learnable",
    ],
    "simulation": [
        "early_exit",
        "logits",
        "dropout",
        "counters",
        "synops",
        "summary",
        "one_step",
        "pool_fusion",
        "state",
        "chunks",
        "records",
        "carrier",
        "quantize",
        "carried",
        "replay",
        "simulate",
        "explain",
    ],
    "engine": ["plan", "follow", "file", "library", "result", "stream", "engine"],
    "gradients": ["inputs", "again", "fire", "calls"],
    "training": ["surrogate", "twin", "proxy", "surrogate_net"],
    "conversion": [
        "refusals",
        "noted",
        "functions",
        "fx_calls",
        "outputs",
        "ranked_trace",
        "time_loops",
        "flow",
        "folding",
        "moves",
        "rewrites",
        "build_layers",
        "port_check",
        "port_runs",
        "port_samples",
        "nir_nodes",
        "nir_graph",
        "nir_neurons",
        "populations",
        "relu_graph",
        "port_graph",
        "scales",
        "compared",
        "report",
        "checked",
        "convert",
        "described",
        "learnt",
        "spikingjelly_neurons",
        "snntorch_neurons",
        "port_proof",
        "libraries",
        "nir_export",
        "nir_check",
        "nir_import",
        "nir",
    ],
}


@cache
def modules() -> dict[tuple[str, ...], Path]:
    """Every module of the package by its path within it: ("kernels", "cpu", "abi")."""
    found = {path.relative_to(ROOT / "proxykernels"): path for path in ROOT.glob("proxykernels/**/*.py")}
    found |= {path.relative_to(ROOT): path for path in ROOT.glob("kernels/**/*.py")}
    return {(*name.parent.parts, name.stem): path for name, path in found.items() if name != Path("__init__.py")}


def rank(module: tuple[str, ...]) -> tuple[int, int]:
    """How high a module stands: its folder's floor, and its own within the folder."""
    rooms = ROOMS.get(module[0], [])
    return LAYERS.index(module[0]), rooms.index(module[1]) if len(module) > 1 and module[1] in rooms else 0


@pytest.mark.parametrize("module", sorted(modules()), ids="/".join)
def test_imports_run_downward(module):
    tree = ast.parse(modules()[module].read_text())
    absolute = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    absolute += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    assert not any(name.split(".")[0] == "proxykernels" for name in absolute)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = module[: len(module) - node.level]
            names = [node.module.split(".")] if node.module else [[a.name] for a in node.names]
            for name in names:
                target = (*base, *name)
                assert module[0] != "kernels" or target[0] == "kernels", f"{module} imports {target}"
                same_folder = target[:-1] == module[:-1] and module[0] == "kernels" and len(module) == 3
                if module[-1] != "__init__" and not same_folder:
                    assert rank(target) < rank(module), f"{module} imports {target}"


@pytest.mark.slow
def test_without_the_library_one_warning_names_the_fix():
    code = """
import torch, warnings
from proxykernels.kernels import cpu
cpu.load = lambda target=None: None
import proxykernels as pk
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        s, v = pk.if_hold(torch.full((1, 2), 0.5), 4)
assert s.count().tolist() == [[2, 2]], s.count()
assert len(caught) == 1 and "Install a C++ compiler" in str(caught[0].message), caught
assert f"then run `{cpu.install_command()}`" in str(caught[0].message), caught
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_first_call_imports_no_compiler():
    """torch._dynamo, which an operator of torch.library.custom_op imports when it is called, takes a second."""
    code = """
import sys, torch, proxykernels as pk
layers = pk.FusedIFConv2d(1, 8, 3), pk.MaxPool2d(2), pk.AvgPool2d(3), pk.Flatten(), pk.FusedIFLinear(8, 3)
net = torch.nn.Sequential(*layers)
pk.simulate(net, torch.rand(2, 1, 8, 8), 4)
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_threads_may_simulate_one_net(generator):
    net = nn.Sequential(pk.FusedIFConv2d(1, 8, 3), pk.Flatten(), pk.FusedIFLinear(8 * 36, 3))
    inputs = [torch.rand(2, 1, 8, 8, generator=generator) for _ in range(2)]
    expected = [pk.simulate(net, x, 50, chunk=5).count() for x in inputs]
    actual = [None, None]

    def work(k):
        for _ in range(5):
            actual[k] = pk.simulate(net, inputs[k], 50, chunk=5).count()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
