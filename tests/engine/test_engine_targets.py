"""Which instruction set an engine runs on."""

import ctypes

import layerwise
import pytest
from equality import equal
from test_engine import TARGETS, image, network

import proxykernels as pk
from proxykernels.kernels import cpu
from proxykernels.plan import library
from proxykernels.running.engine import Engine


def address(functions) -> int:
    return ctypes.addressof(functions)


@pytest.mark.parametrize("most", TARGETS)
def test_the_environment_names_the_fastest_that_an_engine_takes(monkeypatch, most):
    """In what it computes with, what it says and what it prints; and others are compiled, which give the same."""
    own = {target: library.load(target)[1] for target in TARGETS}
    assert len(set(map(address, own.values()))) == len(TARGETS)
    monkeypatch.setenv("PROXYKERNELS_CPU", most)
    net, x = network(), image()
    engine = pk.compile(net, x)
    assert engine.target == most and f"float32, {most}\n" in repr(engine)
    assert address(engine._compiled.functions) == address(own[most])
    expected = layerwise.simulate(net, x, 9).spikes.dense()
    assert expected.any() and equal(engine(x, 9).spikes.dense(), expected)
    for target in TARGETS[: TARGETS.index(most)]:
        with pytest.raises(RuntimeError, match=f"the engine cannot run {target} here: .* or PROXYKERNELS_CPU"):
            Engine(engine.plan, target=target)


def test_of_those_that_it_may_take_it_takes_the_fastest_that_it_has(monkeypatch):
    monkeypatch.setenv("PROXYKERNELS_CPU", "amx")
    assert pk.compile(network(), image()).target == next(filter(cpu.load, cpu.TARGETS))  # as the layers' kernels


def test_another_name_is_refused(monkeypatch):
    monkeypatch.setenv("PROXYKERNELS_CPU", "sse")
    with pytest.raises(ValueError, match="PROXYKERNELS_CPU must be one of amx, avx512, avx2, portable, got 'sse'"):
        pk.compile(network(), image())
