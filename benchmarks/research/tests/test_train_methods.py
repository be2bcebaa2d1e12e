"""Tandem learning and backpropagation through time, against the same written out in plain torch."""

import pytest
import torch
import torch.nn.functional as F
from common import nets
from equality import equal
from training import methods as train_methods

import proxykernels as pk

T = 12


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = nets.build("6C3-P2-5C3-16", 1.0, 0.0, (1, 8, 8), 4, batch_norm=False)
    for parameter in net.parameters():
        parameter.data *= 2
    return pk.ProxyNet(net, T, readout="rate", clip=False)


@pytest.fixture
def x(generator):
    return torch.rand(5, 1, 8, 8, generator=generator)


def swapped(ann, snn):
    return ann + (snn - ann).detach()


def assert_gradients(model, loss):
    ours = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    loss.backward()
    for parameter, gradient in zip(model.parameters(), ours, strict=True):
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())


def test_tandem_feeds_every_layer_with_the_spiking_networks_rates(model, x):
    layers = dict(model.net.named_children())
    output = train_methods.Tandem(model)(x)
    assert equal(output, model.snn(x)) and output.sum() > 0
    output.square().sum().backward()
    spikes, rates, step = x.expand(T, *x.shape), {}, None
    for name, layer in layers.items():
        spikes = layer(spikes if step is None else spikes)
        rates[name], step = spikes.mean(0), layer
    y = F.relu(F.conv2d(x, layers["conv1"].weight, layers["conv1"].bias, padding=1))
    y = F.max_pool2d(y, 2)
    y = swapped(y, rates["pool1"])
    y = F.relu(F.conv2d(y, layers["conv2"].weight, layers["conv2"].bias, padding=1)).flatten(1)
    y = F.relu(F.linear(swapped(y, rates["flatten"]), layers["linear1"].weight, layers["linear1"].bias))
    y = F.linear(swapped(y, rates["linear1"]), layers["linear2"].weight, layers["linear2"].bias)
    assert_gradients(model, swapped(y, rates["linear2"]).square().sum())


def test_tandem_counts_spikes_behind_a_dropout_by_their_value(generator):
    x = pk.Dropout(0.5).train()(pk.pack((torch.rand(T, 5, 20, generator=generator) < 0.5).float()))
    recorder = train_methods._Recorder(pk.FusedIFLinear(20, 3))
    recorder.spike(x)
    assert equal(recorder.count, x.dense().sum(0)) and recorder.count.max() > 2


def test_surrogate_is_autograd_through_all_steps(model, x):
    layers = dict(model.net.named_children())
    output = train_methods.Surrogate(model)(x)
    torch.testing.assert_close(output, model.snn(x))
    output.square().sum().backward()
    scan = pk.functional.if_scan_surrogate

    def convolve(name, spikes):
        return F.conv2d(spikes.flatten(0, 1), layers[name].weight, layers[name].bias, padding=1).unflatten(0, (T, -1))

    s = scan(convolve("conv1", x.expand(T, *x.shape)))
    s = F.max_pool2d(s.flatten(0, 1), 2).unflatten(0, (T, -1))
    s = scan(convolve("conv2", s)).flatten(2)
    s = scan(F.linear(s, layers["linear1"].weight, layers["linear1"].bias))
    s = scan(F.linear(s, layers["linear2"].weight, layers["linear2"].bias))
    torch.testing.assert_close(s.mean(0), output.detach())
    assert_gradients(model, s.mean(0).square().sum())


def test_unrolled_is_autograd_through_all_steps_up_to_the_last_currents(model, x):
    layers = dict(model.net.named_children())
    output = train_methods.Unrolled(model)(x)
    train_methods.step_cross_entropy(output, torch.eye(4)[[0, 1, 2, 3, 0]], T, 0.0).backward()

    def convolve(name, spikes):
        return F.conv2d(spikes.flatten(0, 1), layers[name].weight, layers[name].bias, padding=1).unflatten(0, (T, -1))

    s = pk.functional.if_scan_surrogate(convolve("conv1", x.expand(T, *x.shape)))
    s = F.max_pool2d(s.flatten(0, 1), 2).unflatten(0, (T, -1))
    s = pk.functional.if_scan_surrogate(convolve("conv2", s)).flatten(2)
    s = pk.functional.if_scan_surrogate(F.linear(s, layers["linear1"].weight, layers["linear1"].bias))
    currents = F.linear(s, layers["linear2"].weight, layers["linear2"].bias)
    torch.testing.assert_close(output, currents)
    labels = torch.tensor([0, 1, 2, 3, 0])
    assert_gradients(model, sum(F.cross_entropy(step, labels) for step in currents) / T)
    mean = train_methods.mean_cross_entropy(currents, torch.eye(4)[labels], T, 0.0)
    torch.testing.assert_close(mean, F.cross_entropy(currents.mean(0), labels))


def test_qcfs_is_what_neurons_do_from_half_a_threshold(generator):
    """Bu et al.: on a constant current, in as many steps as there are levels."""
    torch.manual_seed(0)
    net = nets.build("64", 0.5, None, (1, 4, 4), 4, batch_norm=False)
    x = 3 * torch.rand(20, 1, 4, 4, generator=generator)
    qcfs = train_methods.Qcfs(pk.ProxyNet(net, 8, clip=True))
    output = qcfs(x)
    net.linear1.v_init = 0.25
    spikes = pk.simulate(net, x, 8, record=["linear1"]).records["linear1"]
    rates = spikes.count() / 8
    assert rates.max() == 1 and 0.05 < rates.mean() < 0.9
    torch.testing.assert_close(output, net.linear2.affine(0.5 * rates))
    output.square().sum().backward()
    assert qcfs.thresholds[0].grad.abs() > 0 and net.linear1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("method", ["tandem", "surrogate"])
def test_it_learns(generator, method):
    """Which half of the image is bright, with batch normalisation."""
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (128,), generator=generator)
    images = 0.1 * torch.rand(128, 1, 8, 8, generator=generator)
    images[labels == 0, :, :, :4] += 0.8
    images[labels == 1, :, :, 4:] += 0.8
    model = pk.ProxyNet(nets.build("4C3-P2", 1.0, 0.0, (1, 8, 8), 2), 8, clip=True, readout="rate")
    train = train_methods.METHODS[method](model).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        loss = F.mse_loss(train(images), 0.5 * F.one_hot(labels, 2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rates = train(images)
    assert (rates[:, 0] > rates[:, 1]).eq(labels == 0).float().mean() > 0.95
    assert set(model.rates) == {"conv1", "linear1"}
