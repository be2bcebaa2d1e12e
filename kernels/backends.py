"""The backends: the protocol that each implements, and the choice by device.

Shapes: T steps, N images, P pixels, C channels. How spikes are packed into words is the backend's own business
(cpu/words.py, gpu/words.py). States ``v`` are float32 [N, P, C], of neurons with several [N, states, P, C] and the
potentials first; currents are [T, N, P, C]. Both results of a layer are the words of its spikes and its states after
the last step. Backends do not check arguments: neuron_ops.py has.
"""

import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from . import cpu
from .cpu.conv2d import LONGEST_PERIOD as PERIODS  # the most steps for which there are periods
from .cpu.words import Fallback
from .neuron_models import Neuron, Surrogate
from .rounding import Precision
from .sigma_delta_codes import Counts, Pair, Senders, State, Window

Fired = tuple[Tensor, Tensor]  # words and states

__all__ = [
    "PERIODS",
    "Backend",
    "CpuBackend",
    "GpuBackend",
    "backend_of",
    "cpu_backend",
    "fingerprint",
    "gpu_backend",
    "reference_backend",
    "reference_is_asked",
    "use_reference",
]


class Backend(Protocol):
    """What every backend offers."""

    def pack(self, dense: Tensor, /) -> Tensor:
        """Bool [T, N, C, P] to words."""

    def unpack(self, words: Tensor, T: int, C: int, dtype: torch.dtype = torch.bool, /) -> Tensor:
        """Words to 0 and 1 [T, N, C, P]."""

    def count(self, words: Tensor, C: int, until: int, /) -> Tensor:
        """Spikes of each neuron before step ``until``: int32 [N, C, P]."""

    def total_of_pixels(self, words: Tensor, /) -> Tensor:
        """Spikes of each pixel, of all samples, steps and channels: int64 [P]."""

    def cut(self, words: Tensor, T: int, start: int, stop: int, /) -> Tensor:
        """The words of steps start .. stop - 1."""

    def cat(self, words: list[Tensor], steps: list[int], /) -> Tensor:
        """Words one after another in time."""

    def flatten(self, words: Tensor, C: int, /) -> Tensor:
        """P pixels of C channels to one pixel of C * P channels, in the order of torch's flatten."""

    def max_pool2d(
        self, words: Tensor, C: int, size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, /
    ) -> Tensor:
        """The OR over each window of images of ``size`` (H, W)."""

    def max_rate_pool2d(
        self, words: Tensor, T: int, counts: Tensor, size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, /
    ) -> tuple[Tensor, Tensor]:
        """Max pooling of spike counts, float32 [N, P, C] so far: the output's words, and the counts after all steps."""

    def if_scan(self, current: Tensor, v: Tensor, neuron: Neuron, T: int | None = None, /) -> Fired:
        """Neurons on currents [T, N, P, C], or for T steps on a constant current [N, P, C].

        Returns:
            Words, or of neurons that fire several times in a step float32 [T, N, P, C]; and states.
        """

    def scan_backward(
        self, grad_spikes: Tensor, grad_v: Tensor | None, current: Tensor, v: Tensor, neuron: Neuron,
        surrogate: Surrogate, /,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Back through all T steps: gradients of the currents, of the state before the first step, and of parameters.

        Args:
            grad_spikes: [T, N, P, C]. grad_v: of the state after the last step; None: zero.
            current: [T, N, P, C], or [N, P, C] if it is constant.
            v: the state before the first step.

        Returns:
            The third are float64 [1 + parameters of a channel, C]: first of a bias, which is in all currents.
        """

    def recurrent_scan(self, current: Tensor, v: Tensor, neuron: Neuron, recurrent: Tensor, /) -> Fired:
        """Neurons on currents [T, N, 1, C] and on their spikes of the step before; arguments: by_reference.py."""

    def recurrent_scan_backward(
        self, grad_spikes: Tensor, grad_v: Tensor | None, current: Tensor, v: Tensor, neuron: Neuron,
        surrogate: Surrogate, recurrent: Tensor, /,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """As scan_backward; the gradient of what comes back to the neurons is part of the currents' gradient."""

    def conv2d_currents(
        self, words: Tensor, T: int, size: Pair, weight: Tensor, bias: Tensor | None, v: Tensor, neuron: Neuron,
        stride: Pair, padding: Pair, dilation: Pair, groups: int, /,
    ) -> Tensor:  # fmt: skip
        """The currents [T, N, P_out, C_out] of if_conv2d."""

    def conv2d_weight_gradient(
        self, words: Tensor, size: Pair, grad_current: Tensor, weight_shape: Sequence[int],
        stride: Pair, padding: Pair, dilation: Pair, groups: int, /,
    ) -> Tensor:  # fmt: skip
        """The gradient of the weights of if_conv2d, from its currents' gradient [T, N, P_out, C_out]."""

    def max_pool2d_backward(
        self, words: Tensor, grad: Tensor, size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, /
    ) -> Tensor:
        """The gradient [T, N, P, C] of max pooling's input, from its output's [T, N, P_out, C].

        It goes to the first pixel of a window that fired; if none did, to the first.
        """

    def if_conv2d(
        self, words: Tensor, T: int, size: Pair, weight: Tensor, bias: Tensor | None, v: Tensor, neuron: Neuron,
        stride: Pair, padding: Pair, dilation: Pair, groups: int, /,
    ) -> Fired:  # fmt: skip
        """Convolution of images of ``size`` (H, W) by ``weight`` [C_out, C_in / groups, kh, kw], then IF."""

    def round_weights(
        self, weight: Tensor, bias: Tensor | None, precision: Precision, /
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Weights in few bits, a bias, and the units (rounding.py), in whatever float type holds them."""

    def if_conv2d_real(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, v: Tensor, neuron: Neuron,
        stride: Pair, padding: Pair, dilation: Pair, groups: int, /,
    ) -> Fired:  # fmt: skip
        """Convolution of real values [T, N, C_in, H, W], then IF."""

    def fingerprint(self, address: int, size: int, /) -> int:
        """A hash of some memory of the CPU."""

    def conv2d_current_sums(
        self, words: Tensor, T: int, size: Pair, weight: Tensor, bias: Tensor,
        stride: Pair, padding: Pair, dilation: Pair, groups: int, /,
    ) -> Tensor:  # fmt: skip
        """Sums of the currents of if_conv2d in each channel, and of their squares: float64 [2, C_out]."""

    def sigma_delta(
        self, x: Tensor | None, size: Pair, weight: Tensor | None, bias: Tensor | None, added: Tensor | None, T: int,
        neuron: Senders | None, window: Window, state: State | None = None, /,
    ) -> tuple[Tensor, Counts]:  # fmt: skip
        """Sigma-delta neurons behind a convolution: sigma_delta_codes.py has arguments and results."""

    def running_maximum(
        self, x: Tensor, size: Pair, size_out: Pair, kernel: Pair, stride: Pair, padding: Pair, state: State | None, /
    ) -> Tensor:
        """Max pooling of what sigma-delta neurons have sent: sigma_delta_codes.py has arguments and results."""

    def sums_so_far(self, x: Tensor, sent: Tensor | None, T: int | None = None, /) -> Tensor:
        """Sums over the steps of what sigma-delta neurons send: sigma_delta_codes.py has arguments and results."""

    def pooled_sigma_delta(
        self, x: Tensor, size: Pair, size_out: Pair, kernel: Pair, stride: Pair, padding: Pair, T: int,
        neuron: Senders, state: State | None = None, /,
    ) -> tuple[Tensor, int | Tensor]:  # fmt: skip
        """Sigma-delta neurons behind a max pooling: sigma_delta_codes.py has arguments and results."""


class CpuBackend(Backend, Protocol):
    """A CPU keeps spikes that repeat themselves as their periods, int16 [N, P, C]: 0 for a neuron that never fires.

    And it takes events of cameras.

    Attributes:
        runs_plans: whether whole networks are run by the engine instead, which has the kernels of the fastest
            instruction set; not beside kernels that were asked for by name.
    """

    runs_plans: bool

    def pack_binary(self, dense: Tensor, /) -> tuple[Tensor, bool]:
        """Values [T, N, C, H, W] to words, and whether they are all 0 and 1, without which the words mean nothing."""

    def first_and_last(self, values: np.ndarray, /) -> tuple[int, int]:
        """The least and the largest of integers of up to 64 bits, of any stride."""

    def pack_events(
        self, fields: Sequence[np.ndarray], first: int, share: tuple[int, int], T: int, size: tuple[int, int], /
    ) -> Tensor | None:
        """Events of a camera, t, x, y and p, to words: of the step (t - first) * share[0] // share[1]. None: one lies
        outside. ``share[0]`` of 0: nobody looks at t."""

    def find_periods(self, current: Tensor, T: int, neuron: Neuron, /) -> tuple[Tensor, Tensor]:
        """Neurons from v_reset, with hard reset, on a constant current [N, P, C]: periods, and potentials."""

    def expand_periods(self, periods: Tensor, start: int, T: int, /) -> Tensor:
        """Periods to the words of the steps start .. start + T - 1."""

    def total_periods(self, periods: Tensor, start: int, T: int, /) -> Tensor:
        """Spikes of each pixel in the steps start .. start + T - 1: int64 [P]."""

    def if_period_conv2d(
        self, periods: Tensor, start: int, T: int, size: Pair, weight: Tensor, bias: Tensor | None, v: Tensor,
        neuron: Neuron, stride: Pair, padding: Pair, dilation: Pair, /,
    ) -> Fired:  # fmt: skip
        """if_conv2d of the spikes that periods stand for, in the steps from ``start``."""

    def if_conv2d(
        self, words: Tensor, T: int, size: Pair, weight: Tensor, bias: Tensor | None, v: Tensor, neuron: Neuron,
        stride: Pair, padding: Pair, dilation: Pair, groups: int, shortcut: Tensor | None = None, /,
    ) -> Fired:  # fmt: skip
        """``shortcut``, without groups: words of the output's shape, whose spikes each add 1 to their own current."""

    def period_conv2d_currents(
        self, periods: Tensor, start: int, T: int, size: Pair, weight: Tensor, bias: Tensor | None, v: Tensor,
        neuron: Neuron, stride: Pair, padding: Pair, dilation: Pair, /,
    ) -> Tensor:  # fmt: skip
        """The currents of if_period_conv2d."""


class GpuBackend(Backend, Protocol):
    """A GPU pools by 2 x 2 in the launch of the convolution before, and counts several tensors in one launch."""

    def pack_and_look(self, dense: Tensor, /) -> tuple[Tensor, bool, bool]:
        """Values [T, N, C, H, W] to words; whether they are all 0 and 1, without which the words mean nothing; and
        whether all are finite. It waits once."""

    def total(self, words: Tensor, /) -> Tensor:
        """All spikes: int64, no dimensions."""

    def add_counts(self, words: Sequence[Tensor], reaches: Sequence[Tensor | None], counts: Tensor, /) -> None:
        """Add the spikes of each of ``words``, and how many neurons they reach (``reaches`` int32 [P], or None)."""

    def potentials(self, current: Tensor, v: Tensor, neuron: Neuron, /) -> Tensor:
        """The potentials, float32 [T, N, P, C], of leaky neurons that never fire, on currents of that shape."""

    def if_conv2d_pooled(
        self, words: Tensor, T: int, size: Pair, weight: Tensor, bias: Tensor | None, v: Tensor, neuron: Neuron,
        stride: Pair, padding: Pair, dilation: Pair, groups: int, /,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """if_conv2d: its words, their OR over windows of 2 x 2 (of an even output), its potentials."""


_asked: ContextVar[bool] = ContextVar("use_reference", default=False)
reference_is_asked = _asked.get  # whether use_reference is in force


@contextmanager
def use_reference() -> Iterator[None]:
    """Run layers by the reference code: ``with pk.use_reference(): y = net(x)``.

    Every layer, net(x) and :func:`simulate` that this thread calls inside compute what kernels/reference.py defines,
    step by step in plain torch, on a CPU without any C++; :func:`compile` refuses. It is slow, and serves to compare:
    spikes (T, N, ...) are those of the kernels, bit for bit where sums of weights are exact in float32. Neurons that
    are written in Python (:class:`neurons.AnyNeuron`) need it not, and give no warning inside.

    Raises:
        ModuleNotFoundError: a tensor is on a GPU, where spikes are packed by Triton, and Triton is not installed.
    """
    before = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(before)


@cache
def reference_backend(device: str) -> Backend:
    """The reference code on the packed spikes of a type of device."""
    if device == "cpu":
        return Fallback("the reference code")
    gpu_backend()  # or says what is missing
    from .gpu.backend import REFERENCE

    return REFERENCE


def backend_of(device: str) -> Backend:
    """The backend of a type of device, "cpu" or "cuda"."""
    if reference_is_asked():
        return reference_backend(device)
    return cpu_backend() if device == "cpu" else gpu_backend()


@cache
def cpu_backend() -> CpuBackend:
    """The C++ kernels, or the reference code where they were not built."""
    kernels = cpu.load()
    if kernels is None:
        warnings.warn(
            "proxykernels' C++ kernels were not built, so CPU tensors take the slow reference code. Install a C++ "
            "compiler (for example `apt-get install g++`), then run `" + cpu.install_command() + "`",
            RuntimeWarning,
            stacklevel=2,
        )
        return Fallback()
    if kernels.max_threads() == 1 < torch.get_num_threads():
        warnings.warn(
            f"proxykernels' C++ kernels run on one thread where torch has {torch.get_num_threads()}, for they were "
            "built without the OpenMP runtime that torch brings (on Linux GCC's). Build them with g++: run `CC=gcc "
            "CXX=g++ " + cpu.install_command() + "`",
            RuntimeWarning,
            stacklevel=2,
        )
    kernels.runs_plans = True
    return kernels


def gpu_backend() -> GpuBackend:
    """The Triton kernels; imported late because a machine without a GPU need not have Triton."""
    try:
        from .gpu.backend import KERNELS
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        package = "triton-windows" if sys.platform == "win32" else "triton"
        raise ModuleNotFoundError(
            "tensors on a GPU need Triton, which torch's builds for CUDA and ROCm bring on Linux; install it by `pip "
            f"install {package}` (on ROCm, install torch again from its own index), or move everything to the CPU by "
            ".to('cpu')",
            name="triton",
        ) from None
    if sys.platform != "win32":  # its Triton brings a compiler
        _look_for_a_compiler()
    return KERNELS


@cache
def _look_for_a_compiler() -> None:
    """Triton compiles a launcher in C at its first launch, and fails with the compiler's words if it cannot."""
    missing = []
    if not any(shutil.which(name) for name in (os.environ.get("CC", ""), "gcc", "clang", "cc") if name):
        missing.append("a C compiler")
    if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
        missing.append("Python.h")
    if missing:
        warnings.warn(
            f"Triton compiles its launcher in C when a kernel is first launched, and {' and '.join(missing)} cannot be "
            "found here; install them, on Debian and Ubuntu by `apt-get install gcc python3-dev`",
            RuntimeWarning,
            stacklevel=3,
        )


def fingerprint(address: int, size: int) -> int:
    """A hash of some memory of the CPU."""
    return backend_of("cpu").fingerprint(address, size)
