"""The step loop that whole networks are compared with: plain torch, one step and one layer at a time."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.kernels import reference, rounding
from proxykernels.plan import quantize


def step_loop(net: pk.Network, x: Tensor, T: int) -> dict[str, Tensor]:
    """What each layer of a network gives, dense [T, N, ...]; x [N, ...] held."""
    return trace(net, x.expand(T, *x.shape))[0]


@torch.no_grad()
def trace(net: pk.Network, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What each layer gives, and the states of those that have some, after every step of x: dense [T, N, ...]."""
    state: dict[str, Tensor] = {}
    values: dict[str, list[Tensor]] = {name: [] for name, _, _ in net.layers()}
    states: dict[str, list[Tensor]] = {}
    for step in x:
        now = {pk.Network.INPUT: step}
        for name, layer, sources in net.layers():
            now[name] = _step(layer, [now[s] for s in sources], state, name)
            values[name].append(now[name])
        for name, v in state.items():
            states.setdefault(name, []).append(v)
    return tuple({name: torch.stack(parts) for name, parts in lists.items()} for lists in (values, states))


@torch.no_grad()
def run_layer(layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """What one layer gives for inputs [T, N, ...], dense."""
    state: dict[str, Tensor] = {}
    return torch.stack([_step(layer, steps, state, "") for steps in zip(*inputs, strict=True)])


def _step(layer: nn.Module, inputs: Sequence[Tensor], state: dict[str, Tensor], name: str) -> Tensor:
    x = inputs[0]
    if isinstance(layer, pk.Concatenate):
        return torch.cat(list(inputs), 1)
    if isinstance(layer, pk.layers.Multiply):
        return x * inputs[1].repeat_interleave(x.shape[1] // inputs[1].shape[1], 1)
    if isinstance(layer, pk.layers.Attention):
        q, k, v = (part.flatten(2).unflatten(1, (layer.heads, -1)) for part in x.chunk(3, 1))
        shared = torch.einsum("nhdm,nhem->nhde", v, k)
        return torch.einsum("nhde,nhel->nhdl", shared, q).reshape(len(x), -1, *x.shape[2:])
    if isinstance(layer, pk.MaxRatePool2d | pk.layers.MaxRatePool1d):
        before = state.get(name, torch.zeros_like(x))
        state[name] = before + x
        pool = layer.kernel_size, layer.stride, layer.padding, 1, layer.ceil_mode
        maximum = F.max_pool2d if isinstance(layer, pk.MaxRatePool2d) else F.max_pool1d
        return maximum(state[name], *pool) - maximum(before, *pool)
    if isinstance(layer, pk.Delay):
        delays = torch.as_tensor(layer.delay).expand(x.shape[1] if x.ndim > 1 else 1)
        past = state.get(name)  # [N, D, ...], the oldest first
        D = max(1, int(delays.max()))
        past = x.new_zeros(len(x), D, *x.shape[1:]) if past is None else past.view(len(x), D, *x.shape[1:])
        whole = torch.cat([past, x.unsqueeze(1)], 1)
        state[name] = whole[:, 1:].reshape(past.shape if D > 1 else x.shape)
        return torch.stack([whole[:, D - d, c] for c, d in enumerate(delays.tolist())], 1)
    if isinstance(layer, pk.RunningMaxPool2d):
        before = state.get(name, torch.zeros_like(x))
        state[name] = before + x
        return layer.affine(state[name]) - layer.affine(before)
    if not isinstance(layer, pk.layers.Neurons):  # torch's own pooling or flattening
        return layer(x.unsqueeze(0)).squeeze(0)
    terms = layer.terms(inputs if len(inputs) > 1 else x)
    current = sum(synapse.plain()(part) for synapse, part in terms)
    neuron = layer.neuron.on(current.shape[1] if current.ndim > 1 else 1, current.device)
    if isinstance(layer, pk.FusedRecurrentLinear):
        v = state.get(name)
        if v is None:
            v = torch.zeros(len(current), layer.states, current.shape[1])
            v[:, 0] = torch.as_tensor(layer.v_init)
        spikes, state[name] = reference.recurrent_scan(current.unsqueeze(0), v, neuron, layer.recurrent_weight)
        return spikes[0]
    start = torch.as_tensor(layer.v_init)
    start = start.view(-1, *[1] * (current.ndim - 2)) if start.ndim else start
    rest = [torch.zeros_like(current) + start, *[torch.zeros_like(current)] * (neuron.states - 1)]
    v = state.get(name, rest[0] if neuron.states == 1 else torch.stack(rest, 1))
    spikes, state[name] = reference.scan(current.unsqueeze(0), v, neuron)
    return spikes[0] if layer.neuron.fires else state[name]


@torch.no_grad()
def recurrent_loop(
    layer: pk.FusedRecurrentLinear, x: Tensor, precision: str | None = None, v: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Spikes [T, N, C] and the last state of a recurrent layer, by a loop in float64, for x [T, N, in].

    With a ``precision`` all that a neuron receives is rounded in one unit. What comes back is added to the currents of
    the input, which are float32, and rounded once. ``v``: [N, states + 1, C] (default: at rest).
    """
    weight, back = layer.weight.double(), layer.recurrent_weight.double()
    bias = None if layer.bias is None else layer.bias.double()
    if precision:
        joined = torch.cat([weight, back if back.ndim == 2 else back[:, None]], 1)
        joined, bias, _ = rounding.round_weights(joined, bias, rounding.PRECISIONS[precision])
        weight, back = joined[:, : weight.shape[1]], joined[:, weight.shape[1] :].reshape(back.shape)
        x = quantize.round_input(x, 1)
    C, N = len(weight), x.shape[1]
    neuron = layer.neuron.on(C, x.device)
    if v is None:
        v = torch.zeros(N, layer.states, C)
        v[:, 0] = torch.as_tensor(layer.v_init)
    *states, fired = v.unbind(1)
    spikes = []
    for step in x.double():
        current = F.linear(step, weight, bias).float().double()
        returned = F.linear(fired.double(), back) if back.ndim == 2 else fired.double() * back
        fired, states = reference.step(tuple(states), (current + returned).float(), neuron)
        spikes.append(fired)
    return torch.stack(spikes), torch.stack([*states, fired], 1)


@torch.no_grad()
def make_dyadic(net: nn.Module, unit: float = 1 / 256) -> None:
    """Round all parameters to multiples of ``unit``, so that float32 sums of a few thousand of them are exact."""
    for parameter in net.parameters():
        parameter.copy_((parameter / unit).round() * unit)


def normalises_as_torch(layer: pk.layers.Fused, norm: nn.Module, x: pk.Spikes) -> None:
    """A layer in training gives what ``norm`` on all its currents gives, but for rounding, and the same statistics."""
    norm.load_state_dict(layer.bn.state_dict())
    with torch.no_grad():
        currents = norm(layer.affine(x.dense().flatten(0, 1))).unflatten(0, x.shape[:2])
        expected, v_expected = reference.if_scan(currents)
        y, v = layer.spike(x, batch_statistics=True)
    assert 0.01 < expected.mean() < 0.9 and (y.dense() != expected).float().mean() < 1e-3
    assert torch.isclose(v, v_expected, atol=1e-4).float().mean() > 0.99
    for name, values in norm.state_dict().items():
        assert torch.allclose(layer.bn.state_dict()[name], values, rtol=1e-5, atol=1e-6), name
