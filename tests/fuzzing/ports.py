"""Random networks of SpikingJelly and snnTorch, taken over: the same spikes, where all sums are exact in float32."""

from dataclasses import dataclass
from importlib.util import find_spec
from random import Random

import torch
from exchange import make_dyadic, snntorch_fires, spikingjelly_fires
from torch import Tensor, nn

import proxykernels as pk

from . import draw, ways
from .case import Case, same

LIBRARIES = tuple(name for name in ("spikingjelly", "snntorch") if find_spec(name))
UNIT = 1 / 16
STEPS = 6  # each adds a bit to what float32 must hold of leaky neurons
NEURONS = {
    "spikingjelly": ("IFNode", "LIFNode", "LIFNode, whole", "ParametricLIFNode", "CUBALIFNode"),
    "snntorch": ("Leaky", "Leaky, at once", "Leaky, subtract", "Lapicque", "Synaptic"),
}


class Shortcut(nn.Module):
    """x + block(x), which neurons take."""

    def __init__(self, block: nn.Module, neurons: nn.Module):
        super().__init__()
        self.block, self.neurons = block, neurons

    def forward(self, x: Tensor) -> Tensor:
        return self.neurons(x + self.block(x))


@dataclass(frozen=True, kw_only=True)
class Port(Case):
    """A network of so many blocks."""

    library: str = LIBRARIES[0] if LIBRARIES else ""
    kind: str = "IFNode"
    v_reset: float | None = 0.0
    mode: str = "s"
    blocks: int = 1
    N: int = 1
    channels: int = 2
    size: int = 6

    @classmethod
    def draw(cls, random: Random, **common) -> "Port":
        library = random.choice(LIBRARIES)
        return cls(
            **common, library=library, kind=random.choice(NEURONS[library]), blocks=random.randint(1, 4),
            v_reset=random.choice((0.0, -0.5, None)), mode=random.choice("sm"), N=random.randint(1, 3),
            channels=random.choice((1, 2, 3, 6)), size=random.randint(5, 12),
        )  # fmt: skip

    def check(self) -> bool:
        g = draw.generator(self.seed)
        net = make_dyadic(self._build(), g, UNIT)
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.data += 2 * UNIT  # so that most fire
        x = torch.randint(0, 9, (self.N, self.channels, self.size, self.size), generator=g) * 0.25
        with ways.use(self.way, self.threads):
            if self.library == "spikingjelly":
                from spikingjelly.activation_based import functional

                functional.set_step_mode(net, self.mode)
                expected = spikingjelly_fires(net, x, STEPS, self.mode)
                ours = pk.from_spikingjelly(net)
            else:
                expected = snntorch_fires(net, x, STEPS)
                ours = pk.from_snntorch(net)
            same("spikes", pk.simulate(ours, x, STEPS).spikes.dense(), expected)
        return bool(expected.any())

    def _build(self) -> nn.Sequential:
        random = Random(self.seed)
        kinds = self._kinds()
        layers: list[nn.Module] = []
        C, size = self.channels, self.size
        for _ in range(self.blocks):
            if layers and random.random() < 0.3:
                block = [kinds.Conv2d(C, C, 3, padding=1, bias=random.random() < 0.5)]
                block += [kinds.BatchNorm2d(C)] if random.random() < 0.5 else []
                layers.append(Shortcut(nn.Sequential(*block), self._neurons(random)))
                continue
            groups = random.choice((1, C))
            outputs, kernel = groups * random.choice((1, 2, 4)), random.choice((1, 2, 3))
            stride = random.choice((1, 1, 2))
            dilation, padding = random.choice((1, 1, 2)), random.choice((0, 1))
            after = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            if after < 2 or outputs > 24:
                continue
            layers.append(kinds.Conv2d(C, outputs, kernel, stride, padding, dilation, groups, random.random() < 0.5))
            layers += [kinds.BatchNorm2d(outputs)] if random.random() < 0.4 else []
            layers.append(self._neurons(random))
            C, size = outputs, after
            if size >= 4 and random.random() < 0.4:
                layers.append(random.choice((kinds.MaxPool2d, kinds.AvgPool2d))(2))
                size //= 2
        layers += [kinds.Flatten(), kinds.Linear(C * size * size, 7, bias=random.random() < 0.5), self._neurons(random)]
        return nn.Sequential(*layers)

    def _kinds(self):
        if self.library == "snntorch":
            return nn
        from spikingjelly.activation_based import layer

        return layer

    def _neurons(self, random: Random) -> nn.Module:
        theta = random.choice((0.5, 1.0, 1.5))
        name = self.kind.split(",")[0]
        if self.library == "snntorch":
            import snntorch

            # "subtract" fires otherwise where a potential equals the threshold
            subtract = "subtract" in self.kind
            options = {"Lapicque": {"R": 2.0, "C": 1.0}, "Synaptic": {"alpha": 0.5, "beta": 0.5}}.get(
                name, {"beta": 0.5}
            )
            options["reset_delay"] = "at once" not in self.kind and name != "Synaptic"
            options |= {"threshold": theta + subtract * 2.0**-11, "reset_mechanism": "subtract" if subtract else "zero"}
            if name == "Lapicque":
                del options["reset_delay"]
            return getattr(snntorch, name)(init_hidden=True, **options)
        from spikingjelly.activation_based import neuron

        options = {
            "LIFNode": {"tau": 2.0, "decay_input": "whole" not in self.kind}, "ParametricLIFNode": {"init_tau": 2.0},
            "CUBALIFNode": {"c_decay": 0.5, "v_decay": 0.5},
        }.get(name, {})  # fmt: skip
        return getattr(neuron, name)(v_threshold=theta, v_reset=self.v_reset, **options)
