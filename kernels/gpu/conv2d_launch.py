"""Launches the Triton kernel of convolution and neurons (conv2d_kernel.py): checks sizes, chooses blocks, allocates."""

from collections.abc import Callable

import torch
import triton
from torch import Tensor

from ..neuron_models import Neuron, current_sums
from ..unfused import output_size
from .block_sizes import (
    architecture,
    choose_blocks,
    instructions,
    launch_options,
    multiprocessors,
    steps_at_a_time,
    takes_digits,
)
from .conv2d_kernel import _if_conv2d_kernel
from .launch import launch
from .neuron_steps import arguments, by_sample, by_state
from .weight_parts import parts_of

LARGEST_IMAGE, LARGEST_WEIGHTS = 2**28, 2**23  # elements of an image, and of one channel's weights


def if_conv2d(
    words: Tensor,
    T: int,
    size: tuple[int, int],
    weight: Tensor,
    bias: Tensor | None,
    v: Tensor,
    neuron: Neuron,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    shortcut: Tensor | None = None,
    *,
    counts_only: bool = False,
    pooled: Tensor | None = None,
    currents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolve packed spikes and run IF neurons on the currents, all T steps in one launch.

    The public function has checked the shapes; only limits of this kernel are checked here. Whole tensors may exceed
    2**31 elements. The host does not wait for the device, so a call can be captured in a CUDA graph, and a new T does
    not recompile the kernel.

    Args:
        words: spikes of images of ``size`` (H, W), int32 [ceil(T / 32), N, H * W, C_in].
        weight: [C_out, C_in / groups, kernel_h, kernel_w]. float32 weights take three products, float16 and bfloat16
            weights one, and those of simulate's precision="int16" and "int8" two and one (weight_parts.py); float64
            weights are taken as float32.
        bias: [C_out], or None.
        v: states before the first step, float32 [N, H_out * W_out, C_out], or [N, states, H_out * W_out, C_out] for
            neurons with several states; not modified.
        neuron: the neurons' model and parameters, for C_out channels.
        stride, padding, dilation: of height and width.
        shortcut: words [ceil(T / 32), N, H_out * W_out, C_out], whose spikes each add 1 to their neuron's current.
        counts_only: return spike counts and never write the words.
        pooled: int32 [ceil(T / 32), N, H_out * W_out / 4, C_out], receives the OR of the words over windows of 2 x 2;
            height and width must be even.
        currents: float32 [T, N, H_out * W_out, C_out]: receives the currents.

    Returns:
        Words int32 [ceil(T / 32), N, H_out * W_out, C_out], or with ``counts_only`` counts int32
        [N, H_out * W_out, C_out]; and the states after the last step, float32, of the shape of v.

    Raises:
        TypeError: the weights have another type.
        ValueError: an image or a channel's weights have too many elements.
    """
    N, P, C_out = v.shape[0], v.shape[-2], v.shape[-1]
    _check_sizes(words.shape[3] * size[0] * size[1], P * C_out, weight[:1].numel())
    shape = (N, P, C_out) if counts_only else (triton.cdiv(T, 32), N, P, C_out)
    if T == 0 or v.numel() == 0:  # an empty grid is an error of the driver
        return v.new_zeros(shape, dtype=torch.int32), v.clone(memory_format=torch.contiguous_format)

    kernel_h, kernel_w = weight.shape[2:]
    target = architecture(v.device)
    parts = parts_of(weight, groups, takes_digits(target))
    H_out, W_out = output_size(size, (kernel_h, kernel_w), stride, padding, dilation)
    neurons, group_C_out = N * H_out * W_out, C_out // parts.groups
    K = kernel_h * kernel_w * parts.group_C + parts.beside
    steps = steps_at_a_time(T, target)
    blocks = choose_blocks(neurons, group_C_out, K, target, parts.digits, multiprocessors(v.device), steps)
    words, v = words.contiguous(), by_state(v, neuron)
    spikes = torch.empty(shape, dtype=torch.int32, device=v.device)
    v_last = torch.empty_like(v)

    # One program owns PIXELS neighbouring pixels (of any samples) times CHANNELS channels of one group for all T steps.
    launch(
        _if_conv2d_kernel,
        triton.cdiv(neurons, blocks.PIXELS) * triton.cdiv(group_C_out, blocks.CHANNELS) * parts.groups,
        results=(spikes, pooled, currents, v_last),
        words_pointer=words,
        first_pointer=parts.first,
        second_pointer=parts.second,
        third_pointer=parts.third,
        unit_pointer=parts.unit,
        bias_pointer=None if bias is None else bias.float().contiguous(),
        shortcut_pointer=None if shortcut is None else shortcut.contiguous(),
        v_pointer=v,
        spikes_pointer=spikes,
        pooled_pointer=pooled,
        currents_pointer=currents,
        v_last_pointer=v_last,
        T=T,
        N=N,
        H=size[0],
        W=size[1],
        H_out=H_out,
        W_out=W_out,
        C_out=C_out,
        K=parts.first.shape[1],
        stride_h=stride[0],
        stride_w=stride[1],
        padding_h=padding[0],
        padding_w=padding[1],
        dilation_h=dilation[0],
        dilation_w=dilation[1],
        groups=parts.groups,
        GROUP_C=parts.group_C,
        KERNEL_W=kernel_w,
        BESIDE=parts.beside,
        TAPS=kernel_h * kernel_w if parts.beside else 0,
        TAP=parts.tap,
        **arguments(neuron),
        COUNTS_ONLY=counts_only,
        STEPS=steps,
        **instructions(target),
        **launch_options(blocks),
    )
    return spikes, by_sample(v_last, neuron)


def _check_sizes(image: int, output: int, weights: int) -> None:
    """Raise ValueError if an image, in or out, or one channel's weights have too many elements: the kernel's offsets
    within them have 32 bits."""
    if max(image, output) >= LARGEST_IMAGE:
        raise ValueError(
            f"x and the layer's output must have fewer than 2**28 elements an image and step on a GPU, got {image} and "
            f"{output}; cut the images, or move x and the layer to the CPU by .to('cpu')"
        )
    if weights >= LARGEST_WEIGHTS:
        raise ValueError(
            f"weight must have fewer than 2**23 elements an output channel on a GPU, got {weights}; move x and the "
            "layer to the CPU by .to('cpu')"
        )


def if_conv2d_pooled(words: Tensor, T: int, size, weight, bias, v: Tensor, neuron, *window):
    """if_conv2d with max pooling by windows of 2 x 2 in the same launch; ``window``: stride, padding, dilation, groups.

    The output's height and width must be even.

    Returns:
        Words of the convolution's neurons, int32 [ceil(T / 32), N, H_out * W_out, C_out]; words of the windows
        [ceil(T / 32), N, H_out * W_out / 4, C_out]; and the neurons' potentials, float32 [N, H_out * W_out, C_out].
    """
    N, P, C = v.shape[0], v.shape[-2], v.shape[-1]
    pooled = torch.empty(triton.cdiv(T, 32), N, P // 4, C, dtype=torch.int32, device=v.device)
    spikes, v_last = if_conv2d(words, T, size, weight, bias, v, neuron, *window, pooled=pooled)
    return spikes, pooled, v_last


def conv2d_currents(words: Tensor, T: int, size, weight, bias, v: Tensor, neuron, *window) -> Tensor:
    """The currents of if_conv2d, float32 [T, N, H_out * W_out, C_out]: bit for bit what its neurons take."""
    currents = torch.empty(T, v.shape[0], *v.shape[-2:], dtype=torch.float32, device=v.device)
    if_conv2d(words, T, size, weight, bias, v, neuron, *window, counts_only=True, currents=currents)
    return currents


def conv2d_current_sums(words: Tensor, T: int, *layer) -> Tensor:
    """Sums of the currents of each channel and of their squares, float64 [2, C_out]: all steps in one launch."""
    return current_sums_of(if_conv2d, words, T, *layer)


def current_sums_of(
    convolve: Callable, words: Tensor, T: int, size, weight: Tensor, bias: Tensor, stride, padding, dilation, groups
) -> Tensor:
    """conv2d_current_sums by ``convolve``, which takes the arguments of if_conv2d."""
    H_out, W_out = output_size(size, weight.shape[2:], stride, padding, dilation)
    v = torch.zeros(words.shape[1], 2, H_out * W_out, len(weight), dtype=torch.float32, device=words.device)
    sums = current_sums(len(weight), words.device)
    window = stride, padding, dilation, groups
    _, v_last = convolve(words, T, size, weight, bias, v, sums, *window, counts_only=True)
    return v_last.sum((0, 2), dtype=torch.float64)
