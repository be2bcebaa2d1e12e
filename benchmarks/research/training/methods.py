"""The ways to train: each takes images and gives the output that the loss is computed on, with its gradient."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.layers import Neurons, SpikingLayer
from proxykernels.running.prepared_network import replace_neurons
from proxykernels.training.twin import NotBelowZero, OutputSwap

LOGIT_SCALE = 10.0  # cross-entropy sees rates between 0 and 1 as logits between 0 and 10
QCFS_LEVELS = 8
QCFS_LEAST = 1e-3  # of a threshold


class Ann(nn.Module):
    """Only the ReLU twin; its output stands for a firing rate."""

    def __init__(self, model: pk.ProxyNet):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.ann(x)


class Proxy(nn.Module):
    """The spiking network's firing rates, with the twin's gradient."""

    def __init__(self, model: pk.ProxyNet):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class UnboundedProxy(Proxy):
    """The same, with outputs of the twin that the loss lowers below zero too, as it does without the clip."""

    def forward(self, x: Tensor) -> Tensor:
        return OutputSwap.apply(self.model.ann(x), self.model.snn(x))


class Tandem(nn.Module):
    """Tandem learning (Wu et al., IEEE TNNLS 2021, arXiv:1907.01167): the twin sees the spiking rates everywhere.

    Proxy learning uses only the spiking network's output. Here each layer of the ReLU network is fed with the firing
    rates that reach the spiking layer, so its gradient is taken at what the spiking network did. Gives the spiking
    network's firing rates [N, classes].
    """

    def __init__(self, model: pk.ProxyNet):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        model, recorders = self.model, {}

        def record(name: str, layer: SpikingLayer) -> SpikingLayer:
            if not isinstance(layer, Neurons):  # max pooling of rates: what it gives is recorded behind it
                return layer
            recorders[name] = _Recorder(layer)
            return recorders[name]

        net = model.net
        try:
            model.net = replace_neurons(net, record)
            output = model.snn(x)
        finally:
            model.net = net
        inputs = {name: recorder.count / model.T for name, recorder in recorders.items() if recorder.count is not None}
        ann = model.ann(x, inputs)
        if model.clip:  # as ProxyNet does
            ann = NotBelowZero.apply(ann)
        return ann + (output - ann).detach()  # the value of the one, the gradient of the other


class _Recorder(Neurons):
    """A layer that counts the spikes of its input; a first layer, fed with constant currents, has none."""

    def __init__(self, layer: Neurons):
        super().__init__()
        self.layer, self.count = layer, None
        self._set_neurons(layer.neuron, layer.v_init)

    @torch.no_grad()
    def spike(self, x, v=None, *, batch_statistics=False):
        if isinstance(x, pk.Spikes):
            count = x.count() * x.scale
            self.count = count if self.count is None else self.count + count
        return self.layer.spike(x, v, batch_statistics=batch_statistics)


class Surrogate(nn.Module):
    """The spiking network's firing rates [N, classes], differentiable through all T steps."""

    def __init__(self, model: pk.ProxyNet):
        super().__init__()
        self.model = model
        surrogate = pk.Triangle(detach_reset=True)  # of Esser et al., arXiv:1603.08270
        self.through_time = pk.SurrogateNet(model.net, model.T, surrogate=surrogate, readout="rate")

    def forward(self, x: Tensor) -> Tensor:
        model = self.model
        self.through_time.training = model.training and not model.batch_norm_frozen  # whether statistics learn
        output = self.through_time(x)
        model.rates, model.ann_rates, model.ann_output = self.through_time.rates, {}, None  # no twin runs
        return output


class Unrolled(nn.Module):
    """The currents of the last layer at each step, [T, N, classes], differentiable: for few steps.

    Normalisation takes the statistics of all samples and steps, and starts at the scale of a threshold of 1: tdBN,
    "Going deeper with directly-trained larger spiking neural networks" (Zheng et al., AAAI 2021, arXiv:2011.05280). The
    loss sees the last layer's currents at each step; their mean is read.
    """

    def __init__(self, model: pk.ProxyNet):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        model = self.model
        *hidden, last = model.net
        model.rates, model.ann_rates, model.ann_output = {}, {}, None  # no twin runs
        spikes = x.expand(model.T, *x.shape)
        surrogate = pk.Triangle(detach_reset=True)
        for layer in hidden:
            if isinstance(layer, pk.layers.Fused):
                layer.surrogate = surrogate
            try:
                spikes = layer(spikes)
            finally:
                if isinstance(layer, pk.layers.Fused):
                    layer.surrogate = None
        return last.affine(spikes.flatten(0, 1)).unflatten(0, spikes.shape[:2])


class Qcfs(nn.Module):
    """QCFS: a ReLU network with the activations of a few steps, to be converted.

    "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural networks" (Bu et al., ICLR 2022,
    arXiv:2303.04347): quantisation, clip, floor, shift,

        y = theta clip(floor(L I / theta + 1/2) / L, 0, 1)

    which is the mean output of an integrate-and-fire neuron that starts at half its threshold, on a constant current,
    after L steps. Backward the floor is the identity. theta is learned, one value a layer. ``model`` is a chain of
    layers; gives its output [N, classes].
    """

    def __init__(self, model: pk.ProxyNet):
        super().__init__()
        self.model = model
        self.hidden = [layer for layer in model.net if isinstance(layer, pk.layers.Fused)][:-1]
        self.thresholds = nn.ParameterList(torch.tensor(float(layer.v_threshold)) for layer in self.hidden)

    def forward(self, x: Tensor) -> Tensor:
        model, index = self.model, 0
        model.rates, model.ann_rates, model.ann_output = {}, {}, None  # no other network runs
        for name, layer in model.net.named_children():
            if not isinstance(layer, pk.layers.Fused):  # pooling, flattening
                x = layer(x.unsqueeze(0)).squeeze(0)
                continue
            x = layer.affine(x)
            if layer.bn is not None:
                own, learns = model.statistics[name], model.training and not model.batch_norm_frozen
                x = F.batch_norm(
                    x, own.running_mean, own.running_var, layer.bn.weight, layer.bn.bias, learns, own.momentum, own.eps
                )
            if index < len(self.thresholds):
                theta = self.thresholds[index]
                x = theta * _floor(QCFS_LEVELS * x / theta + 0.5).div(QCFS_LEVELS).clamp(0, 1)
                index += 1
        return x

    @torch.no_grad()
    def settle(self) -> None:
        """After a step of the optimizer: the layers, where conversion and checkpoints look, get the thresholds."""
        for layer, theta in zip(self.hidden, self.thresholds, strict=True):
            layer.v_threshold = theta.clamp_(min=QCFS_LEAST).item()


def _floor(x: Tensor) -> Tensor:
    return x + (x.floor() - x).detach()


METHODS = {"ann": Ann, "proxy": Proxy, "tandem": Tandem, "surrogate": Surrogate}
COMPARED: dict[str, Callable[[pk.ProxyNet], nn.Module]] = METHODS | {  # by compare_methods.py
    "qcfs": Qcfs, "unrolled": Unrolled, "unbounded proxy": UnboundedProxy,
}  # fmt: skip


def classes(labels: Tensor, count: int, smoothing: float) -> Tensor:
    """The share of each class in the target [N, count]: 1 of the true one, of which ``smoothing`` goes to all alike."""
    return (1 - smoothing) * F.one_hot(labels, count).float() + smoothing / count


def mse_count(rate: Tensor, shares: Tensor, T: int, target: float) -> Tensor:
    """Mean squared error between spike counts and ``target`` spikes for the true class, 0 for the others."""
    return F.mse_loss(T * rate, target * shares)


def mse_rate(rate: Tensor, shares: Tensor, T: int, target: float) -> Tensor:
    """Mean squared error between firing rates and ``target`` for the true class, 0 for the others."""
    return F.mse_loss(rate, target * shares)


def cross_entropy(rate: Tensor, shares: Tensor, T: int, target: float) -> Tensor:
    """Cross-entropy of the firing rates times LOGIT_SCALE."""
    return F.cross_entropy(LOGIT_SCALE * rate, shares)


def mean_cross_entropy(currents: Tensor, shares: Tensor, T: int, target: float) -> Tensor:
    """Cross-entropy of the mean over the steps of the last layer's currents [T, N, classes]."""
    return F.cross_entropy(currents.mean(0), shares)


def step_cross_entropy(currents: Tensor, shares: Tensor, T: int, target: float) -> Tensor:
    """The mean over the steps of the cross-entropy of each: TET, "Temporal efficient training of spiking neural network
    via gradient re-weighting" (Deng et al., ICLR 2022, arXiv:2202.11946), without its regularising term."""
    return F.cross_entropy(currents.flatten(0, 1), shares.repeat(len(currents), 1))


LOSSES = {"mse-count": mse_count, "mse-rate": mse_rate, "cross-entropy": cross_entropy}
STEP_LOSSES = {"mean-cross-entropy": mean_cross_entropy, "step-cross-entropy": step_cross_entropy}  # of Unrolled


def mean_activation(model: pk.ProxyNet) -> Tensor:
    """The twin's activations as a share of the threshold: the mean over its layers, for a penalty on spikes."""
    return torch.stack(list(model.ann_rates.values())).mean()
