"""Defects of what engines do with those kernels: scattered spikes, few steps, groups, parts."""

from planted.defect import Defect

ENGINE = "kernels/cpu/src/engine"
SCATTERED = "tests/engine/test_engine_scatter.py"
MANY_STEPS = "tests/engine/test_engine_many_steps.py"
ENGINE_KERNELS = "tests/engine/test_engine_kernels.py"
ENGINE_FEW_STEPS_TESTS = "tests/engine/test_engine_few_steps.py"
TILE_CURRENTS = "tests/engine/test_engine_tile_currents.py"
SLICED_WAY = "kernels/cpu/src/engine/ways.h"

DEFECTS = {
    "scattered spikes: a silent step of a leak too few": Defect(
        f"{ENGINE}/scatter.cpp",
        "pixel) * op.C, now - done);",
        "pixel) * op.C, now - done - (now > done + 1));",
        SCATTERED,
    ),
    "scattered spikes: neurons that fire again": Defect(
        f"{ENGINE}/scatter.cpp", "uint64_t visited = touched | again;", "uint64_t visited = touched;", SCATTERED
    ),
    "scattered spikes: a nap that biases end": Defect(
        f"{ENGINE}/packed_plan.h", "return v < theta ? calm : -INFINITY;", "return theta;", SCATTERED
    ),
    "scattered spikes: the steps of a nap": Defect(
        f"{ENGINE}/marks.h", "t < steps; t++) each<together>", "t + 1 < steps; t++) each<together>", SCATTERED
    ),
    "scattered spikes: currents of the step before": Defect(
        f"{ENGINE}/scatter.cpp", "store_first(currents + c, broadcast(0.0f), count);", "", SCATTERED
    ),
    "scattered spikes: a row that two bands share": Defect(
        f"{ENGINE}/scatter.cpp", "from += before * C, at += before,", "at += before,", SCATTERED
    ),
    "engine: a row of taps of planes": Defect(
        f"{ENGINE}/currents.h",
        "tap = (from + begin) / w.C,",
        "tap = begin / w.C,",
        "tests/engine/test_engine_kernels.py",
    ),
    "scattered spikes: a full list": Defect(
        f"{ENGINE}/slot_lists.h", "step <= t; step++", "step < t; step++", SCATTERED
    ),
    "scattered spikes: pooled windows": Defect(
        f"{ENGINE}/scatter.cpp", "(at - kernel) / stride + 1", "(at - kernel + stride) / stride + 1", SCATTERED
    ),
    "engine: rows of bytes that are taken off, and leave 16 bits": Defect(
        f"{ENGINE}/kernel_weights.h", "(float)largest_byte_sum *", "2.0f * (float)largest_byte_sum *", MANY_STEPS
    ),
    "engine: rows that drown the others are taken off": Defect(
        f"{ENGINE}/kernel_weights.h",
        "if (sum > most) return false;",
        "if (c.unit && sum > most) return false;",
        MANY_STEPS,
    ),
    "engine: periods of inputs that fired before": Defect(
        f"{ENGINE}/first_spikes.h", "silent &= ~fires;", "silent &= ~(fires & -fires);", MANY_STEPS
    ),
    "engine: rows of bytes whose sums leave 16 bits": Defect(
        "kernels/cpu/src/conv2d/weight_rows.h",
        "half > largest_byte_sum",
        "half > 2 * largest_byte_sum",
        ENGINE_FEW_STEPS_TESTS,
    ),
    "engine: rows that add nothing": Defect(
        "kernels/cpu/src/engine/rows_to_add.h",
        "j < most_group; j++) end[j]",
        "j < most_group - 2; j++) end[j]",
        ENGINE_FEW_STEPS_TESTS,
    ),
    "engine: inputs of a group": Defect(SLICED_WAY, "* (c.C_in / 8);", "* (c.C_in / 16);", ENGINE_KERNELS),
    "engine: images of a long input": Defect(
        "kernels/cpu/src/work.h", "return c.x_image ? c.x_image :", "return c.x_image < 0 ? c.x_image :", ENGINE_KERNELS
    ),
    "engine: additions by one of several parts": Defect(SLICED_WAY, "(!first || parts > 1)", "!first", ENGINE_KERNELS),
    "tile currents: images behind the first part": Defect(
        f"{ENGINE}/fire.cpp", "if (some.spikes) some.spikes += first * x.image;", "if (some.spikes) {}", TILE_CURRENTS
    ),
    "tile currents: the sign of numbers": Defect(
        "kernels/cpu/src/conv2d/amx_pixels.h",
        "_mm512_sub_epi32(_mm512_setzero_si512(), number)",
        "number",
        TILE_CURRENTS,
    ),
    "tile currents: what an average loses": Defect(
        f"{ENGINE}/packed_plan.cpp",
        "if (std::isinf(own)) own = 0;",
        "if (std::isinf(own) || own == 0) own = 1e9f;",
        TILE_CURRENTS,
    ),
    "recurrent neurons of an engine: rows of the last block": Defect(
        f"{ENGINE}/recurrent.cpp", "w.block(b), list,", "w.block(b > 0), list,", "tests/plan/test_quantize.py"
    ),
}
