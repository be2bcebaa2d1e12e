"""Gradients of gradients: create_graph=True and torch.func, against autograd through the steps of the definition."""

import pytest
import torch
import torch.nn.functional as F
from cases import spikes
from equality import equal
from gradient_cases import close
from torch import nn
from torch.utils.checkpoint import checkpoint

import proxykernels as pk
from proxykernels.kernels import reference_gradients

SURROGATES = [pk.ATan(2.0), pk.FastSigmoid(5.0), pk.Sigmoid(4.0), pk.Triangle(1.5), pk.ATan(2.0, detach_reset=True)]
NEURONS = {
    "hard": pk.neurons.IFNeuron(v_threshold=0.75, v_reset=0.0),
    "soft": pk.neurons.IFNeuron(v_threshold=0.75, v_reset=None),
    "leaky": pk.neurons.LIFNeuron(v_threshold=0.75, v_reset=None, decay=torch.tensor([0.5, 0.75, 0.875, 1.0])),
    "current-based": pk.neurons.CubaLIFNeuron(v_threshold=0.75, v_reset=0.0, decay=0.75, current_decay=0.25),
    "adaptive": pk.neurons.ALIFNeuron(v_threshold=0.5, v_reset=0.0, decay=0.75, adaptation_decay=0.5, adaptation=0.25),
    "refractory": pk.neurons.RefractoryLIFNeuron(v_threshold=0.5, v_reset=0.0, decay=0.75, refractory=2),
}


def twice(output, leaves) -> list[torch.Tensor]:
    """The gradient of the squares of the output's gradient."""
    first = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
    return list(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))


def by_definition(x, layer, surrogate):
    """What a FusedConv2d gives for x [T, N, C, H, W], by the steps of reference_gradients.py."""
    window = layer.stride, layer.padding, layer.dilation, layer.groups
    currents = F.conv2d(x.flatten(0, 1), layer.weight, layer.bias, *window).unflatten(0, x.shape[:2])
    neuron = layer.neuron.on(layer.out_channels, x.device)
    return reference_gradients.surrogate_scan(currents, None, neuron, surrogate.kernel)[0]


@pytest.mark.parametrize("kind", ["real", "held", "spikes"])
@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: type(s).__name__ + "-detached" * s.detach_reset)
@pytest.mark.parametrize("model", NEURONS)
def test_they_are_the_definitions(generator, model, surrogate, kind):
    torch.manual_seed(0)
    layer = pk.FusedConv2d(2, 4, 3, stride=2, padding=1, neuron=NEURONS[model])
    layer.surrogate = surrogate
    image = 2 * torch.rand(2, 2, 5, 4, generator=generator)
    x = (
        spikes(7, 2, 2, 5, 4, generator=generator)
        if kind == "spikes"
        else torch.rand(7, 1, 1, 1, 1, generator=generator) * image
    )
    leaf = image.requires_grad_() if kind == "held" else x.requires_grad_()
    x = image.expand(7, *image.shape) if kind == "held" else x
    leaves = [leaf, *layer.parameters()]
    mine, theirs = layer(x), by_definition(x, layer, surrogate)
    assert equal(mine, theirs) and mine.any()
    found, expected = twice(mine, leaves), twice(theirs, leaves)
    assert all(e.any() for e in expected) and all(map(close, found, expected))


class PlainSpike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, surrogate):
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * reference_gradients.derivative(x, torch.tensor(0.75), ctx.surrogate.kernel), None


@pytest.mark.parametrize("v_reset", [0.0, 0.125, None])
@pytest.mark.parametrize("surrogate", SURROGATES[:4], ids=lambda s: type(s).__name__)
def test_the_definitions_are_those_of_a_plain_loop(generator, surrogate, v_reset):
    """The reset h + s (v_reset - h) is a product: its derivative by s has a derivative by h."""

    def loop(currents):
        v, steps = torch.zeros_like(currents[0]), []
        for current in currents:
            h = v + current
            spike = PlainSpike.apply(h - 0.75, surrogate)
            v = h - 0.75 * spike if v_reset is None else h + spike * (v_reset - h)
            steps.append(spike)
        return torch.stack(steps)

    layer = pk.use_surrogate(pk.IF(v_threshold=0.75, v_reset=v_reset), surrogate)
    x = torch.rand(9, 4, 3, generator=generator, requires_grad=True)
    weights = torch.rand(9, 4, 3, generator=generator)
    ours, plain = layer(x), loop(x)
    assert equal(ours, plain) and ours.any()
    assert close(*(twice(weights * y + y.detach(), [x])[0] for y in (ours, plain)))


def test_through_a_checkpoint_of_torch(generator):
    """It allows its saved tensors to be read once."""
    layer = pk.use_surrogate(pk.FusedIFLinear(6, 4, v_threshold=0.25), pk.ATan())
    x = torch.rand(5, 3, 6, generator=generator)
    found, expected = (twice(y, [layer.weight])[0] for y in (checkpoint(layer, x, use_reentrant=False), layer(x)))
    assert expected.any() and equal(found, expected)


def test_through_a_network_of_every_function_of_spikes(generator):
    """Pooling, padding, joining, dropping, counting: the second derivative goes through each."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.drop = pk.FusedIFConv2d(1, 4, 3, padding=1, v_threshold=0.5), pk.Dropout(0.5)
            self.pool, self.pad, self.second = pk.MaxPool2d(2), pk.ZeroPad2d(1), pk.FusedLIFConv2d(4, 4, 3)
            self.join = pk.FusedIFSum(nn.Conv2d(4, 4, 3, padding=1), nn.Identity(), v_threshold=0.5)
            self.both, self.flatten, self.last = pk.Concatenate(), pk.Flatten(), pk.FusedIFLinear(128, 3)

        def forward(self, x):
            x = self.pool(self.drop(self.first(x)))
            y = self.second(self.pad(x))
            return self.last(self.flatten(self.both((self.join((y, x)), y))))

    torch.manual_seed(1)
    net = pk.use_surrogate(Net(), pk.Sigmoid(3.0))
    for parameter in net.parameters():
        parameter.data.mul_(3)
    net.drop.p = 0.0  # or the two passes would differ
    x = spikes(6, 2, 1, 8, 8, generator=generator, rate=0.5)
    counts = net(pk.pack(x)).count()
    assert counts.requires_grad and counts.any()
    found = twice(counts, list(net.parameters()))
    # The same network of the definition's steps.
    images = by_definition(x, net.first, pk.Sigmoid(3.0))
    pooled = F.max_pool2d(images.flatten(0, 1), 2).unflatten(0, (6, 2))
    y = by_definition(F.pad(pooled, (1, 1, 1, 1)), net.second, pk.Sigmoid(3.0))
    current = net.join.synapses[0](y.flatten(0, 1)).unflatten(0, (6, 2)) + pooled
    surrogate, device = pk.Sigmoid(3.0).kernel, x.device
    joined, _ = reference_gradients.surrogate_scan(current, None, net.join.neuron.on(4, device), surrogate)
    current = F.linear(torch.cat([joined, y], 2).flatten(2), net.last.weight, net.last.bias)
    last, _ = reference_gradients.surrogate_scan(current, None, net.last.neuron.on(3, device), surrogate)
    assert equal(last.sum(0), counts)
    expected = twice(last.sum(0), list(net.parameters()))
    assert all(e.any() for e in expected) and all(map(close, found, expected))


def test_a_gradient_penalty_reaches_the_weights(generator):
    """It did not: the gradient's own graph was empty, and the penalty's part was missing without a word."""
    torch.manual_seed(0)
    layer = pk.use_surrogate(pk.FusedIFLinear(6, 4, v_threshold=0.25), pk.ATan())
    x = torch.rand(5, 3, 6, generator=generator, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert layer.weight.grad.any() and x.grad is not None


def test_without_create_graph_the_kernels_compute_the_gradient(generator, monkeypatch):
    from proxykernels.calls import gradients

    monkeypatch.setattr(gradients, "followed_gradients", None)
    layer = pk.use_surrogate(pk.FusedIFLinear(6, 4, v_threshold=0.25), pk.ATan())
    layer(torch.rand(5, 3, 6, generator=generator)).sum().backward()
    assert layer.weight.grad.any()


def make_net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        pk.FusedLIFConv2d(1, 4, 3, v_threshold=0.25),
        pk.MaxPool2d(2),
        pk.Flatten(),
        pk.FusedIFLinear(36, 3, v_threshold=0.25),
    )
    for parameter in net.parameters():
        parameter.data.mul_(3)
    return pk.use_surrogate(net, pk.ATan())


@pytest.mark.parametrize("kind", ["real", "spikes"])
def test_gradients_of_each_sample_by_torch_func(generator, kind):
    net = make_net()
    x = torch.rand(3, 5, 2, 1, 8, 8, generator=generator)
    x = x if kind == "real" else (x < 0.5).float()
    parameters = dict(net.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(net, parameters, x).square().sum()

    assert equal(torch.vmap(net)(x), torch.stack(list(map(net, x)))) and net(x[0]).any()
    found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for k, sample in enumerate(x):
        expected = torch.autograd.grad(loss(parameters, sample), list(parameters.values()))
        assert all(e.any() for e in expected)
        assert all(close(found[name][k], e) for name, e in zip(parameters, expected, strict=True))


def test_an_ensemble_by_vmap(generator):
    def make(seed):
        torch.manual_seed(seed)
        return nn.Sequential(pk.FusedIFLinear(6, 5, v_threshold=0.25), pk.FusedLIFLinear(5, 3, v_threshold=0.125))

    nets = [make(seed).eval() for seed in range(4)]
    parameters = torch.func.stack_module_state(nets)
    x = torch.rand(7, 2, 6, generator=generator)
    for given in (x, (x < 0.5).float()):
        y = torch.vmap(lambda *state: torch.func.functional_call(nets[0], state, given))(*parameters)  # noqa: B023
        assert equal(y, torch.stack([net(given) for net in nets])) and y.any()


@pytest.mark.long
def test_second_derivatives_by_torch_func(generator):
    layer = pk.use_surrogate(pk.FusedIFLinear(3, 2, v_threshold=0.25), pk.ATan())
    x = torch.rand(2, 1, 3, generator=generator)

    def loss(x):
        return layer(x).square().sum()

    found = torch.func.jacrev(torch.func.jacrev(loss))(x)
    assert found.any() and close(found, torch.autograd.functional.hessian(loss, x))
    with pytest.raises(NotImplementedError, match="forward mode AD"):
        torch.func.jvp(layer, (x,), (x,))
