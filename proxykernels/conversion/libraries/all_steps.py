"""SpikingJelly's modules of which every step takes all steps, and how many steps a module takes."""

from typing import Any

from torch import nn

from ...layers import StepAttention

ATTENTION = ("MultiDimensionalAttention", "TemporalWiseAttention")
LISTED = ("BatchNormThroughTime", "TemporalEffectiveBatchNorm")  # begin the names of modules with a part for each step


def step_attention(module: Any) -> StepAttention | None:
    """MA-SNN's attention over steps, channels and pixels as a layer; None: it is another module."""
    kind = type(module)
    if not kind.__name__.endswith(ATTENTION) or not kind.__module__.startswith("spikingjelly."):
        return None
    if kind.__name__.endswith(ATTENTION[1]):
        return StepAttention(_pair(module.sharedMLP))
    spatial = None if module.sa is None else module.sa.conv.weight
    of_steps, of_channels = (None if part is None else _pair(part.sharedMLP) for part in (module.ta, module.ca))
    return StepAttention(of_steps, of_channels, spatial, rectifies=True)


def _pair(layers: Any) -> Any:
    """The weights [hidden, n] and [n, hidden] of linear layers, or of convolutions of one value."""
    return tuple(layers[k].weight.flatten(1) for k in (0, 2))


def steps_of_module(module: nn.Module) -> int | None:
    """The only number of steps that a module of SpikingJelly takes; None: it takes any, or is another module."""
    of_library: Any = module
    name = type(module).__name__
    if not type(module).__module__.startswith("spikingjelly."):
        return None
    attention = step_attention(module)
    if attention is not None:
        return attention.steps
    if name in ("PSN", "MaskedPSN", "GatedLIFNode") or name.startswith("Noisy"):
        return int(of_library.T)
    if hasattr(module, "K") and getattr(module, "step_mode", "s") == "m":  # of few-spike neurons
        return int(of_library.K)
    if name.startswith(LISTED):
        return len(of_library.scale if hasattr(module, "scale") else of_library.bn_list)
    return None
