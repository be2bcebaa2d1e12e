"""The operations of a plan, as plain values. Shapes are those of one sample at one step.

Each operation gives what lies in a slot of its own, the k-th in slot k + 1; slot 0 is the network's input.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from ..kernels.neuron_models import about
from ..kernels.sigma_delta_codes import Senders
from ..kernels.table import COMMON, COUNTING_MODELS, Kind

Shape = tuple[int, ...]

PASSES_ON = COMMON["passes_on"]
SUM = "+"  # behind the name of a layer that takes a sum, which an operation of its own computes
SUM_POOLS = Kind.MAX_RATE_POOL, Kind.RUNNING_MAX_POOL  # whose states are the sums of their inputs


def image_of(shape: Shape) -> tuple[int, int, int]:
    """C, H, W of the shape of a sample: features, a row [C, L], or an image."""
    return (shape[0], 1, prod(shape[1:])) if len(shape) < 3 else (shape[0], shape[1], shape[2])


def _make_plain(plan_part: Any, *names: str) -> None:
    """Sizes are Python's integers: those of layers may be numpy's, which a file and the library do not take."""
    for name in names:
        value = getattr(plan_part, name)
        object.__setattr__(plan_part, name, tuple(map(int, value)) if isinstance(value, tuple) else int(value))


@dataclass(frozen=True)
class Window:
    """What an operation reads of a slot.

    Attributes:
        slot: its number.
        kernel, stride, padding, dilation: height and width.
        weight: [C_out, C_in / groups, *kernel], float32; None: no weights.
        bias: float32 [C_out], of sigma-delta neurons.
        averages: of spikes, which have become part of the weight: how many a neuron reads, and multiplies where
            operations are counted; 0: there are none.
    """

    slot: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    weight: Tensor | None = None
    groups: int = 1
    bias: Tensor | None = None
    averages: int = 0

    def __post_init__(self) -> None:
        _make_plain(self, "kernel", "stride", "padding", "dilation", "groups")

    def taps_inside(self, source: tuple[int, ...], out: tuple[int, ...]) -> int:
        """How many taps lie in the image that is read, not in its padding, over all windows of an image ``out``."""
        inside = 1
        for n, windows, *window in zip(source, out, self.kernel, self.stride, self.padding, self.dilation, strict=True):
            kernel, stride, padding, dilation = window
            firsts = range(-padding, windows * stride - padding, stride)
            inside *= sum(0 <= first + tap * dilation < n for first in firsts for tap in range(kernel))
        return inside


@dataclass(frozen=True)
class PlannedNeurons:
    """The neurons of an operation.

    Attributes:
        model: a name in MODELS or COUNTING_MODELS.
        channels: float32 [parameters, C], thresholds first. scalars: in the model's order.
        bias: float32 [C]. start: float32 [states, C], of a run that starts at rest.
        fires: or their potentials are what is given.
        scale: what a spike a step stands for in a ReLU network, [] or [C]; None: the network was not converted.
        rectifies: whether that network has a ReLU here. limit: of that ReLU, in its units; None: it has none.
    """

    model: str
    channels: Tensor
    scalars: tuple[float, ...]
    bias: Tensor
    start: Tensor
    fires: bool = True
    scale: Tensor | None = None
    rectifies: bool = False
    limit: float | None = None

    @property
    def states(self) -> int:
        return about(self.model).states

    @property
    def v_reset(self) -> float | None:
        """The potential after a spike; None: the threshold is subtracted."""
        names = about(self.model).scalars
        return self.scalars[names.index("v_reset")] if "v_reset" in names else None

    @property
    def counts(self) -> bool:
        """Whether they fire several times in a step."""
        return self.model in COUNTING_MODELS

    @property
    def gives_values(self) -> bool:
        """Whether they give integers or potentials, and not spikes."""
        return self.counts or not self.fires

    @property
    def has_logits(self) -> bool:
        """Whether they tell the outputs of a ReLU network: the soft reset loses no charge."""
        return self.scale is not None and self.v_reset is None

    @property
    def forgets(self) -> bool:
        """Whether the outputs of a step are its currents: readouts without memory."""
        model = about(self.model)
        scalars = dict(zip(model.scalars, self.scalars, strict=True))
        leaky = model.channels == ("theta", "decay") and scalars.keys() <= {"v_reset", "v_rest"}
        return leaky and not self.fires and not self.channels[1].any() and scalars["v_rest"] == 0


@dataclass(frozen=True)
class Operation:
    """A step of a plan.

    Attributes:
        name: of the module that it is made of.
        windows: what it reads. Neurons add several up; a move counts their channels on.
        shape: of what it gives; image: the same as C, H, W. real: whether that is values, and not spikes.
        divisor: of an average; 0: the size of the window, with the padding if ``count_padding``.
        adaptive: windows divide the image as evenly as they can, and have no sizes of their own.
        pixels, channels: of a move, int64 [P] and [C]: which pixel and channel of its inputs each is, -1: of zeros;
            None: as they lie.
        recurrent: of RECUR, which reads the currents that the operation before it gives, [C, C], of which row i has the
            weights of what neuron i receives, or one value a neuron [C].
        senders: of SEND, None: what arrives is passed on; of SEND_MAXIMA, None: what the maxima change by.
        scale: float32 [C], of SUM: what 1 stands for in the outputs.
        grid: of graded neurons of 8 bits and of the inputs of their networks: what values are rounded to multiples of.
        heads: of ATTENTION.
        function: of FUNCTION, a number of table.Function; 0: of others. parameters: its own; 0 where it has none.
        delays: int64 [C], of DELAY: by how many steps. Its states are the inputs of the last steps, the oldest first.
    """

    kind: Kind
    name: str
    windows: tuple[Window, ...]
    shape: Shape
    real: bool = False
    neurons: PlannedNeurons | None = None
    divisor: int = 0
    count_padding: bool = True
    adaptive: bool = False
    pixels: Tensor | None = None
    channels: Tensor | None = None
    recurrent: Tensor | None = None
    senders: Senders | None = None
    scale: Tensor | None = None
    grid: float | None = None
    delays: Tensor | None = None
    heads: int = 0
    function: int = 0
    parameters: tuple[float, ...] = (0.0, 0.0)

    def __post_init__(self) -> None:
        _make_plain(self, "shape", "divisor", "heads", "function")

    @property
    def states(self) -> int:
        """How many values of a neuron, or of an input of a pooling or delay, go on from step to step."""
        if self.delays is not None:
            return max(1, int(self.delays.max()))
        if self.neurons is None:
            return int(self.kind in SUM_POOLS)
        return self.neurons.states + int(self.kind == Kind.RECUR)  # its spikes come back

    @property
    def is_sum(self) -> bool:
        """Whether it computes a sum that another layer takes, and is no layer itself."""
        return self.kind == Kind.FIRE and self.name.endswith(SUM)

    @property
    def image(self) -> tuple[int, int, int]:
        return image_of(self.shape)

    @property
    def weights(self) -> list[Tensor]:
        """All that it has."""
        return [w for w in (*(window.weight for window in self.windows), self.recurrent) if w is not None]


@dataclass(frozen=True)
class Slot:
    """What is in a slot while a network runs.

    Attributes:
        real: whether it is values. held: whether it is the same at each step. scaled: whether the values are spikes
            that a Dropout has scaled, which are added as spikes are.
    """

    real: bool
    held: bool = False
    scaled: bool = False

    @property
    def gives_values(self) -> bool:
        """Whether that are values, which are not spikes times a scale either."""
        return self.real and not self.scaled
