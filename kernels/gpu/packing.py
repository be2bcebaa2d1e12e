"""Dense spikes to words, in one launch: the layout of words.py."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, NUM_WARPS = 512, 4  # neurons of a program


# Neither T nor the size of a batch compiles anew, nor a first step that lies elsewhere: bytes are loaded one by one.
@triton.jit(do_not_specialize=["T", "N"], do_not_specialize_on_alignment=["dense_pointer"])
def _pack_kernel(
    dense_pointer,  # bool [T, N, C, P], of any strides
    words_pointer,  # int32 [ceil(T / 32), N, P, C]
    T,
    N,
    C,
    P,
    stride_t,
    stride_n,
    stride_c,
    stride_p,
    BLOCK: tl.constexpr,
):
    neurons = N.to(tl.int64) * P * C
    blocks = tl.cdiv(neurons, BLOCK)
    first_neuron, word_of_time = tl.program_id(0) % blocks * BLOCK, tl.program_id(0) // blocks
    neuron = first_neuron + tl.arange(0, BLOCK)
    mask = neuron < neurons
    word = tl.zeros((BLOCK,), tl.int32)
    sample, place = neuron // (P * C), neuron % (P * C)
    dense_pointer += sample * stride_n + place % C * stride_c + place // C * stride_p
    dense_pointer += word_of_time * 32 * stride_t
    for bit in range(tl.minimum(T - word_of_time.to(tl.int32) * 32, 32)):
        word |= tl.load(dense_pointer, mask=mask, other=0).to(tl.int32) << bit
        dense_pointer += stride_t
    tl.store(words_pointer + word_of_time * neurons + neuron, word, mask=mask)


def pack(dense: Tensor) -> Tensor:
    """Pack dense spikes, bool [T, N, C, P], into words int32 [ceil(T / 32), N, P, C]."""
    T, N, C, P = dense.shape
    words = torch.empty(triton.cdiv(T, 32), N, P, C, dtype=torch.int32, device=dense.device)
    if not words.numel():
        return words
    with torch.cuda.device_of(dense):
        _pack_kernel[(triton.cdiv(N * C * P, BLOCK) * words.shape[0],)](
            dense_pointer=dense.view(torch.uint8),
            words_pointer=words,
            T=T,
            N=N,
            C=C,
            P=P,
            stride_t=dense.stride(0),
            stride_n=dense.stride(1),
            stride_c=dense.stride(2),
            stride_p=dense.stride(3),
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
            enable_fp_fusion=False,
        )
    return words
