"""The Triton kernels as compiled for a GPU, executed by the emulator; in child processes, as here Triton interprets."""

import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from emulator import arithmetic, tensor_core
from emulator.memory import Fault
from emulator.ptx import Kernel, check_order_of_registers
from emulator.races import TensorRaces

from proxykernels.kernels import rounding, weight_layouts

CHECKOUT = Path(__file__).parents[2]

# All against the reference: spikes as operands, right and, where the layout is another, wrong; pooling in the launch;
# 18 blocks of K; counts too, and channels and K beyond their blocks; the scan and its gradient.
OPERANDS = "tests/gpu/test_triton_compile.py::test_the_short_code_is_right_where_layouts_were_seen"
FEW = (
    f"{OPERANDS}[False-33-torch.float32]",
    f"{OPERANDS}[True-33-torch.float32]",
    "tests/gpu/test_triton_network.py::test_pooled_words[windows-over-blocks-33-hard-below-zero]",
    "tests/gpu/test_triton_conv2d.py::test_shapes[kernel-is-the-image-soft]",
    "tests/gpu/test_triton_conv2d.py::test_linear[16-5-130-35-hard]",
    "tests/gpu/test_triton_scan.py::test_hold[soft-33]",
    "tests/gradients/test_backward_kernels.py::test_triton[LeakySoftReset-atan-(3, 2, 5, 13)-held]",
    "tests/gradients/test_backward_kernels.py::test_triton[HardReset-atan-(3, 2, 5, 13)-sequence]",
    "tests/gradients/test_recurrent_gradients.py::test_triton[LeakyHardReset-full-triangle-(2, 2, 70)]",
)


def run(*command):
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run(
        [sys.executable, *command], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stdout[-4000:] + child.stderr[-4000:]
    return child.stdout


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_75", "sm_80", "sm_90", "sm_120"])
def test_a_few_tests_of_the_kernels_pass_as_compiled(target, pytestconfig):
    if pytestconfig.getoption("--emulate"):
        pytest.skip("all tests are emulated")
    shown = run("-m", "pytest", "-q", "--exhaustive", "--emulate", target, *FEW, "-p", "no:cacheprovider")
    assert int(re.search(r"emulated: (\d+) kernels", shown)[1]) >= len(FEW)
    assert f"{len(FEW)} passed" in shown and "skipped" not in shown


@pytest.mark.triton
@pytest.mark.slow
def test_missing_barriers_waits_and_copies_are_noticed():
    shown = run("tests/gpu/mutate_triton.py", "--every", "20")
    noticed, total = map(int, re.search(r"(\d+) of (\d+) defects noticed", shown).groups())
    assert total >= 6 and noticed >= total - 1
    assert "without bar.sync: Fault" in shown and "without cp.async.wait_group: Fault" in shown


@pytest.mark.parametrize("products", ["24/8", "25/16"])
def test_cut_sums_of_a_dyadic_grid_are_exact(products):
    """Tensor cores cut what lies some 24 bits below the largest addend; there is nothing on a grid of fewer bits."""
    rng = np.random.default_rng(0)
    spike = (rng.random((1, 16, 16)) < 0.5).astype(np.float16) * 2
    grid = rng.integers(-(2**11), 2**11, (1, 16, 8)).astype(np.float16)
    total = rng.integers(-(2**22), 2**22, (1, 16, 8)).astype(np.float32)
    exact = tensor_core.multiply(spike, grid, total, "exact")
    assert np.array_equal(tensor_core.multiply(spike, grid, total, products), exact)
    fine = (grid * np.float16(2**-10)).astype(np.float16)  # addends 33 bits apart: here it shows
    assert (
        tensor_core.multiply(spike, fine, total, products) != tensor_core.multiply(spike, fine, total, "exact")
    ).any()


@pytest.mark.parametrize("products", ["24/8", "25/16"])
def test_cut_sums_of_int16_weights_are_exact(products):
    """The contract of precision="int16": weights of 14 bits, as many and as large as 24 bits of a sum allow."""
    rng, K = np.random.default_rng(0), 1152
    weight, *_ = rounding.round_weights(torch.from_numpy(rng.standard_normal((8, K)) + 2), None)
    high, low, unit = weight_layouts.float16_parts(weight.float())
    spike = (rng.random((1, 16, K)) < 0.9).astype(np.float16) * 2
    for model in ("exact", products):
        total = np.zeros((1, 16, 8), np.float32)
        for k in range(0, K, 16):
            for part in (high, low):
                block = part.numpy()[None, :, k : k + 16].transpose(0, 2, 1)
                total = tensor_core.multiply(spike[:, :, k : k + 16], block, total, model)
        currents = total.astype(np.float64) * unit.numpy()
        assert np.array_equal(currents[0], spike[0].astype(np.float64) / 2 @ weight.numpy().T) and currents.min() > 0


@pytest.mark.parametrize("reader, needed", [(3, None), (4, "warp_barrier"), (40, "barrier")])
def test_what_another_thread_wrote_to_a_tensor_needs_a_barrier(reader, needed):
    """Thread 3 writes; of its own warp, 4 reads, and of another, 40."""
    for barrier in (None, "warp_barrier", "barrier"):
        races = TensorRaces([0, 4096])
        races.note_write(np.array([3]), np.array([[1100]]), 4)
        races.note_read(np.array([reader]), np.array([[7]]), 4)  # another tensor
        if barrier:
            getattr(races, barrier)()
        if needed is None or barrier in (needed, "barrier"):
            races.note_read(np.array([reader]), np.array([[1100]]), 4)
        else:
            with pytest.raises(Fault, match="a read of what another thread wrote to a tensor"):
                races.note_read(np.array([reader]), np.array([[1100]]), 4)


def test_two_float32_numbers_in_an_instruction():
    """The instructions of sm_100 and newer on 64-bit registers; a half that nothing has written may be anything,
    and so may a register whose bytes a permutation does not take."""
    both = np.array([1, 2, 3, -4], "f4").view("u8")
    assert arithmetic.pairs(np.add, both, both).view("f4").tolist() == [2, 4, 6, -8]
    instructions = "mov.b64 %rd1, {%r1, %r2}; add.rn.f32x2 %rd2, %rd1, %rd1; fma.rn.f32x2 %rd2, %rd2, %rd1, %rd1"
    instructions += "; prmt.b32 %r1, %r1, %r0, 0x2001U"
    registers = ".reg .b32 %r<3>; .reg .b64 %rd<3>; mov.b32 %r1, 0f3F800000"
    kernel = Kernel(f".entry two(.param .u64 x)\n.reqntid 1\n{{\n{registers}; {instructions}; ret;\n}}\n")
    assert kernel._halves_never_written() == {"r0": "u4", "r2": "u4"}
    kernel.run(SimpleNamespace(tid=0, lane=0, ctaid=(0, 0, 0), blocks=1))


@pytest.mark.parametrize("kind, one_and_an_eighth", [("f16", 0x3C80), ("bf16", 0x3F90)])
def test_float32_and_16_bits_in_an_instruction(kind, one_and_an_eighth):
    """The instructions of sm_100 and newer that widen their first operands, and round once."""
    instructions = f"add.rn.f32.{kind} %r1, %rs1, %r9; sub.rn.f32.{kind} %r2, %rs1, %r9; "
    instructions += f"fma.rn.f32.{kind} %r3, %rs1, %rs1, %r9; st.global.v4.b32 [%rd1], {{%r1, %r2, %r3, %r9}}"
    registers = ".reg .b16 %rs<2>; .reg .b32 %r<10>; .reg .b64 %rd<2>; mov.b64 %rd1, 0"
    first = f"mov.b16 %rs1, {one_and_an_eighth}; mov.b32 %r9, 0f33800001"  # 2**-24 * (1 + 2**-23)
    kernel = Kernel(f".entry one(.param .u64 x)\n.reqntid 1\n{{\n{registers}; {first}; {instructions}; ret;\n}}\n")
    stored = []
    block = SimpleNamespace(tid=0, lane=0, ctaid=(0, 0, 0), blocks=1)
    block.store_global = lambda address, size, values, mask: stored.extend(value.view("f4")[0] for value in values)
    kernel.run(block)
    ulp = 2.0**-23
    assert [float(value) for value in stored[:3]] == [1.125 + ulp, 1.125 - ulp, 1.265625 + ulp]


def test_a_fused_product_and_sum_is_rounded_once():
    """Against fractions, where float64 would end half way between two float32 numbers, and at random."""
    rng = np.random.default_rng(0)
    mantissas, exponents = rng.integers(2**23, 2**24, (3, 2000)), rng.integers(-30, 30, (3, 2000))
    a, b, c = np.ldexp(mantissas * rng.choice([-1, 1], (3, 2000)), exponents - 23).astype("f4")
    a[:2], b[:2], c[:2] = 1 + 2.0**-12, [1 + 2.0**-12, -1 - 2.0**-12], [2.0**-60, -(2.0**-60)]
    for x, y, z, rounded in zip(a, b, c, arithmetic.fma(a, b, c), strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        error = abs(Fraction(float(rounded)) - exact)
        for other in np.nextafter(rounded, np.array([-np.inf, np.inf], "f4")):
            assert error <= abs(Fraction(float(other)) - exact)
    assert arithmetic.fma(a[:2], b[:2], c[:2]).tolist() == [1 + 2.0**-11 + 2.0**-23, -1 - 2.0**-11 - 2.0**-23]
    with np.errstate(invalid="ignore"):
        infinite = arithmetic.fma(*np.array([[np.inf, np.inf], [1, 1], [-np.inf, 1]], "f4"))
    assert np.isnan(infinite[0]) and np.isposinf(infinite[1])


def test_registers_of_tensor_cores_need_a_fence():
    write, fence = "mov.b32 %r5, %r9", "wgmma.fence.sync.aligned"
    product = "wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {%r1,%r2}, {%r4,%r5}, %rd1, %p1, 1, 1, 0"
    scale = "mov.pred %p1, -1"  # is no number that they take
    for right in ([write, fence, scale, product], [write, fence, product, product], [write]):
        check_order_of_registers(right)
    for wrong in ([write, product], [fence, write, product], [fence, product, "mov.b32 %r1, 0", product]):
        with pytest.raises(Fault, match="no wgmma.fence has ordered"):
            check_order_of_registers(wrong)
