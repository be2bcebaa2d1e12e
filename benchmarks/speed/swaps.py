"""A model of SpikingJelly, some of whose layers are swapped for this package's: the ten convolutions of its VGG-13."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import proxykernels as pk

from .ops_parts import interleave, times

T, N, SIZE, QUICK_SIZE = 16, 4, 32, 8
BIAS = -0.6  # of the normalised currents, in thresholds: 12 % of the first layer fire at a step, 2 to 6 % of the others
SWAPS = {  # name -> which of the layers, counted from the images
    "none of ten layers": (),
    "the first two": (0, 1),
    "two apart": (1, 4),
    "the first four": (0, 1, 2, 3),
    "all ten, and pooling": tuple(range(10)),
}
MOST_DIFFERENT = 0.02  # of the output's spikes: sums in another order now and then flip one, which flips others


def rows(rounds: int, size: int) -> Iterator[dict]:
    """A row for each swap: its median beside that of the model as it was, in turns; nothing without SpikingJelly."""
    try:
        from spikingjelly.activation_based import functional
    except ImportError:
        return
    with torch.no_grad():
        images = torch.rand(N, 3, size, size, generator=torch.Generator().manual_seed(1))
        x = images.expand(T, *images.shape)
        model = _model(x)
        nets = {name: _swapped(model, chosen) for name, chosen in SWAPS.items()}

        def run(net: nn.Module) -> Tensor:
            functional.reset_net(net)
            return net(x)

        expected = run(model)
        for name, net in nets.items():
            different = float((run(net) != expected).float().mean())
            if not 0 < expected.mean() < 1 or different > MOST_DIFFERENT:
                raise AssertionError(f"{name}: {different:.2%} of the spikes differ from the model's, or none fires")
        jobs = {name: lambda net=net: run(net).sum() for name, net in nets.items()}
        medians = {name: times(found)["median_ms"] for name, found in interleave(jobs, rounds).items()}
    for name, chosen in SWAPS.items():
        yield {
            "job": f"VGG-13, swapped: {name}", "T": T, "N": N, "rate": "", "rate_out": round(float(expected.mean()), 4),
            "ours_ms": round(medians[name], 1), "loop_ms": "",
            "spikingjelly_ms": round(medians[next(iter(SWAPS))], 1) if chosen else "",
            "pack_gb_s": "", "dense_gb_s": "", "copy_gb_s": "",
        }  # fmt: skip


def _model(x: Tensor) -> nn.Sequential:
    """Its features, whose normalisation has seen x, so that all layers fire."""
    from spikingjelly.activation_based import functional, neuron
    from spikingjelly.activation_based.model import spiking_vgg

    torch.manual_seed(0)
    model = spiking_vgg.spiking_vgg13_bn(spiking_neuron=neuron.IFNode, num_classes=10, init_weights=False).features
    functional.set_step_mode(model, "m")
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            module.bias.fill_(BIAS)
    model.train()(x)
    functional.reset_net(model)
    return model.eval()


def _swapped(model: nn.Sequential, chosen: tuple[int, ...]) -> nn.Sequential:
    """The model with some of its layers, each a convolution, a normalisation and neurons, swapped."""
    modules, layer, left = [], 0, iter(model)
    for module in left:
        if isinstance(module, nn.MaxPool2d) and len(chosen) == 10:
            modules.append(pk.MaxPool2d(module.kernel_size))
            continue
        if not isinstance(module, nn.Conv2d):
            modules.append(module)
            continue
        if layer in chosen:
            normalisation, _ = next(left), next(left)
            ours = pk.FusedIFConv2d(module.in_channels, module.out_channels, 3, padding=1, batch_norm=True)
            ours.load_state_dict(module.state_dict() | {f"bn.{k}": v for k, v in normalisation.state_dict().items()})
            modules.append(ours)
        else:
            modules.append(module)
        layer += 1
    return nn.Sequential(*modules).eval()
