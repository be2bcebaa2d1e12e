"""Networks of other libraries around a module that may keep a state, and whether each is taken and then right."""

import functools
import warnings

import pytest
import torch
from equality import equal
from exchange import snntorch_fires, spikingjelly_fires
from torch import nn

import proxykernels as pk

T = 128


def linear(inputs: int, outputs: int) -> nn.Linear:
    fc = nn.Linear(inputs, outputs)
    fc.weight.data.mul_(3.0)
    return fc


def of_spikingjelly(module, mode="s", first=None):
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    from spikingjelly.activation_based import functional

    torch.manual_seed(0)
    net = nn.Sequential(linear(8, 12), module, first or neuron.IFNode(), linear(12, 6), neuron.LIFNode())
    functional.set_step_mode(net, mode)
    return net.eval()


def of_snntorch(module, first=None):
    snn = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    first = first or snn.Leaky(beta=0.9, **HIDDEN)
    return nn.Sequential(linear(8, 12), module, first, linear(12, 6), snn.Leaky(beta=0.8, **HIDDEN)).eval()


HIDDEN = {"init_hidden": True, "reset_mechanism": "zero"}


def held() -> torch.Tensor:
    return torch.rand(3, 8, generator=torch.Generator().manual_seed(3))


def check_import(take, net: nn.Module, fires, path: str) -> bool:
    """Whether it is taken, and then right for ``T`` steps in which it fires; else it is refused by name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            ours = take(net)
    except (TypeError, ValueError) as error:
        assert path in str(error) and "\n" not in str(error), error
        return False
    expected = fires(net, held(), T)
    assert 0.02 < expected.mean() < 0.98
    assert equal(pk.simulate(ours, held(), T).spikes.dense(), expected)
    return True


def check_spikingjelly(module, path="module '1", mode="s", first=None) -> bool:
    net = of_spikingjelly(module, mode, first)
    return check_import(pk.from_spikingjelly, net, functools.partial(spikingjelly_fires, mode=mode), path)


def check_snntorch(module, path="module '1", first=None) -> bool:
    return check_import(pk.from_snntorch, of_snntorch(module, first), snntorch_fires, path)


def check_convert(module, path="module '1") -> bool:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 12), module, nn.ReLU(), nn.Linear(12, 6)).eval()
    try:
        pk.convert(net, torch.rand(16, 8))
    except (TypeError, ValueError) as error:
        assert path in str(error) and "\n" not in str(error), error
        return False
    with torch.no_grad():
        first, *others = (net(held()) for _ in range(T))
    assert first.any() and all(torch.equal(y, first) for y in others)
    return True


HOSTS = {
    "SpikingJelly": check_spikingjelly,
    "SpikingJelly, all steps in a call": functools.partial(check_spikingjelly, mode="m"),
    "snnTorch": check_snntorch,
    "convert": check_convert,
}
