"""The operators as PyTorch sees them, their gradients, names of arguments, and life without the C++ library."""

import ast
import inspect
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import torch
from cases import RESETS, dyadic, spikes, thresholds
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.kernels import ops, reference_gradients
from proxykernels.kernels.neuron_models import if_neuron
from proxykernels.neurons import (
    ALIFNeuron,
    CubaLIFNeuron,
    IFNeuron,
    LIFNeuron,
    LINeuron,
    LoihiNeuron,
    RefractoryLIFNeuron,
)

ROOT = Path(__file__).parents[2]


def samples(generator):
    """Arguments for each operator; behind its name may stand what they are."""
    T, N, C, H, W = 9, 2, 5, 4, 6
    dense = spikes(T, N, C, H * W, generator=generator).bool()
    words = ops.pack(dense)
    current, ones = dyadic(T, N, H * W, C, generator=generator), torch.ones(6)
    few, neuron = if_neuron(torch.ones(C), 0.0), if_neuron(ones, 0.0)
    v, v6 = torch.zeros(N, H * W, C), torch.zeros(N, H * W, 6)
    weight = dyadic(6, C, 3, 3, generator=generator)
    fed_back, recurrent = torch.zeros(N, 2, 1, C), weight[:C, :, 0, 0].contiguous()
    periods, _ = ops.find_periods(current[0], T, few)
    window = [1, 1], [1, 1], [1, 1]
    grad, surrogate = dyadic(T, N, H * W, 6, generator=generator), pk.ATan().kernel
    images = current.unflatten(2, (H, W)).permute(0, 1, 4, 2, 3)
    layer = words, T, [H, W], weight, ones, v6, *neuron, *window, 1
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
        "if_scan of a constant current": (current[0], v, *if_neuron(torch.ones(C), None), T),
        "scan_backward": (current, v, current, v, *few, *surrogate),
        "recurrent_scan": (current[:, :, :1], fed_back, *few, recurrent),
        "recurrent_scan_backward": (
            current[:, :, :1],
            fed_back,
            current[:, :, :1],
            fed_back,
            *few,
            *surrogate,
            recurrent,
        ),
        "conv2d_currents": layer,
        "period_conv2d_currents": (periods, 4, T, [H, W], weight, ones, v6, *neuron, *window),
        "conv2d_weight_gradient": (words, [H, W], grad, weight.shape, *window, 1),
        "max_pool2d_backward": (words, current[:, :, :6], [H, W], [2, 2], [2, 2], [0, 0]),
        "if_conv2d": layer,
        "if_conv2d with a shortcut": (*layer, ops.pack(grad.transpose(2, 3) > 0)),
        "conv2d": (images, weight, ones, *window, 1),
        "if_conv2d_real": (images, weight[:, :, :1, :1], ones, v6, *neuron, [1, 1], [0, 0], [1, 1], 1),
        "find_periods": (current[0], T, *few),
        "expand_periods": (periods, 4, T),
        "total_periods": (periods, 4, T),
        "if_period_conv2d": (periods, 4, T, [H, W], weight, ones, v6, *neuron, *window),
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
        "potentials",
    }  # only on a GPU: test_triton_network.py, test_triton_words.py, test_triton_numbers.py
    assert registered == {name.split()[0] for name in cases} | over_time
    for name, arguments in cases.items():
        torch.library.opcheck(getattr(torch.ops.proxykernels, name.split()[0]).default, arguments, test_utils=tests)


def test_an_operator_compiles(generator):
    arguments = samples(generator)["if_conv2d"]
    compiled = torch.compile(lambda *a: torch.ops.proxykernels.if_conv2d(*a), fullgraph=True, backend="aot_eager")
    expected_results = torch.ops.proxykernels.if_conv2d(*arguments)
    for actual, expected in zip(compiled(*arguments), expected_results, strict=True):
        assert equal(actual, expected)


@cache
def modules() -> dict[tuple[str, ...], Path]:
    """Every module of the package by its path within it: ("kernels", "cpu", "abi")."""
    found = {path.relative_to(ROOT / "proxykernels"): path for path in ROOT.glob("proxykernels/**/*.py")}
    found |= {path.relative_to(ROOT): path for path in ROOT.glob("kernels/**/*.py")}
    return {(*name.parent.parts, name.stem): path for name, path in found.items() if name != Path("__init__.py")}


def imported(module: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """What a module imports of the package."""
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "proxykernels" for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level or node.module.split(".")[0] != "proxykernels"
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module.split(".")] if node.module else [[alias.name] for alias in node.names]
            yield from ((*module[: len(module) - node.level], *name) for name in names)


def test_no_files_of_a_folder_import_each_other():
    """At each level: neither files, nor folders by way of their files."""
    levels = {}
    for module in modules():
        for target in imported(module):
            k = next(k for k, (one, other) in enumerate(zip(module, (*target, ""), strict=False)) if one != other)
            if module[k] != "__init__" and k < len(target):
                levels.setdefault(module[:k], {}).setdefault(module[k], set()).add(target[k])
    assert len(levels) > 10
    for folder, graph in levels.items():
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            raise AssertionError(f"in {'/'.join(folder)}: {' -> '.join(error.args[1])}") from None


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


@pytest.mark.slow
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


TRIANGLE = pk.Triangle(1.0, detach_reset=True)

SHAPES = [
    pytest.param((1, 2, 3), id="one-step"),
    pytest.param((7, 2, 5, 3, 3), id="odd"),
    pytest.param((33, 3, 64), id="whole-strip"),
    pytest.param((20, 2, 33, 4, 5), id="over-a-strip"),
    pytest.param((12, 0, 4, 2, 2), id="no-images"),
]


def oracle(current, gradient, v_threshold, v_reset):
    leaf = current.detach().clone().requires_grad_()
    neuron = IFNeuron(v_threshold=v_threshold, v_reset=v_reset).on(current.shape[2], current.device)
    spikes, _ = reference_gradients.surrogate_scan(leaf, None, neuron, TRIANGLE.kernel)
    return spikes.detach(), torch.autograd.grad(spikes, leaf, gradient)[0]


@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_the_oracles(instruction_set, generator, shape, v_reset):
    """On random floats too: the operations are the same, in the same order."""
    theta = thresholds(shape[2], generator)
    for current in (dyadic(*shape, generator=generator), torch.randn(shape, generator=generator)):
        current.view(-1)[:1] = 3  # above every threshold: some neuron fires in the smallest shape too
        gradient = torch.randn(shape, generator=generator)
        leaf = current.clone().requires_grad_()
        spikes = pk.functional.if_scan_surrogate(leaf, v_threshold=theta, v_reset=v_reset)
        (ours,) = torch.autograd.grad(spikes, leaf, gradient)
        expected, theirs = oracle(current, gradient, theta, v_reset)
        assert theirs.any() and expected.any() or not expected.numel()
        assert equal(spikes, expected) and equal(ours, theirs)


def test_golden_gradient():
    """Worked by hand: currents 0.75 each, theta 1, hard reset; potentials h are 0.75, 1.5, 0.75."""
    current = torch.full((3, 1, 1), 0.75, requires_grad=True)
    spikes = pk.functional.if_scan_surrogate(current)
    spikes.backward(torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1))
    # g = 1 - |h - 1| = 0.75, 0.5, 0.75. Step 3 keeps 4 * 0.75 = 3; the spike of step 2 cuts it: 2 * 0.5 = 1;
    # step 1 passes that on: 0.75 + 1.
    assert spikes.flatten().tolist() == [0, 1, 0] and current.grad.flatten().tolist() == [1.75, 1, 3]


def test_channels_last_and_half_precision(generator):
    current = dyadic(6, 2, 5, 4, 3, generator=generator)
    gradient = dyadic(6, 2, 5, 4, 3, generator=generator)
    _, expected = oracle(current, gradient, 1.0, 0.0)
    leaf = current.movedim(2, -1).contiguous().movedim(-1, 2).bfloat16().requires_grad_()
    (ours,) = torch.autograd.grad(pk.functional.if_scan_surrogate(leaf), leaf, gradient)
    assert ours.dtype == torch.bfloat16 and equal(ours, expected.bfloat16())


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="v_threshold must be positive"):
        pk.functional.if_scan_surrogate(torch.zeros(2, 1, 3), v_threshold=0.0)
    with pytest.raises(ValueError, match=r"current must have the shape \[T, N, ...\]"):
        pk.functional.if_scan_surrogate(torch.zeros(3))


BY_POSITION = {
    "LIF": (lambda: pk.LIF(0.9, 0.5), lambda: pk.LIF(decay=0.9, v_threshold=0.5), "decay=0.9, v_threshold=0.5"),
    "IF": (lambda: pk.IF(0.9, None), lambda: pk.IF(v_threshold=0.9, v_reset=None), "v_threshold=0.9, v_reset=None"),
    "LI": (lambda: pk.LI(0.9), lambda: pk.LI(decay=0.9), "decay=0.9"),
    "Population": (
        lambda: pk.Population(IFNeuron(), 0.5), lambda: pk.Population(IFNeuron(), v_init=0.5), "write v_init=0.5"
    ),
    "MaxPool2d": (lambda: pk.MaxPool2d(2, 1, 0, True), lambda: pk.MaxPool2d(2, 1, ceil_mode=True), "ceil_mode=True"),
    "MaxRatePool1d": (
        lambda: pk.layers.MaxRatePool1d(2, 1, 0, True),
        lambda: pk.layers.MaxRatePool1d(2, 1, ceil_mode=True),
        "ceil_mode=True",
    ),
    "ZeroPad2d": (lambda: pk.ZeroPad2d(1, (2, 2)), lambda: pk.ZeroPad2d(1, spread=(2, 2)), r"spread=\(2, 2\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_POSITION)
def test_a_layer_takes_positions_for_a_release(name):
    old, new, shown = BY_POSITION[name]
    with pytest.warns(DeprecationWarning, match=f"^{name} was given .*{shown}") as caught:
        layer = old()
    assert caught[0].filename == __file__ and repr(layer) == repr(new())


@pytest.mark.parametrize(
    "kind", [IFNeuron, LIFNeuron, CubaLIFNeuron, ALIFNeuron, RefractoryLIFNeuron, LINeuron, LoihiNeuron]
)
def test_a_neuron_takes_positions_for_a_release(kind):
    first = kind.names()[0]
    with pytest.warns(DeprecationWarning, match=f"{kind.__name__} was given {first} .*: write {first}=0.75") as caught:
        neuron = kind(0.75)
    assert caught[0].filename == __file__ and neuron == kind(**{first: 0.75})


@pytest.mark.filterwarnings("error")
def test_names_give_no_warning():
    for _, new, _ in BY_POSITION.values():
        new()
    pk.Population(LIFNeuron(decay=0.5).scaled(2.0), v_init=0.25)
    pk.FusedLIFLinear(4, 3, decay=0.9)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: pk.FusedLIFLinear(8, 64, 0.9),
        lambda: pk.FusedIFLinear(8, 64, 1.0),
        lambda: pk.FusedLILinear(8, 64, 1),
        lambda: pk.FusedIFConv2d(8, 64, 3, 1, 1, 1, 1, 2.0),
        lambda: pk.layers.FusedConv1d(8, 64, 3, bias=0.9, neuron=IFNeuron()),
    ],
)
def test_a_bias_is_no_number(layer):
    """nn.Linear takes any value for its bias, and what was meant for the neurons was lost."""
    with pytest.raises(TypeError, match=r"^bias must be True or False, got [\d.]+; .* by name, such as v_threshold"):
        layer()


def test_a_rounding_up_is_no_number():
    """Where nn.MaxPool2d has its dilation."""
    with pytest.warns(DeprecationWarning), pytest.raises(TypeError, match="ceil_mode must be True or False, got 2"):
        pk.MaxPool2d(2, 2, 0, 2)


def test_one_value_for_an_argument():
    with pytest.raises(TypeError, match="LIF got decay by position and by name"):
        pk.LIF(0.9, decay=0.5)
    with pytest.raises(TypeError, match="LI takes decay, v_rest, v_init, got 4 values"):
        pk.LI(1.0, 0.0, 0.0, 1.0)
    with pytest.warns(DeprecationWarning), pytest.raises(TypeError, match="positional arguments"):
        IFNeuron(1.0, 0.0, 0.5)


def test_no_layer_has_more_positions_than_torchs_module():
    """A layer takes by position, in torch's order, what torch's module of that name does; the rest by name."""
    positional, compared = inspect.Parameter.POSITIONAL_OR_KEYWORD, set[str]()
    for name in pk.__all__:
        kind = getattr(pk, name)
        if not (inspect.isclass(kind) and issubclass(kind, nn.Module)):
            continue
        plain = getattr(nn, re.sub(r"^Fused(LIF|IF|LI(?=[A-Z]))?", "", name), None)
        own = [p.name for p in inspect.signature(kind).parameters.values() if p.kind is positional]
        if plain is not None and name != "Unflatten":
            compared.add(name)
            theirs = [p.name for p in inspect.signature(plain).parameters.values() if p.kind is positional]
            assert own == theirs[: len(own)], name
    assert {"FusedLinear", "FusedLILinear", "FusedLIFConv2d", "FusedIFConv1d", "MaxPool2d"} <= compared
