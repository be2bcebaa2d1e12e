"""The simulators that are installed, each as a function of a graph and an input.

Each gives what nodes fire [T, N, ...]: those whose names the simulator keeps, and "" for the output.
"""

import contextlib
import io
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

Spikes = dict[str, Tensor]


def ours(path: Any, x: Tensor, dt: float, reset: str | None) -> Spikes:
    import proxykernels as pk

    net = pk.from_nir(path, dt=dt, reset=reset or "v_reset")
    names = [name for name, layer, _ in net.layers() if isinstance(layer, pk.layers.Neurons) and layer.neuron.fires]
    result = pk.simulate(net, x.float(), len(x), record=names)
    spikes = {name: _dense(result.records[name]) for name in names}
    return spikes | {"": _dense(result.output)}


def snntorch(path: Any, x: Tensor, dt: float, reset: str | None) -> Spikes:
    from snntorch.import_nir import import_from_nir

    with contextlib.redirect_stdout(io.StringIO()):  # it prints how it scales
        return _stepwise(import_from_nir(_graph(path)), x)


def norse(path: Any, x: Tensor, dt: float, reset: str | None) -> Spikes:
    import norse.torch

    return _stepwise(norse.torch.from_nir(_graph(path), dt=dt), x)


def spikingjelly(path: Any, x: Tensor, dt: float, reset: str | None) -> Spikes:
    from spikingjelly.activation_based import nir_exchange

    return _stepwise(nir_exchange.import_from_nir(_graph(path), dt=dt), x)


def sinabs(path: Any, x: Tensor, dt: float, reset: str | None) -> Spikes:
    import sinabs.nir

    net = sinabs.nir.from_nir(_graph(path), num_timesteps=len(x))
    with torch.no_grad():
        y = net(x.float().transpose(0, 1).flatten(0, 1))
    y = y[0] if isinstance(y, tuple) else y
    return {"": y.unflatten(0, (x.shape[1], len(x))).transpose(0, 1)}


def spyx(path: Any, x: Tensor, dt: float, reset: str | None) -> Spikes:
    import jax.numpy
    import spyx.nir

    net, parameters = spyx.nir.from_nir(_graph(path), jax.numpy.asarray(x.float().transpose(0, 1).numpy()), dt=dt)
    given, _ = net.apply(parameters, jax.numpy.asarray(x.float().transpose(0, 1).numpy()))
    return {"": torch.tensor(given.tolist()).transpose(0, 1)}


def rockpool(path: Any, x: Tensor, dt: float, reset: str | None) -> Spikes:
    import rockpool.nn.modules as modules

    net = modules.from_nir(_graph(path))
    given, _, _ = net(x.float().transpose(0, 1))
    return {"": given.detach().transpose(0, 1)}


RIVALS: dict[str, Callable[[Any, Tensor, float, str | None], Spikes]] = {
    "snntorch": snntorch, "norse": norse, "spikingjelly": spikingjelly, "sinabs": sinabs, "spyx": spyx,
    "rockpool": rockpool,
}  # fmt: skip


def installed() -> list[str]:
    return [name for name in RIVALS if find_spec(name)]


def _graph(path: Any) -> Any:
    import nir

    return nir.read(path, type_check=False)


def _dense(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else x.dense()


def _stepwise(net: Any, x: Tensor) -> Spikes:
    """Step by step, with what its modules give by their names."""
    steps: dict[str, list[Tensor]] = {}

    def watch(name: str) -> Callable:
        def hook(module: Any, arguments: Any, given: Any) -> None:
            value = given[0] if isinstance(given, tuple) else given
            if isinstance(value, Tensor):
                steps.setdefault(name, []).append(value.clone())

        return hook

    for name, module in net.named_modules():
        module.register_forward_hook(watch(name))
    state: Any = None
    net.eval()
    with torch.no_grad():
        for step in x.float():
            given = net(step, state)
            state = given[1] if isinstance(given, tuple) and len(given) > 1 else None
    return {name: torch.stack(values) for name, values in steps.items() if len(values) == len(x)}
