"""The instruction sets that this machine runs, and those that it is told to count as its own."""

import ctypes

import pytest

from proxykernels.kernels.cpu import abi, compiled


@pytest.mark.parametrize("most", compiled.TARGETS)
def test_an_environment_variable_names_the_fastest_that_may_be_taken(monkeypatch, most):
    monkeypatch.delenv("PROXYKERNELS_CPU", raising=False)
    here = {target: abi.load(target) for target in compiled.TARGETS}
    monkeypatch.setenv("PROXYKERNELS_CPU", most)
    allowed = compiled.TARGETS[compiled.TARGETS.index(most) :]
    assert [abi.load(target) is not None for target in allowed] == [here[target] is not None for target in allowed]
    assert not any(map(abi.load, set(compiled.TARGETS) - set(allowed)))
    found = [here[target] for target in allowed if here[target]]
    if not found:  # the library was built for a faster one alone
        assert abi.load(None) is None
        return
    assert ctypes.addressof(abi.load(None)) == ctypes.addressof(found[0])


def test_another_name_is_refused(monkeypatch):
    monkeypatch.setenv("PROXYKERNELS_CPU", "AVX2")
    with pytest.raises(ValueError, match="PROXYKERNELS_CPU must be one of amx, avx512, avx2, portable, got 'AVX2'"):
        abi.load(None)
