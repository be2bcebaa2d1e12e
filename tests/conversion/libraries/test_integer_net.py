"""A network of I-LIF neurons with the blocks of Spike-driven Transformer V3, imported from SpikingJelly."""

import pytest
import torch
from equality import equal
from torch import nn

import proxykernels as pk

functional = pytest.importorskip("spikingjelly.activation_based.functional")


@pytest.fixture(scope="module")
def theirs():
    """A network whose weights, normalisations and decay make all sums exact."""
    from speed.integer_nets import integer_net

    net, random = integer_net((4, 8)), torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0  # the variance is 1
        elif isinstance(module, nn.Conv2d | nn.Linear):
            steps = torch.randint(-3, 5, module.weight.shape, generator=random)
            module.weight.data.copy_(steps / (4.0 if getattr(module, "groups", 1) > 1 else 8.0))
            if module.bias is not None:
                module.bias.data.zero_()
    functional.set_step_mode(net, "m")
    return net.eval()


@pytest.mark.parametrize("T, N", [(1, 1), (4, 1), (4, 8)])
def test_integers_and_output_are_the_originals(theirs, T, N):
    x = torch.randint(0, 5, (N, 3, 16, 16), generator=torch.Generator().manual_seed(2)) / 4.0
    fired = []
    hooks = [
        m.register_forward_hook(lambda m, _, y: fired.append(y)) for m in theirs.modules() if hasattr(m, "v_threshold")
    ]
    with torch.no_grad():
        functional.reset_net(theirs)
        expected = theirs(x.expand(T, *x.shape).contiguous())
    for hook in hooks:
        hook.remove()
    ours = pk.from_spikingjelly(theirs, torch.rand(1, 3, 16, 16), check=False)
    result = pk.simulate(ours, x, T)
    assert equal(result.output, expected) and expected.any()
    rates = torch.tensor([y.mean() for y in fired])
    assert (rates > 0.05).all() and max(y.max() for y in fired) == 4
    assert torch.allclose(torch.tensor(sorted(result.rates.values())), rates.sort().values)
