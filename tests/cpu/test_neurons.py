"""Every neuron model, also recurrent, in every way a CPU can take: traces written out by hand, and the oracle."""

import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
from cases import CONVOLUTIONS, RESETS, STEPS, dyadic, spikes, thresholds
from equality import equal
from neuron_cases import NAMES, TRACES, channelwise, state
from neuron_cases import state as state_of

import proxykernels as pk
from proxykernels import neurons
from proxykernels.calls import neuron_ops
from proxykernels.kernels import reference
from proxykernels.kernels.cpu import sources
from proxykernels.neurons import IFNeuron
from proxykernels.spikes.storage import Periods, Words


@pytest.mark.parametrize("neuron, current, spikes, states", TRACES)
def test_hand_traces(instruction_set, neuron, current, spikes, states):
    current = torch.tensor(current).view(-1, 1, 1)
    for t in range(1, len(current) + 1):
        s, v = pk.calls.neuron_ops.scan(current[:t], None, neuron)
        assert s.dense().flatten().tolist() == spikes[:t]
        expected = states[t - 1] if isinstance(states[t - 1], tuple) else (states[t - 1],)
        assert v.flatten().tolist() == list(expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 37, 3, 2), (3, 64), (1, 5, 7)], ids=str)
def test_scan(instruction_set, generator, shape, name):
    neuron = channelwise(shape[1], generator)[name]
    current = torch.randn(40, *shape, generator=generator)
    v0 = state(neuron, shape, generator)
    expected, v_expected = reference.scan(current, v0, neuron.on(shape[1], current.device))
    actual, v = pk.calls.neuron_ops.scan(current, v0, neuron)
    assert expected.any() and v.shape == v0.shape
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.alike
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(backend, generator, case, name):
    C_in, H, W, C_out, kernel_size, *window = case
    neuron = channelwise(C_out, generator)[name]
    x = spikes(33, 2, C_in, H, W, generator=generator)
    weight = dyadic(C_out, C_in // window[-1], *kernel_size, generator=generator)
    bias = dyadic(C_out, generator=generator, span=4)
    on = neuron.on(C_out, x.device)
    shape = reference.conv2d(x[:1], weight, None, None, on, *window)[0].shape[1:]
    v0 = state(neuron, shape, generator)
    expected, v_expected = reference.conv2d(x, weight, bias, v0, on, *window)
    actual, v = pk.calls.neuron_ops.conv2d(pk.pack(x), weight, bias, v0, neuron, *window)
    assert expected.any()
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize("chunks", [[33], [1, 32], [16, 17]], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_time_may_be_cut_anywhere(backend, generator, chunks, name):
    neuron, x = channelwise(9, generator)[name], spikes(33, 2, 20, generator=generator)
    weight = dyadic(9, 20, generator=generator)
    whole, v_whole = pk.calls.neuron_ops.linear(pk.pack(x), weight, None, None, neuron)
    v, parts, start = None, [], 0
    for steps in chunks:
        part, v = pk.calls.neuron_ops.linear(pk.pack(x)[start : start + steps], weight, None, v, neuron)
        parts.append(part.dense())
        start += steps
    assert whole.rate() > 0
    assert equal(torch.cat(parts), whole.dense()) and equal(v, v_whole)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Loihi"])
def test_scaled_neurons_fire_alike(generator, name):
    """A factor of 2 is exact; one for each channel goes with a reset and a rest at 0."""
    neuron, current = channelwise(5, generator)[name], torch.randn(40, 3, 5, generator=generator)
    at_zero = replace(neuron, v_reset=neuron.v_reset and 0.0, v_rest=0.0)
    for scaled, plain in (neuron.scaled(2.0), neuron), (at_zero.scaled(torch.full((5,), 2.0)), at_zero):
        expected, v_expected = pk.calls.neuron_ops.scan(current, None, plain)
        spikes, v = pk.calls.neuron_ops.scan(2 * current, None, scaled)
        assert expected.count().any() and equal(spikes.dense(), expected.dense())
        if plain.states == 1:
            assert equal(v, 2 * v_expected)


@pytest.mark.parametrize("T", [1, 33, 300])
@pytest.mark.parametrize("v_rest", [0.0, -0.5])
def test_leaky_neurons_that_reset_to_rest_repeat_themselves(backend, generator, T, v_rest):
    current = torch.randn(2, 9, 5, 3, generator=generator).abs()
    neuron = neurons.LIFNeuron(
        v_threshold=thresholds(9, generator), v_reset=v_rest, decay=torch.rand(9, generator=generator), v_rest=v_rest
    )
    expected, v_expected = reference.hold(current, T, torch.full_like(current, v_rest), neuron.on(9, current.device))
    actual, v = pk.calls.neuron_ops.hold(current, T, None, neuron)
    assert isinstance(actual._kept, Periods if current.device.type == "cpu" and T > 1 else Words)
    assert equal(v, v_expected)
    weight = dyadic(12, 9, 3, 3, generator=generator)
    y_expected, u_expected = reference.conv2d(expected, weight, None, None, pk.IF().neuron.on(12, current.device))
    y, u = pk.calls.neuron_ops.conv2d(actual, weight, None, None, pk.IF().neuron)
    assert expected.any() and equal(actual.dense(), expected)
    assert equal(y.dense(), y_expected) and equal(u, u_expected)


def test_a_decay_of_one_integrates_and_fires(generator):
    current = torch.randn(50, 3, 7, generator=generator)
    for v_reset in (0.0, None):
        leaky = pk.calls.neuron_ops.scan(current, None, neurons.LIFNeuron(v_threshold=1.0, v_reset=v_reset, decay=1.0))
        plain = pk.if_scan(current, v_reset=v_reset)
        assert leaky[0].rate() > 0.05
        assert equal(leaky[0].dense(), plain[0].dense()) and equal(leaky[1], plain[1])


def test_neurons_that_never_adapt_or_rest_are_leaky(generator):
    current = torch.randn(50, 3, 7, generator=generator) + 0.3
    expected = pk.calls.neuron_ops.scan(current, None, neurons.LIFNeuron(decay=0.9))[0].dense()
    same = [
        neurons.CubaLIFNeuron(decay=0.9, current_decay=0.0),
        neurons.ALIFNeuron(decay=0.9, adaptation=0.0),
        neurons.RefractoryLIFNeuron(decay=0.9, refractory=0),
    ]
    for neuron in same:
        assert expected.mean() > 0.05 and equal(pk.calls.neuron_ops.scan(current, None, neuron)[0].dense(), expected)


SIZES = [(6, 7, 1), (3, 5, 7), (2, 16, 32), (1, 40, 33), (5, 9, 64), (2, 3, 200), (9, 4, 130)]  # N, in, out
RECURRENCES = ["full", "elementwise"]


def weights(inputs: int, C: int, recurrence: str, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Weight, bias and recurrent weight."""
    recurrent = dyadic(*((C, C) if recurrence == "full" else (C,)), generator=generator, span=8)
    weight = dyadic(C, inputs, generator=generator) + 0.25  # so that one neuron alone fires, too
    return weight, dyadic(C, generator=generator, span=4) + 0.25, recurrent


def start(neuron, N: int, C: int, generator: torch.Generator) -> torch.Tensor:
    """A state [N, states + 1, C]."""
    v = state_of(neuron, (N, C), generator).view(N, neuron.states, C)
    return torch.cat([v, spikes(N, 1, C, generator=generator, rate=0.3)], 1)


def expected(x, weight, bias, recurrent, v, neuron):
    """By the definition."""
    current = torch.nn.functional.linear(x, weight, bias)
    return reference.recurrent_scan(current, v, neuron.on(len(weight), x.device), recurrent)


@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_spikes_come_back(instruction_set, generator, size, recurrence, T, v_reset):
    N, inputs, C = size
    parameters = weights(inputs, C, recurrence, generator)
    neuron = IFNeuron(v_threshold=thresholds(C, generator), v_reset=v_reset)
    x, v0 = spikes(T, N, inputs, generator=generator), start(neuron, N, C, generator)
    v0[:, 0] += 1.5  # so that some fire in one step, too
    wanted, v_wanted = expected(x, *parameters, v0, neuron)
    found, v = neuron_ops.recurrent_linear(pk.pack(x), *parameters, v0, neuron)
    assert wanted.any()
    assert equal(found.dense(), wanted) and equal(v, v_wanted)


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("name", NAMES)
def test_neurons_of_every_model(instruction_set, generator, name, recurrence):
    T, N, inputs, C = 40, 3, 11, 70
    parameters, neuron = weights(inputs, C, recurrence, generator), channelwise(C, generator)[name]
    x, v0 = spikes(T, N, inputs, generator=generator), start(neuron, N, C, generator)
    v0[:, 0] *= 0  # leaky potentials are no dyadic numbers: their products are rounded, but always in the same way
    wanted, v_wanted = expected(x, *parameters, v0, neuron)
    found, v = neuron_ops.recurrent_linear(pk.pack(x), *parameters, v0, neuron)
    assert 0.01 < wanted.mean() < 0.9
    assert equal(found.dense(), wanted) and equal(v, v_wanted)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_any_firing_rate(instruction_set, generator, rate):
    """Of the neurons themselves: the potential starts so far up or down that they fire at this rate at first."""
    N, C = 4, 150
    parameters, neuron = weights(6, C, "full", generator), IFNeuron(v_threshold=2.0, v_reset=None)
    v0 = torch.zeros(N, 2, C)
    v0[:, 0] = 64 * (spikes(N, C, generator=generator, rate=rate) - 0.5)
    v0[:, 1] = v0[:, 0] > 0
    x = spikes(9, N, 6, generator=generator)
    wanted, v_wanted = expected(x, *parameters, v0, neuron)
    found, v = neuron_ops.recurrent_linear(pk.pack(x), *parameters, v0, neuron)
    assert abs(wanted[0].mean() - rate) < 0.1
    assert equal(found.dense(), wanted) and equal(v, v_wanted)


@pytest.mark.parametrize("steps", [1, 8, 33])
def test_any_chunking(instruction_set, generator, steps):
    """The state holds all that the next call needs, the last spikes included."""
    parameters, neuron = weights(6, 50, "full", generator), IFNeuron(v_threshold=2.0, v_reset=None)
    x = spikes(70, 2, 6, generator=generator)
    wanted, v_wanted = neuron_ops.recurrent_linear(pk.pack(x), *parameters, None, neuron)
    parts, v = [], None
    for first in range(0, len(x), steps):
        fired, v = neuron_ops.recurrent_linear(pk.pack(x[first : first + steps]), *parameters, v, neuron)
        parts.append(fired.dense())
    assert wanted.count().any()
    assert equal(torch.cat(parts), wanted.dense()) and equal(v, v_wanted)


def test_real_values_and_constant_ones(instruction_set, generator):
    parameters, neuron = weights(6, 50, "full", generator), IFNeuron(v_threshold=2.0)
    x = dyadic(40, 3, 6, generator=generator)
    for given in (x, x[:1].expand(40, -1, -1)):
        wanted, v_wanted = expected(given, *parameters, None, neuron)
        found, v = neuron_ops.recurrent_linear(given, *parameters, None, neuron)
        assert wanted.any()
        assert equal(found.dense(), wanted) and equal(v, v_wanted)


def test_pieces_of_steps(instruction_set, generator, monkeypatch):
    """Of so many neurons that the currents of all steps are made in several pieces."""
    from proxykernels.calls import gradients as recurrent

    monkeypatch.setattr(recurrent, "PIECE_BYTES", 1 << 12)
    parameters, neuron = weights(6, 50, "full", generator), IFNeuron(v_threshold=2.0)
    x = spikes(100, 2, 6, generator=generator)
    wanted, v_wanted = expected(x, *parameters, None, neuron)
    found, v = neuron_ops.recurrent_linear(pk.pack(x), *parameters, None, neuron)
    assert wanted.any()
    assert equal(found.dense(), wanted) and equal(v, v_wanted)


def test_no_samples(instruction_set, generator):
    parameters = weights(6, 5, "full", generator)
    found, v = neuron_ops.recurrent_linear(pk.pack(torch.zeros(4, 0, 6)), *parameters, None, IFNeuron())
    assert found.shape == (4, 0, 5) and v.shape == (0, 2, 5)


STRUCT = """
struct Doubling : LeakyHardReset {
    template <class V> static inline Compared<V> step(V* state, V current, const Parameters<V>& p) {
        return LeakyHardReset::step(state, current + current, p);
    }
};
"""
BACK = "template <> struct Back<Doubling> : Back<LeakyHardReset> {};\n"


@pytest.mark.slow
@pytest.mark.parametrize("complete", [False, True])
def test_a_neuron_without_a_step_back(tmp_path, complete):
    """It would return gradients that nobody has written."""
    folder = tmp_path / "src"
    shutil.copytree(sources.FOLDER, folder)

    def add(file, text, before):
        code = (folder / file).read_text()
        assert code.count(before) == 1
        (folder / file).write_text(code.replace(before, text + before))

    add("models.h", "MODEL(Doubling, 1, 2, 2) ", "MODEL(SynapticHardReset")
    add("neurons.h", STRUCT, "template <class Model>\nconstexpr int channelwise = 0;")
    if complete:
        add("scan_backward.h", BACK, "struct Strip {")
    code = tmp_path / "scan.cpp"
    code.write_text('#include "scan_backward.h"\n')
    flags = [*sources.FLAGS, "-DPK_TARGET=portable", f"-I{folder}", "-fsyntax-only"]
    done = subprocess.run(["c++", *flags, str(code)], capture_output=True, text=True)
    assert (done.returncode == 0) == complete, done.stderr
    assert complete or "Back<portable::Doubling>" in done.stderr
