"""Where the compiler is known to pack inputs of one step, which halves the instructions of expand (spike_operands.py).

Triton chooses which numbers a thread packs. In the fragments of mma and wgmma they are inputs of one step; in other
layouts they may be steps of one input, and the short code would silently give wrong spikes. It is therefore used only
for the pairs of GPU and Triton that are listed here. All others, including future ones, take the code that is correct
in any layout.

``python benchmarks/gpu_speed.py operands`` compiles the convolutions of each pair, reads the layouts and writes
benchmarks/results/spike_operands.csv. The list below is what that table shows; a test compares the two.
"""

MMA = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_120", "sm_121")
# By Triton's version. Only 3.6.0 uses mma on sm_110; on every GPU, 3.8.0 uses blocks of single numbers for some layers.
SEEN = {"3.6.0": (*MMA, "sm_110"), "3.7.0": MMA, "3.7.1": MMA, "3.9.0": MMA}


def is_of_one_step(architecture: str, triton: str) -> bool:
    """Whether convolutions that a version of Triton compiles for a GPU, such as "sm_90", pack inputs of one step."""
    return architecture in SEEN.get(triton, ())
