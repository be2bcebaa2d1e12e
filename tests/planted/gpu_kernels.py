"""Defects of the Triton kernels."""

from planted.defect import Defect

TRITON_SCAN_TESTS = "tests/gpu/test_triton_scan.py"
TRITON_NUMBERS_TESTS = "tests/gpu/test_triton_numbers.py"
CONV2D_KERNEL = "kernels/gpu/conv2d_kernel.py"
TRITON_CONV2D_TESTS = "tests/gpu/test_triton_conv2d.py"
SPIKE_OPERANDS = "kernels/gpu/spike_operands.py"
SIGMA_DELTA = "kernels/gpu/sigma_delta.py"
TRITON_SIGMA_DELTA_TESTS = "tests/gpu/test_triton_sigma_delta.py"
COUNTERS = "kernels/gpu/counters.py"
TRITON_WORDS_TESTS = "tests/gpu/test_triton_words.py"
PACKING = "kernels/gpu/packing.py"
RECURRENT_SCAN = "kernels/gpu/scans.py"
RECURRENT_BACKWARD = "kernels/gpu/scans_backward.py"
RECURRENT_GRADIENTS_TESTS = "tests/gradients/test_recurrent_gradients.py"

DEFECTS = {
    "Triton scan: the last word": Defect(
        "kernels/gpu/scans.py", "tl.minimum(T - first, 32)", "tl.minimum(T - first, 31)", TRITON_SCAN_TESTS
    ),
    "Triton neurons: the second state": Defect(
        "kernels/gpu/neuron_steps.py",
        "(_reset(above_threshold, h, v_reset, h - theta), adapted)",
        "(_reset(above_threshold, h, v_reset, h - theta), state[1])",
        TRITON_SCAN_TESTS,
    ),
    "Triton integers: half to even": Defect(
        "kernels/gpu/neuron_steps.py", "rounds * 8388608.0", "rounds * 4194304.0", TRITON_NUMBERS_TESTS
    ),
    "Triton integers: no more than the most": Defect(
        "kernels/gpu/neuron_steps.py",
        "tl.minimum(tl.maximum(level, 0.0), most)",
        "tl.maximum(level, 0.0)",
        TRITON_NUMBERS_TESTS,
    ),
    "Triton integers: the gradient at the most": Defect(
        "kernels/gpu/neurons_backward.py", "(level <= most)", "(level < most)", TRITON_NUMBERS_TESTS
    ),
    "Triton readouts: the potential goes on": Defect(
        "kernels/gpu/neuron_steps.py", "return (h,), h", "return state, h", TRITON_NUMBERS_TESTS
    ),
    "Triton convolution: the border": Defect(
        CONV2D_KERNEL, "(x.to(tl.uint32) < W", "(x.to(tl.uint32) <= W", TRITON_CONV2D_TESTS
    ),
    "Triton convolution: the second digit": Defect(
        SPIKE_OPERANDS, "result = spike << 6", "result = spike << 5", "tests/gpu/test_triton_digits.py"
    ),
    "Triton convolution: windows of pooling": Defect(
        CONV2D_KERNEL,
        "row = window // windows_across * 2 + place % 4 // 2",
        "row = window // windows_across * 2 + place % 2",
        "tests/gpu/test_triton_network.py",
    ),
    "Triton operands: layouts that nobody has seen": Defect(
        "kernels/gpu/block_sizes.py",
        "architecture in SEEN.get(triton, ())",
        "architecture in SEEN.get(triton, MMA)",
        "tests/gpu/test_triton_compile.py",
    ),
    "Triton convolution: no tensor cores": Defect(
        "kernels/gpu/backend.py",
        '("sm_5", "sm_6", "sm_7")',
        '("sm_5", "sm_6")',
        "tests/gpu/test_unfused_on_gpu.py",
    ),
    "Triton weights: the carry of a digit": Defect(
        "kernels/gpu/weight_parts.py",
        "whole = (whole - digit) >> 8",
        "whole = whole >> 8",
        "tests/gpu/test_triton_digits.py",
    ),
    "Triton sums: the carry of a digit": Defect(CONV2D_KERNEL, "high += middle >> 8", "high += 0", TRITON_CONV2D_TESTS),
    "Triton backward: states before a step": Defect(
        "kernels/gpu/scans_backward.py",
        "before_row -= tl.cast(STATES, tl.int64) * neurons",
        "before_row -= neurons",
        "tests/gradients/test_backward_kernels.py",
    ),
    "Triton sigma-delta: states go on": Defect(
        SIGMA_DELTA, "tl.store(a_pointer", "tl.store(z_pointer", TRITON_SIGMA_DELTA_TESTS
    ),
    "Triton sigma-delta: what was sent before": Defect(
        SIGMA_DELTA, "a += sent.to", "a = sent.to", TRITON_SIGMA_DELTA_TESTS
    ),
    "Triton sigma-delta: halves of a power": Defect(
        SIGMA_DELTA, "(size + 0x400000)", "(size + 0x3FFFFF)", TRITON_SIGMA_DELTA_TESTS
    ),
    "Triton counters: the pixels of a block": Defect(
        COUNTERS, "pixel = (first_row + row) % P", "pixel = row % P", TRITON_WORDS_TESTS
    ),
    "Triton counters: steps that are not counted": Defect(
        COUNTERS, "word & last_bits, word", "word, word", TRITON_WORDS_TESTS
    ),
    "Triton shortcuts: spikes of the right step": Defect(
        CONV2D_KERNEL, "((added >> i) & 1)", "((added >> (i & 15)) & 1)", "tests/gpu/test_triton_shortcuts.py"
    ),
    "Triton shortcuts: the tap of 1x1 weights": Defect(
        CONV2D_KERNEL, "tl.where(tap < TAPS, tap, TAP)", "tap % TAPS", "tests/gpu/test_triton_shortcuts.py"
    ),
    "Triton pools of rates: the border": Defect(
        "kernels/gpu/pools.py", "(x >= 0) & (x < W)", "(x >= 0) & (x <= W)", "tests/gpu/test_triton_pools.py"
    ),
    "Triton packing: the last step of a word": Defect(
        PACKING, "spike << bit", "spike << tl.minimum(bit, 30)", TRITON_WORDS_TESTS
    ),
    "Triton unpacking: words after the first": Defect(
        PACKING, "first * step + image % N", "image // N * step + image % N", TRITON_WORDS_TESTS
    ),
    "Triton few steps: the order of eight": Defect(
        CONV2D_KERNEL, "x1, x3, x5, x7 = _four(odd)", "x3, x1, x5, x7 = _four(odd)", TRITON_CONV2D_TESTS
    ),
    "Triton few steps: the late half": Defect(
        SPIKE_OPERANDS,
        "tl.arange(0, HALVES)[:, None] * HALF_STEPS",
        "tl.arange(0, HALVES)[:, None] * (HALF_STEPS - (HALF_STEPS == 2))",
        TRITON_CONV2D_TESTS,
    ),
    "Triton few steps: pixels that stand together": Defect(
        CONV2D_KERNEL, "tl.permute(x, (1, 3, 4, 2, 0))", "tl.permute(x, (3, 1, 4, 2, 0))", TRITON_CONV2D_TESTS
    ),
    "Triton currents: steps that there are not": Defect(
        CONV2D_KERNEL,
        "currents_pointer += neurons * C_out",
        "currents_pointer += neurons * C_out * (i != 3)",
        TRITON_CONV2D_TESTS,
    ),
    "Triton few steps: words have no steps that there are not": Defect(
        CONV2D_KERNEL, "(1 << (left % 32)) - 1, -1 if", "(1 << (left % 32)) * 2 - 1, -1 if", TRITON_CONV2D_TESTS
    ),
    "Triton few steps: states from before": Defect(
        CONV2D_KERNEL,
        "if STATES_LATER:\n            state = read_states(",
        "if STATES_LATER and COUNTS_ONLY:\n            state = read_states(",
        TRITON_SCAN_TESTS,
    ),
    "Triton recurrent neurons: who sends": Defect(
        RECURRENT_SCAN,
        "weight_pointer + row.to(tl.int64) * C + channel",
        "weight_pointer + row.to(tl.int64) + channel * C",
        TRITON_SCAN_TESTS,
    ),
    "Triton recurrent neurons: the last of a list": Defect(
        RECURRENT_SCAN, "listed = first + k < count", "listed = first + k < count - 1", TRITON_SCAN_TESTS
    ),
    "Triton recurrent neurons: spikes before the first step": Defect(
        RECURRENT_SCAN, "tl.load(first_row + STATES * C + channel", "tl.load(first_row + channel", TRITON_SCAN_TESTS
    ),
    "Triton recurrent neurons: spikes that go on": Defect(
        RECURRENT_SCAN,
        "tl.store(last_row + STATES * C + channel, spike",
        "tl.store(last_row + STATES * C + channel, mask",
        TRITON_SCAN_TESTS,
    ),
    "Triton recurrent neurons: who receives a gradient": Defect(
        RECURRENT_BACKWARD,
        "which_list, row, received_pointer, channel",
        "which_list, row, sent_pointer, channel",
        RECURRENT_GRADIENTS_TESTS,
    ),
    "Triton recurrent neurons: gradients of the spikes before the first step": Defect(
        RECURRENT_BACKWARD,
        "tl.store(start_row + STATES * C + channel, grad_back",
        "tl.store(start_row + STATES * C + channel, total",
        RECURRENT_GRADIENTS_TESTS,
    ),
    "Triton recurrent neurons: gradients of the last spikes": Defect(
        RECURRENT_BACKWARD,
        "tl.load(last_row + STATES * C + channel",
        "tl.load(last_row + channel",
        RECURRENT_GRADIENTS_TESTS,
    ),
}
