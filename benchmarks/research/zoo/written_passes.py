"""Small networks of snnTorch with forward passes as people write them, beside a plain stack of layers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

T, CLASSES, SIZE = 4, 5, 4


def written_passes() -> dict[str, Callable[[], nn.Module]]:
    """What makes each network of snnTorch, by what is particular in it. All take steps [T, N, 8], but for images."""
    import snntorch

    class Looped(nn.Module):
        """A loop over time with all potentials; a derived class changes what a step does."""

        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(8, 16), snntorch.Leaky(0.5)
            self.fc2, self.lif2 = nn.Linear(16, CLASSES * SIZE), snntorch.Leaky(0.5)
            self.norms = nn.ModuleList(nn.BatchNorm1d(16) for _ in range(T))
            self.steps, self.gain = nn.Parameter(torch.randn(T, 8)), nn.Parameter(torch.ones(16))
            self.back = nn.Linear(CLASSES * SIZE, 16, bias=False)

        def current(self, x: Tensor, t: int, spk2: Tensor) -> Tensor:
            return self.fc1(x[t])

        def given(self, spk: Tensor) -> Tensor:
            return spk

        def start(self, x: Tensor) -> Tensor:
            return self.lif1.init_leaky()

        def forward(self, x: Tensor) -> Tensor:
            mem1, mem2, out = self.start(x), self.lif2.init_leaky(), []
            spk2 = torch.zeros(x.size(1), CLASSES * SIZE)
            for t in range(T):
                spk1, mem1 = self.lif1(self.current(x, t, spk2), mem1)
                spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
                out.append(self.given(spk2))
            return torch.stack(out)

    def with_(**methods: Callable) -> Callable[[], nn.Module]:
        return type("Looped", (Looped,), methods)

    def images(neuron: nn.Module) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(2, 4, 3), neuron, nn.Flatten(), nn.Linear(144, 5), snntorch.Leaky(0.5, init_hidden=True)
        )

    def inhibited(kind: str, **options: float) -> nn.Module:
        neuron = getattr(snntorch, kind)(**options, inhibition=True, init_hidden=True)
        return nn.Sequential(nn.Linear(8, 16), neuron, nn.Linear(16, 5), snntorch.Leaky(0.5, init_hidden=True))

    back = {"conv2d_channels": 4, "kernel_size": 3, "init_hidden": True}
    return {
        "start potentials of zeros": with_(start=lambda self, x: torch.zeros(x.size(1), 16)),
        "sums of groups": with_(given=lambda self, spk: spk.view(-1, CLASSES, SIZE).sum(-1)),
        "a norm for each step": with_(current=lambda self, x, t, spk2: self.norms[t](self.fc1(x[t]))),
        "an embedding of each step": with_(current=lambda self, x, t, spk2: self.fc1(x[t] + self.steps[t])),
        "a learnable gain": with_(current=lambda self, x, t, spk2: self.fc1(x[t]) * self.gain),
        "differences of frames": with_(current=lambda self, x, t, spk2: self.fc1(x[t] - x[t - 1] if t else x[t])),
        "feedback of a later layer": with_(current=lambda self, x, t, spk2: self.fc1(x[t]) + self.back(spk2)),
        "Leaky, inhibition": lambda: inhibited("Leaky", beta=0.5),
        "Synaptic, inhibition": lambda: inhibited("Synaptic", alpha=0.75, beta=0.5),
        "Alpha, inhibition": lambda: inhibited("Alpha", alpha=0.75, beta=0.5),
        "RLeaky, convolutional": lambda: images(snntorch.RLeaky(0.5, **back)),
        "RSynaptic, convolutional": lambda: images(snntorch.RSynaptic(0.75, 0.5, **back)),
    }
