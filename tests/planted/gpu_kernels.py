"""Defects of the Triton kernels."""

from planted.defect import Defect

DEFECTS = {
    "Triton scan: the last word": Defect(
        "kernels/gpu/if_scan.py",
        "tl.minimum(T - first, 32)",
        "tl.minimum(T - first, 31)",
        "tests/gpu/test_triton_scan.py",
    ),
    "Triton neurons: the second state": Defect(
        "kernels/gpu/neuron_steps.py",
        "(_reset(above_threshold, h, v_reset, h - theta), adapted)",
        "(_reset(above_threshold, h, v_reset, h - theta), state[1])",
        "tests/gpu/test_triton_scan.py",
    ),
    "Triton convolution: the border": Defect(
        "kernels/gpu/conv2d_kernel.py",
        "(x.to(tl.uint32) < W",
        "(x.to(tl.uint32) <= W",
        "tests/gpu/test_triton_conv2d.py",
    ),
    "Triton convolution: the second digit": Defect(
        "kernels/gpu/spike_operands.py", "result = spike << 6", "result = spike << 5", "tests/gpu/test_triton_digits.py"
    ),
    "Triton convolution: windows of pooling": Defect(
        "kernels/gpu/conv2d_kernel.py",
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
        "kernels/gpu/conv2d_choice.py",
        '("sm_5", "sm_6", "sm_7")',
        '("sm_5", "sm_6")',
        "tests/gpu/test_unfused_on_gpu.py",
    ),
    "Triton weights: the carry of a digit": Defect(
        "kernels/gpu/weight_parts.py",
        "whole = (whole - digit) >> 8",
        "whole = whole >> 8",
        "tests/gpu/test_triton_digits.py tests/gpu/test_triton_digits.py",
    ),
    "Triton sums: the carry of a digit": Defect(
        "kernels/gpu/epilogue.py", "high += middle >> 8", "high += 0", "tests/gpu/test_triton_conv2d.py"
    ),
    "Triton backward: states before a step": Defect(
        "kernels/gpu/scan_backward.py",
        "before_row -= tl.cast(STATES, tl.int64) * neurons",
        "before_row -= neurons",
        "tests/gradients/test_backward_kernels.py",
    ),
    "Triton sigma-delta: states go on": Defect(
        "kernels/gpu/sigma_delta.py", "tl.store(a_pointer", "tl.store(z_pointer", "tests/gpu/test_triton_sigma_delta.py"
    ),
    "Triton sigma-delta: what was sent before": Defect(
        "kernels/gpu/sigma_delta.py", "a += sent.to", "a = sent.to", "tests/gpu/test_triton_sigma_delta.py"
    ),
    "Triton sigma-delta: halves of a power": Defect(
        "kernels/gpu/sigma_delta.py", "(size + 0x400000)", "(size + 0x3FFFFF)", "tests/gpu/test_triton_sigma_delta.py"
    ),
    "Triton counters: the pixels of a block": Defect(
        "kernels/gpu/counters.py", "pixel = (first_row + row) % P", "pixel = row % P", "tests/gpu/test_triton_words.py"
    ),
    "Triton counters: steps that are not counted": Defect(
        "kernels/gpu/counters.py", "word & last_bits, word", "word, word", "tests/gpu/test_triton_words.py"
    ),
    "Triton packing: the last step of a word": Defect(
        "kernels/gpu/packing.py", "spike << bit", "spike << tl.minimum(bit, 30)", "tests/gpu/test_triton_words.py"
    ),
    "Triton unpacking: words after the first": Defect(
        "kernels/gpu/packing.py",
        "first * step + image % N",
        "image // N * step + image % N",
        "tests/gpu/test_triton_words.py",
    ),
    "Triton few steps: the order of eight": Defect(
        "kernels/gpu/epilogue.py",
        "x1, x3, x5, x7 = _four(odd)",
        "x3, x1, x5, x7 = _four(odd)",
        "tests/gpu/test_triton_conv2d.py",
    ),
    "Triton few steps: the late half": Defect(
        "kernels/gpu/spike_operands.py",
        "tl.arange(0, HALVES)[:, None] * HALF_STEPS",
        "tl.arange(0, HALVES)[:, None] * (HALF_STEPS - (HALF_STEPS == 2))",
        "tests/gpu/test_triton_conv2d.py",
    ),
    "Triton few steps: pixels that stand together": Defect(
        "kernels/gpu/epilogue.py",
        "tl.permute(x, (1, 3, 4, 2, 0))",
        "tl.permute(x, (3, 1, 4, 2, 0))",
        "tests/gpu/test_triton_conv2d.py",
    ),
    "Triton currents: steps that there are not": Defect(
        "kernels/gpu/conv2d_kernel.py",
        "currents_pointer += neurons * C_out",
        "currents_pointer += neurons * C_out * (i != 3)",
        "tests/gpu/test_triton_conv2d.py",
    ),
    "Triton few steps: words have no steps that there are not": Defect(
        "kernels/gpu/epilogue.py",
        "(1 << (left % 32)) - 1, -1 if",
        "(1 << (left % 32)) * 2 - 1, -1 if",
        "tests/gpu/test_triton_conv2d.py",
    ),
    "Triton few steps: states from before": Defect(
        "kernels/gpu/conv2d_kernel.py",
        "if STATES_LATER:\n            state = read_states(",
        "if STATES_LATER and COUNTS_ONLY:\n            state = read_states(",
        "tests/gpu/test_triton_conv2d.py",
    ),
    "Triton recurrent neurons: who sends": Defect(
        "kernels/gpu/recurrent_scan.py",
        "weight_pointer + row.to(tl.int64) * C + channel",
        "weight_pointer + row.to(tl.int64) + channel * C",
        "tests/gpu/test_triton_scan.py",
    ),
    "Triton recurrent neurons: the last of a list": Defect(
        "kernels/gpu/recurrent_scan.py",
        "listed = first + k < count",
        "listed = first + k < count - 1",
        "tests/gpu/test_triton_scan.py",
    ),
    "Triton recurrent neurons: spikes before the first step": Defect(
        "kernels/gpu/recurrent_scan.py",
        "tl.load(first_row + STATES * C + channel",
        "tl.load(first_row + channel",
        "tests/gpu/test_triton_scan.py",
    ),
    "Triton recurrent neurons: spikes that go on": Defect(
        "kernels/gpu/recurrent_scan.py",
        "tl.store(last_row + STATES * C + channel, spike",
        "tl.store(last_row + STATES * C + channel, mask",
        "tests/gpu/test_triton_scan.py",
    ),
    "Triton recurrent neurons: who receives a gradient": Defect(
        "kernels/gpu/recurrent_backward.py",
        "count, row, received_pointer, channel",
        "count, row, sent_pointer, channel",
        "tests/gradients/test_recurrent_gradients.py",
    ),
    "Triton recurrent neurons: gradients of the spikes before the first step": Defect(
        "kernels/gpu/recurrent_backward.py",
        "tl.store(start_row + STATES * C + channel, grad_back",
        "tl.store(start_row + STATES * C + channel, total",
        "tests/gradients/test_recurrent_gradients.py",
    ),
    "Triton recurrent neurons: gradients of the last spikes": Defect(
        "kernels/gpu/recurrent_backward.py",
        "tl.load(last_row + STATES * C + channel",
        "tl.load(last_row + channel",
        "tests/gradients/test_recurrent_gradients.py",
    ),
}
