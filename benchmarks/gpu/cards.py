"""The GPUs that the model knows.

Sources: NVIDIA's white papers (Ampere GA100, Hopper H100, Ada) and data sheets. ``clock`` is the one that the data
sheet's peak of tensor cores stands for.
"""

from typing import NamedTuple


class Card(NamedTuple):
    """A GPU.

    Attributes:
        target: as compilers call it.
        clock: Hz, sustained.
        l2, memory: bytes/s. Of the L2 from published microbenchmarks.
        float32: FLOP/s without tensor cores.
    """

    target: str
    multiprocessors: int
    clock: float
    l2: float
    memory: float
    float32: float


CARDS = {
    "H100 SXM": Card("sm_90", 132, 1.755e9, 5.5e12, 3.35e12, 67e12),
    "A100 SXM": Card("sm_80", 108, 1.41e9, 4.0e12, 2.039e12, 19.5e12),
    "RTX 4090": Card("sm_89", 128, 2.52e9, 5.0e12, 1.008e12, 82.6e12),
}
