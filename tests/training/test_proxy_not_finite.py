"""NaN and infinity in training by proxy: the spikes do not show them, so ProxyNet looks for them."""

import pytest
import torch
from test_proxy import make_pair

import proxykernels as pk


@pytest.fixture
def x(generator):
    return torch.rand(5, 1, 8, 8, generator=generator)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return pk.ProxyNet(make_pair()[0], 20, clip=False)


@pytest.mark.parametrize(("clip", "value"), [(True, torch.nan), (False, torch.nan), (False, torch.inf)])
@pytest.mark.parametrize(("index", "which"), [(0, "weight"), (2, "bias"), (6, "weight")])
def test_weights_that_are_not_finite_name_their_layer(model, x, index, which, value, clip):
    model.clip = clip
    assert torch.isfinite(model(x)).all()
    getattr(model.net[index], which).data[0] = value
    with pytest.raises(FloatingPointError, match=f"the {which} of layer {index} holds NaN or infinite values"):
        model(x)


def test_a_step_by_gradients_that_are_not_finite_is_the_last(model, x):
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    model(x).sum().backward()
    model.net[2].weight.grad[0, 0, 0, 0] = torch.nan
    optimizer.step()
    with pytest.raises(FloatingPointError, match="the weight of layer 2 holds NaN"):
        model(x)


def test_overflow_names_its_layer(model, x):
    model.half()
    model.net[2].weight.data[0] = 6e4
    with pytest.raises(FloatingPointError, match="layer 2 overflows, whose weights are finite"):
        model(x.half())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_whose_gradient_is_not_finite(model, x, value):
    output = model(x)
    assert output.sum() > 0
    loss = (output * torch.tensor([1.0, 1.0, value, 1.0])).sum()
    with pytest.raises(
        FloatingPointError, match="the gradient that the loss gives the output of ProxyNet is not finite"
    ):
        loss.backward()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_bad_input_is_named(model, x):
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="x must be finite"):
        model(x)


def test_a_scaled_loss_may_overflow_in_half_precision(model, x):
    """torch.amp.GradScaler skips such a step, and goes on with a lower scale."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    before = [parameter.clone() for parameter in model.parameters()]
    with torch.autocast("cpu", torch.float16):
        loss = model(x).square().sum()
    assert loss > 0
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < 2.0**40
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_evaluation_names_the_layer_too(model, x):
    """There the spiking network runs alone."""
    model.eval()
    model.net[6].bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="layer 6: bias must be finite"):
        model(x)
