"""The same network simulated by plain PyTorch and by other libraries, at their fastest fair settings.

Every rival takes its weights (batch normalisation folded), thresholds and reset from a network of
proxykernels layers, runs without gradients, and computes the first layer's currents once, as an image is
constant. Where two settings are fair, the one that was measured to be faster is used and the other is named.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import torch
from common.stages import Stage, stages
from torch import Tensor, nn

from speed.step_loops import Counts, Fire, PlainNeurons, single_steps, whole_step

# Steps that the multi-step modes take at once, with the potentials handed on. Of 1, 2, 4, 8, 16 and all T, 4 was the
# fastest or within 7 % of it for both networks and batches of 8 and 32; all T took up to 2.5 times as long.
MULTI_STEP = 4
GPU_MULTI_STEPS = (4, 16, 64)  # on a GPU the fastest of these, found before the timing
STRICT = "fires at v > v_threshold, where the others fire at v >= v_threshold"


class NotOffered(Exception):
    """A rival that cannot run here; the message says why."""


@dataclass(frozen=True)
class Rival:
    """One way to simulate a network.

    Attributes:
        name: as on the command line.
        settings: how it runs, in words.
        version: of the package that does the work.
        counts: how to run it.
        preparation_s: seconds until the end of its first step: import, building, compilation.
    """

    name: str
    settings: str
    version: str
    counts: Counts
    preparation_s: float


def build(name: str, net: nn.Sequential, images: Tensor, makers: dict | None = None) -> Rival:
    """The rival called ``name``, for this network and for batches like ``images`` [N, C, H, W], after a first step.

    ``makers``: a dict like RIVALS, which is the default.

    Raises:
        NotOffered: its package is not installed or does not work here, or has no such neuron.
    """
    package, make = (makers or RIVALS)[name]
    start = time.perf_counter()
    try:
        settings, counts = make(net, images)
        counts(images, 1)
    except NotOffered:
        raise
    except ModuleNotFoundError as error:
        raise NotOffered(f"absent ({error}); to compare with it: pip install {package}") from error
    except Exception as error:  # another version of it, no compiler, ...: the others run all the same
        first_line = str(error).partition("\n")[0]
        raise NotOffered(f"does not work here: {type(error).__name__}: {first_line}") from error
    return Rival(name, settings, version(package), counts, time.perf_counter() - start)


def plain(net: nn.Sequential, images: Tensor) -> tuple[str, Counts]:
    """In-place operations: 6.9 ms where torch.where took 8.6; contiguous images took 10.0.

    Leaky neurons decay and take their currents in one operation, which does not round the product.
    """
    settings = "step loop, channels last, in place"
    return settings, single_steps(net, images, lambda stage: PlainNeurons(stage))


def compiled(net: nn.Sequential, images: Tensor) -> tuple[str, Counts]:
    """One step of the whole network compiled; T steps of it in a Python loop, so that no T recompiles.

    Potentials are updated in place: as results they came back contiguous, not channels last, and took 25 %
    longer. Freezing the weights changed nothing.
    """
    parts = stages(net, images.device, channels_last=True)
    step = torch.compile(whole_step(parts))

    @torch.inference_mode()
    def counts(images: Tensor, T: int) -> Tensor:
        held = parts[0].synapses(images.contiguous(memory_format=torch.channels_last))
        potentials = [torch.zeros_like(held)]
        for part in parts[1:]:
            potentials.append(torch.zeros_like(part.synapses(potentials[-1])))
        total = 0
        for _ in range(T):
            total = total + step(held, potentials)
        return total

    return "the same loop, its step under torch.compile", counts


def spikingjelly_single_step(net: nn.Sequential, images: Tensor) -> tuple[str, Counts]:
    name, node = _spikingjelly_node(net, images)
    return f"{name}, step mode 's', channels last", single_steps(net, images, lambda stage: node(stage, "s"))


def spikingjelly_multi_step(net: nn.Sequential, images: Tensor) -> tuple[str, Counts]:
    from spikingjelly.activation_based.functional import seq_to_ann_forward

    parts = stages(net, images.device, channels_last=True)
    name, make_node = _spikingjelly_node(net, images)

    def make(part: Stage) -> nn.Module:
        node = make_node(part, "m")
        # From 2.0 on it takes its CUDA or Triton kernel on a GPU by itself.
        if images.device.type == "cuda" and "cupy" in getattr(node, "supported_backends", ()):
            node.backend = "cupy"
        return node

    @torch.inference_mode()
    def counts(images: Tensor, T: int, at_once: int) -> Tensor:
        held = parts[0].synapses(images.contiguous(memory_format=torch.channels_last))
        nodes = [make(part) for part in parts]
        total = 0
        for start in range(0, T, at_once):
            steps = min(at_once, T - start)
            spikes = nodes[0](held.expand(steps, *held.shape))  # [steps, N, C, H, W]
            for part, node in zip(parts[1:], nodes[1:], strict=True):
                spikes = node(seq_to_ann_forward(spikes, part.synapses))
            total = total + spikes.sum(0)
        return total

    at_once = _best_at_once(counts, images)
    return f"{name}, step mode 'm', {at_once} steps at once, channels last", partial(counts, at_once=at_once)


def relu_pass(net: nn.Sequential, images: Tensor) -> tuple[str, Counts]:
    """One pass of the ReLU network of the same weights; its outputs in millionths of the largest, whatever T."""
    parts = stages(net, images.device, channels_last=True)

    @torch.inference_mode()
    def outputs(images: Tensor, T: int) -> Tensor:
        values = parts[0].synapses(images.contiguous(memory_format=torch.channels_last))
        for part in parts[1:]:
            values = part.synapses(values.relu_())
        return values * (1e6 / values.abs().max())

    return "one pass, channels last, whatever T", outputs


def _spikingjelly_node(net: nn.Sequential, images: Tensor) -> tuple[str, Callable[[Stage, str], nn.Module]]:
    """The node's name, and a function that makes a stage's for a step mode."""
    from spikingjelly.activation_based.neuron import IFNode, LIFNode

    def make(stage: Stage, step_mode: str) -> nn.Module:
        settings = {"v_threshold": stage.v_threshold, "v_reset": stage.v_reset, "step_mode": step_mode}
        if stage.decay < 1:
            node = LIFNode(tau=1 / (1 - stage.decay), decay_input=False, **settings)
        else:
            node = IFNode(**settings)
        return node.eval().to(images.device)

    return ("LIFNode, decay_input=False" if _leaks(net, images) else "IFNode"), make


def _leaks(net: nn.Sequential, images: Tensor) -> bool:
    return any(stage.decay < 1 for stage in stages(net, images.device, channels_last=True))


def snntorch(net: nn.Sequential, images: Tensor) -> tuple[str, Counts]:
    """``reset_delay=True`` resets just before the next step's current is added, which with beta = 1 or a reset to zero
    is the same neuron, and is faster; ``reset_delay=False`` is another neuron under soft reset: one whose potential
    stays above the threshold after the subtraction does not fire at the next step. With a leak under soft reset the
    delay takes the threshold from the potential after its decay, so that neither is the same neuron.
    """
    from snntorch import Leaky, SpikingNeuron

    parts = stages(net, images.device, channels_last=True)
    if any(part.decay < 1 and part.v_reset is None for part in parts):
        raise NotOffered("has another leaky neuron with soft reset: it subtracts after the decay")

    def neurons(stage: Stage) -> Fire:
        mechanism = "subtract" if stage.v_reset is None else "zero"
        leaky = Leaky(
            beta=stage.decay,
            threshold=stage.v_threshold,
            reset_mechanism=mechanism,
            reset_delay=True,
            surrogate_disable=True,
            init_hidden=True,
        )
        SpikingNeuron.instances.remove(leaky)  # the class would keep every one, and its potentials, for ever
        return leaky.to(images.device)

    return f"Leaky, beta {parts[0].decay:g}, channels last; {STRICT}", single_steps(net, images, neurons)


def norse(net: nn.Sequential, images: Tensor) -> tuple[str, Counts]:
    leaks = _leaks(net, images)
    if not leaks and any(stage.v_reset is None for stage in stages(net, images.device, channels_last=True)):
        raise NotOffered("has no integrate-and-fire neuron with soft reset")
    from norse.torch import IAFCell, IAFParameters, LIFBoxCell, LIFBoxParameters
    from norse.torch.functional.reset import reset_subtract, reset_value

    def cell_of(stage: Stage) -> nn.Module:
        threshold, reset = torch.tensor([stage.v_threshold, stage.v_reset or 0.0], device=images.device)
        if not leaks:
            return IAFCell(IAFParameters(v_th=threshold, v_reset=reset))
        rate = torch.tensor(1 - stage.decay, device=images.device)  # which also multiplies the currents
        method = reset_subtract if stage.v_reset is None else reset_value
        leak = torch.zeros_like(rate)
        settings = LIFBoxParameters(rate, leak, v_th=threshold * rate, v_reset=reset * rate, reset_method=method)
        return LIFBoxCell(settings, dt=1.0)

    def neurons(stage: Stage) -> Fire:
        cell, state = cell_of(stage), None

        def fire(currents: Tensor) -> Tensor:
            nonlocal state
            spikes, state = cell(currents, state)
            return spikes

        return fire

    return f"{'LIFBoxCell' if leaks else 'IAFCell'}, channels last; {STRICT}", single_steps(net, images, neurons)


def sinabs(net: nn.Sequential, images: Tensor) -> tuple[str, Counts]:
    """Contiguous images: 4 % faster than channels last. One step at a time: 7 to 39 % slower."""
    from sinabs.activation import MembraneReset, MembraneSubtract, SingleSpike
    from sinabs.layers import IAFSqueeze, LIFSqueeze

    parts = stages(net, images.device, channels_last=False)

    def squeeze(part: Stage) -> Callable[..., nn.Module]:
        if part.decay < 1:
            return partial(LIFSqueeze, tau_mem=-1 / math.log(part.decay), norm_input=False)
        return IAFSqueeze

    @torch.inference_mode()
    def counts(images: Tensor, T: int, at_once: int) -> Tensor:
        layers = [
            squeeze(part)(
                batch_size=len(images),
                spike_threshold=torch.tensor(part.v_threshold, device=images.device),
                spike_fn=SingleSpike,
                reset_fn=MembraneSubtract() if part.v_reset is None else MembraneReset(),
            ).to(images.device)
            for part in parts
        ]
        held = parts[0].synapses(images)
        total = 0
        for start in range(0, T, at_once):
            steps = min(at_once, T - start)
            spikes = layers[0](held.repeat_interleave(steps, 0))  # [N * steps, C, H, W]
            for part, layer in zip(parts[1:], layers[1:], strict=True):
                spikes = layer(part.synapses(spikes))
            total = total + spikes.unflatten(0, (len(images), steps)).sum(1)
        return total

    at_once = _best_at_once(counts, images)
    name = "LIFSqueeze" if _leaks(net, images) else "IAFSqueeze"
    return f"{name}, SingleSpike, {at_once} steps at once", partial(counts, at_once=at_once)


def _best_at_once(counts: Callable[[Tensor, int, int], Tensor], images: Tensor) -> int:
    """How many steps a multi-step mode takes at once: on a GPU the fastest of GPU_MULTI_STEPS, each run twice."""
    if images.device.type == "cpu":
        return MULTI_STEP
    seconds = {}
    for at_once in GPU_MULTI_STEPS:
        for _ in range(2):  # the first also compiles
            start = time.perf_counter()
            counts(images, max(GPU_MULTI_STEPS), at_once).cpu()  # waits for the GPU
            seconds[at_once] = time.perf_counter() - start
    return min(seconds, key=seconds.get)


# Name on the command line: the package whose work is timed, and the function that builds the rival.
RIVALS = {
    "plain": ("torch", plain),
    "compiled": ("torch", compiled),
    "spikingjelly-s": ("spikingjelly", spikingjelly_single_step),
    "spikingjelly-m": ("spikingjelly", spikingjelly_multi_step),
    "snntorch": ("snntorch", snntorch),
    "norse": ("norse", norse),
    "sinabs": ("sinabs", sinabs),
}
