"""The cache of packed weights: it follows every change of the weights, and threads may share it."""

import gc

import pytest
import torch
from cases import dyadic, spikes
from equality import equal

import proxykernels as pk
from proxykernels.kernels import cpu, ops, reference
from proxykernels.kernels.cpu.fallback import Fallback
from proxykernels.kernels.neuron_models import if_neuron
from proxykernels.kernels.weight_cache import PackedWeights

CHANGES = {
    "optimizer": lambda layer: torch.optim.SGD([layer.weight], lr=1.0).step(),
    "load_state_dict": lambda layer: layer.load_state_dict({**layer.state_dict(), "weight": layer.weight + 1}),
    "no_grad": lambda layer: torch.no_grad()(layer.weight.add_)(1.0),
    "data in place": lambda layer: layer.weight.data.add_(1.0),
    "one value": lambda layer: layer.weight.data[0].view(-1)[0].add_(1.0),
    "new data": lambda layer: setattr(layer.weight, "data", layer.weight.data + 1),
    "numpy": lambda layer: layer.weight.detach().numpy().__iadd__(1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_packed_weights_are_never_stale(backend, generator, kind, change):
    options = {"v_threshold": 1e6}  # nobody fires: the potential is the sum of all currents
    layer = pk.FusedIFConv2d(3, 5, 3, **options) if kind == "conv" else pk.FusedIFLinear(6, 5, **options)
    layer.weight.data = dyadic(*layer.weight.shape, generator=generator)
    layer.bias.data = dyadic(5, generator=generator)
    layer.weight.grad = torch.ones_like(layer.weight)
    x = spikes(9, 2, *((3, 4, 4) if kind == "conv" else (6,)), generator=generator, rate=1.0)
    before = layer.spike(pk.pack(x))[1]
    change(layer)
    oracle = reference.if_conv2d if kind == "conv" else reference.if_linear
    expected = oracle(x, layer.weight.data, layer.bias.data, **options)[1]
    assert equal(layer.spike(pk.pack(x))[1], expected)
    assert not torch.equal(before, expected)


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_weights_that_another_thread_writes_while_they_are_packed(known):
    """Written right after their fingerprint was taken, and back: what was packed in between is not kept for them."""
    old, new = torch.ones(4, 8), torch.full((4, 8), 2.0)
    weight, interfere = old.clone(), False

    def fingerprint(values):
        nonlocal interfere
        result = Fallback().fingerprint(values)
        if interfere:
            interfere = False
            weight.copy_(new)
        return result

    packed = PackedWeights(fingerprint)
    if known:
        packed.of(weight).get("other", torch.clone)
    interfere = True
    torn = packed.of(weight).get("sum", torch.sum)
    assert torn == new.sum()
    weight.copy_(old)
    assert packed.of(weight).get("sum", torch.sum) == old.sum()
    weight.copy_(new)
    assert packed.of(weight).get("sum", torch.sum) == new.sum()


def test_what_is_packed_is_not_written_to_any_more():
    """Another thread's writes reach the weights, not the copy that is being packed."""
    weight = torch.ones(4, 8)

    def pack(values):
        weight.fill_(2.0)
        return values.sum()

    packed = PackedWeights(Fallback().fingerprint)
    assert packed.of(weight).get("sum", pack) == 32
    assert packed.of(weight).get("sum", torch.sum) == 64


def test_threads_share_what_was_packed_first():
    """What a thread's kernel reads must not be freed because another thread packs the same."""
    weight = torch.ones(4, 8)
    packed = PackedWeights(Fallback().fingerprint)
    inner = []

    def pack(values):
        if not inner:
            inner.append(None)
            inner[0] = packed.of(weight).get("copy", torch.clone)
        return values.clone()

    assert packed.of(weight).get("copy", pack) is inner[0]


def test_packed_weights_live_as_long_as_the_weights():
    kernels = cpu.load()
    words, v, theta = ops.pack(torch.ones(2, 1, 8, 1).bool()), torch.zeros(1, 1, 4), torch.ones(4)
    weight = torch.rand(4, 8)
    kernels.if_conv2d(
        words, 2, (1, 1), weight[..., None, None], None, v, if_neuron(theta, 0.0), (1, 1), (0, 0), (1, 1), 1
    )
    assert len(kernels._packed._known) == 1
    del weight
    gc.collect()
    assert len(kernels._packed._known) == 0
