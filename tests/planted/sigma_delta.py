"""Defects of sigma-delta neurons on a CPU, of their engines and of their networks."""

from planted.defect import Defect

SIGMA_DELTA = "tests/cpu/test_sigma_delta_kernels.py"
SIGMA_DELTA_ENGINES = "tests/engine/test_engine_sigma_delta.py"
GRADED_INT8 = "tests/engine/test_engine_graded_int8.py"
PRODUCTS = "kernels/cpu/src/sigma_delta/byte_products.cpp"
MAXIMUM = "kernels/cpu/src/sigma_delta/senders.cpp"
CHANGES = "kernels/cpu/src/engine/sigma_delta.h"
SIGMA_DELTA_TESTS = "tests/running/test_sigma_delta.py"

DEFECTS = {
    "sigma-delta: states go on": Defect(
        "kernels/cpu/src/sigma_delta/senders.cpp", "z = s.z ? load_block", "z = s.z && pixel ? load_block", SIGMA_DELTA
    ),
    "sigma-delta: beyond the image": Defect(
        "kernels/cpu/src/sigma_delta/dense.cpp", "inside ? begin : inputs", "begin", SIGMA_DELTA
    ),
    "sigma-delta: rows between bands": Defect(
        "kernels/cpu/src/sigma_delta/scattered.cpp", "count = least(end, ", "count = least(end - 1, ", SIGMA_DELTA
    ),
    "sigma-delta: a bias at each step": Defect(
        "kernels/cpu/src/sigma_delta/senders.h", "t || !s.bias", "!s.bias", SIGMA_DELTA
    ),
    "sigma-delta: codes beyond the image": Defect(PRODUCTS, "        memset(to, 0, row);", "", GRADED_INT8),
    "sigma-delta: codes beyond a window": Defect(
        PRODUCTS, "    memset(to, 0, stride - s.kernel_h * row);", "", GRADED_INT8
    ),
    "sigma-delta: products of the first rows alone": Defect(
        PRODUCTS, "scratch.sums, row == 0}", "scratch.sums, true}", GRADED_INT8
    ),
    "sigma-delta: a shortcut without its scale": Defect(
        "kernels/cpu/src/sigma_delta/senders.h", " * broadcast(s.added_scale)", "", GRADED_INT8
    ),
    "sigma-delta maxima: of this step alone": Defect(MAXIMUM, "        last = most;", "", SIGMA_DELTA),
    "sigma-delta maxima: neurons start anew": Defect(
        MAXIMUM, "        if (kept) store_block(kept, neurons.a, n);", "", SIGMA_DELTA
    ),
    "sigma-delta engines: neurons that have not settled": Defect(
        CHANGES, "    if (restless) memcpy", "    if (false) memcpy", SIGMA_DELTA_ENGINES
    ),
    "sigma-delta engines: pixels beside those that change": Defect(
        CHANGES, "row[w.padding_w + x] |=", "row[x] |=", SIGMA_DELTA_ENGINES
    ),
    "sigma-delta engines: states of samples that go on": Defect(
        "kernels/cpu/src/engine/memory.h",
        "        keep(from.sent,",
        "        if (false) keep(from.sent,",
        SIGMA_DELTA_ENGINES,
    ),
    "sigma-delta: a pooling that others see through": Defect(
        "proxykernels/conversion/relu/scales.py",
        "!= [reader]",
        "== []",
        "tests/conversion/relu/test_sigma_delta_pools.py",
    ),
    "sigma-delta: a bottleneck is no ReLU": Defect(
        "proxykernels/layers/sigma_delta_neurons.py",
        "0.0 if self.rectifies else",
        "0.0 if True else",
        SIGMA_DELTA_TESTS,
    ),
    "sigma-delta: samples that have stopped": Defect(
        "proxykernels/running/sigma_delta_layers.py", "self.index = self.index[~decided]", "pass", SIGMA_DELTA_TESTS
    ),
    "sigma-delta: inputs between the windows of a pooling": Defect(
        CHANGES,
        "if (maxima && keeps && s.T_in) add_up_inputs",
        "if (count && maxima && keeps && s.T_in) add_up_inputs",
        SIGMA_DELTA_TESTS,
    ),
}
