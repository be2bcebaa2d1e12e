"""Defects of the kernels of a CPU: neurons, lists of spikes, windows, rows of weights, tiles, words."""

from planted.defect import KERNELS, Defect

CONV, ENGINE = "kernels/cpu/src/conv2d", "kernels/cpu/src/engine"
NEURONS = "tests/cpu/test_neurons.py"
MAX_RATE_POOL = "tests/cpu/test_sigma_delta_kernels.py"
SUMS = "tests/cpu/test_sums.py"
NEURONS_SOURCE = "kernels/cpu/src/neurons.h"
SET_BITS = "kernels/cpu/src/set_bits.h"
CPU_KERNELS_TESTS = "tests/cpu/test_cpu_kernels.py"
MAX_RATE_POOL_SOURCE = "kernels/cpu/src/spikes.cpp"
ROUNDING = "kernels/rounding.py"
PLANS_TESTS = "tests/plan/test_plans.py"

DEFECTS = {
    "step: the edge": Defect(
        NEURONS_SOURCE, "const auto fires = h >= p.theta;", "const auto fires = h - p.theta >= all<V>(1e-6f);"
    ),
    "leaky step: the rest": Defect(
        NEURONS_SOURCE, "p.decay * (v - p.v_rest) + current", "p.decay * v + current", NEURONS
    ),
    "states: the next image's": Defect(
        NEURONS_SOURCE,
        "(image * Model::states * n.P + pixel)",
        "(image * n.P + pixel + (Model::states - 1) * (image > 0))",
        NEURONS,
    ),
    "start: that of each pixel": Defect(NEURONS_SOURCE, "pixel * n.start_pixel", "n.start_pixel", KERNELS),
    "lists of spikes: more than half a word": Defect(SET_BITS, "if (count > 32) _mm512", "if (count > 40) _mm512"),
    "lists of spikes: by bytes": Defect(SET_BITS, "first += 8 * scale) {", "first += 7 * scale) {"),
    "window lists: another image's row": Defect(
        f"{CONV}/slices.h", "(place.image - in.image) * in.rows + y - in.row;", "y - in.row;"
    ),
    "steady inputs: a span's last steps": Defect(
        f"{CONV}/input_lists.h", "for (; t < steps; t++) counts", "for (; t < steps - 1; t++) counts"
    ),
    "steady inputs: a span's first silent step": Defect(
        f"{CONV}/input_lists.h", "if (any && negated)", "if (any && negated && t > first)"
    ),
    "steady inputs: sums of bytes": Defect(
        f"{ENGINE}/kernel_weights.h", "(float)largest_byte_sum * c.unit", "2 * (float)largest_byte_sum * c.unit", SUMS
    ),
    "steady inputs: a weight that drowns the others": Defect(
        f"{ENGINE}/kernel_weights.h", "most_thresholds * op.neuron.channels[o]", "INFINITY", SUMS
    ),
    "equal windows: where they start from": Defect(
        f"{CONV}/row_sums.h", "!c.neurons.start_image && !c.neurons.start_pixel", "!c.neurons.start_image", SUMS
    ),
    "equal pixels of a layer: where they start from": Defect(
        f"{ENGINE}/run_segment.h", "!op.is_layer || !session.neurons->start_pixel", "true", SUMS
    ),
    "equal windows: the second state": Defect(
        f"{CONV}/row_sums.h",
        "for (int64_t k = 0; k < states; k++)\n                memcpy",
        "for (int64_t k = 0; k < 1; k++)\n                memcpy",
        SUMS,
    ),
    "equal windows: what is outside the image": Defect(
        f"{CONV}/row_sums.h", "x >= c.W) return -1;", "x >= c.W) return 0;"
    ),
    "lists of spikes: the pixel before": Defect(
        f"{CONV}/input_lists.h", "start[i] = last[i] + length", "start[i] = last[i]", SUMS
    ),
    "short rows: the high half": Defect(
        "kernels/cpu/src/simd.h", "{ return {a.x >> 16}; }", "{ return {a.x >> 16 & 0x7fff}; }"
    ),
    "byte rows: the offset of odd channels": Defect(
        f"{CONV}/weight_rows.h", "broadcast_half((uint16_t)-offset)", "broadcast_half((uint16_t)(-offset & 0x3fff))"
    ),
    "lookup: bits put together": Defect(
        f"{CONV}/lookup.h", "(int32_t)((1ull << size) - 1)", "(int32_t)((1ull << (size - (size == 31))) - 1)"
    ),
    "im2col: a window that ends in the next word": Defect(
        "kernels/cpu/src/spikes.cpp", "if (shift + row_bits > 64)", "if (shift + row_bits > 65)", CPU_KERNELS_TESTS
    ),
    "im2col: bits of the next window": Defect(
        "kernels/cpu/src/spikes.cpp", "(1ull << bits) - 1", "(1ull << (bits + 1)) - 1", CPU_KERNELS_TESTS
    ),
    "im2col: a row of the image before": Defect(
        "kernels/cpu/src/spikes.cpp",
        "for (int64_t i = 0; i < kept; i++)",
        "for (int64_t i = 1; i < kept; i++)",
        CPU_KERNELS_TESTS,
    ),
    "tiles: the joined digits": Defect(
        f"{CONV}/amx.h", "_mm512_slli_epi32(sum(digit + 1), 8)", "_mm512_slli_epi32(sum(digit + 1), 7)"
    ),
    "pixel tiles: the last pixel of a tile": Defect(
        f"{CONV}/amx_pixels.h",
        "(1 << layout.pixels) - 1",
        "(1 << (layout.pixels - 1)) - 1",
        "tests/engine/test_engine_many_steps.py",
    ),
    "depthwise: the last steps": Defect(
        f"{CONV}/pixel_by_pixel.h",
        "for (Block& sum : current) sum = bias;",
        "for (Block& sum : current) sum = n.T - t < together ? Block{} : bias;",
    ),
    "max rate pool: a count of the last step": Defect(
        MAX_RATE_POOL_SOURCE,
        "for (int64_t t = 0; t < T; t++) {\n            const uint32_t fired = load_block_bits(x + t * frame, bytes);",
        "for (int64_t t = 0; t < T - (T > 32); t++) {\n"
        "            const uint32_t fired = load_block_bits(x + t * frame, bytes);",
        MAX_RATE_POOL,
    ),
    "max rate pool: what was the highest before": Defect(
        MAX_RATE_POOL_SOURCE,
        "highest.v[i] = greater(highest.v[i], counts[tap].v[i]);",
        "if (tap) highest.v[i] = greater(highest.v[i], counts[tap].v[i]);",
        MAX_RATE_POOL,
    ),
    "max rate pool: the image's last row": Defect(
        MAX_RATE_POOL_SOURCE,
        "y < least(top + p.kernel_h, p.H)",
        "y < least(top + p.kernel_h, p.H - (p.padding_h > 0))",
        MAX_RATE_POOL,
    ),
    "rounding: the negative half": Defect(
        ROUNDING, "torch.maximum(positive, total - positive)", "positive", PLANS_TESTS
    ),
    "rounding on a CPU: the negative half": Defect(
        "kernels/cpu/src/spikes.cpp",
        "most(weights.positive, weights.all - weights.positive)",
        "weights.positive",
        PLANS_TESTS,
    ),
    "rounding: what rounding adds": Defect(
        ROUNDING, "self.largest_half - inputs / 2", "self.largest_half - inputs / 4", PLANS_TESTS
    ),
    "words: a partial byte": Defect(
        "kernels/cpu/src/packed_spikes.h",
        "left < 8 ? left : 8);\n        for (; word;",
        "left < 7 ? left : 7);\n        for (; word;",
        "tests/spikes/test_spikes.py",
    ),
    "recurrent neurons: what fired last": Defect(
        f"{ENGINE}/recurrent.cpp",
        "memcpy(memory.fired, spikes_of(image, steps - 1), op.bytes());",
        "",
        "tests/cpu/test_neurons.py",
    ),
    "recurrent neurons: the gradient that comes back": Defect(
        "kernels/cpu/src/gradients.cpp",
        "grad_spikes[c] + back[c], pass",
        "grad_spikes[c], pass",
        "tests/gradients/test_recurrent_gradients.py",
    ),
}
