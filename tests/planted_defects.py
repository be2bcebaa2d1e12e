"""Do the tests notice? Plants defects in a copy of the checkout, one at a time, and runs the tests on each.

    python tests/planted_defects.py [NAME ...] [--options "PYTEST OPTIONS"]

One defect for each family of kernels and one for each layer of the house, each of the kind that slips in: an edge, a
missing state, a wrong order. A defect that no test notices is printed, and the exit status is 1.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONV = "kernels/cpu/src/conv2d"
ENGINE = "kernels/cpu/src/engine"
SCATTERED = "tests/package/test_engine_scatter.py"
NEURONS = "tests/cpu/test_neurons.py"
MAX_RATE_POOL = "tests/cpu/test_max_rate_pool.py"
SUMS = "tests/cpu/test_left_out_sums.py"
SIGMA_DELTA = "tests/cpu/test_sigma_delta_kernels.py"
ENGINE_KERNELS = "tests/package/test_engine_kernels.py"
SIGMA_DELTA_ENGINES = "tests/package/test_engine_sigma_delta.py"
KERNELS = " ".join(f"tests/cpu/test_{name}.py" for name in ("exactness", "cpu_kernels", "lookup", "threads"))


@dataclass(frozen=True)
class Defect:
    """``old`` in a file becomes ``new``; ``tests``: where somebody would look first."""

    file: str
    old: str
    new: str
    tests: str = KERNELS


DEFECTS = {
    # Families of kernels
    "step: the edge": Defect(
        "kernels/cpu/src/neurons.h",
        "const auto fires = h >= p.theta;",
        "const auto fires = h - p.theta >= all<V>(1e-6f);",
    ),
    "leaky step: the rest": Defect(
        "kernels/cpu/src/neurons.h", "p.decay * (v - p.v_rest) + current", "p.decay * v + current", NEURONS
    ),
    "states: the next image's": Defect(
        "kernels/cpu/src/neurons.h",
        "(image * Model::states * n.P + pixel)",
        "(image * n.P + pixel + (Model::states - 1) * (image > 0))",
        NEURONS,
    ),
    "start: that of each pixel": Defect("kernels/cpu/src/neurons.h", "pixel * n.start_pixel", "n.start_pixel", KERNELS),
    "scattered spikes: a silent step of a leak too few": Defect(
        f"{ENGINE}/scatter.h", "now - done);", "now - done - (now > done + 1));", SCATTERED
    ),
    "scattered spikes: neurons that fire again": Defect(
        f"{ENGINE}/scatter.h", "uint64_t visited = touched | again;", "uint64_t visited = touched;", SCATTERED
    ),
    "scattered spikes: the currents of another pixel": Defect(
        f"{ENGINE}/scatter.h", "new_place += is_new,", "new_place += is_new & (at % 64 < 63),", SCATTERED
    ),
    "scattered spikes: a full list": Defect(
        f"{ENGINE}/fired_lists.h", "step <= t; step++", "step < t; step++", SCATTERED
    ),
    "scattered spikes: pooled windows": Defect(
        f"{ENGINE}/scatter.cpp", "(at - kernel) / stride + 1", "(at - kernel + stride) / stride + 1", SCATTERED
    ),
    "recurrent neurons: what fired last": Defect(
        "kernels/cpu/src/recurrent/steps.h",
        "if (fired != memory.fired) memcpy(memory.fired, fired, bytes);",
        "",
        "tests/cpu/test_recurrent_kernels.py",
    ),
    "recurrent neurons: the gradient that comes back": Defect(
        "kernels/cpu/src/recurrent/backward.h",
        "grad_spikes[c] + back[c], pass",
        "grad_spikes[c], pass",
        "tests/gradients/test_recurrent_gradients.py",
    ),
    "recurrent neurons of an engine: rows of the last block": Defect(
        f"{ENGINE}/recurrent.cpp",
        "w.block(b), list,",
        "w.block(b > 0), list,",
        "tests/package/test_recurrent_rounded.py",
    ),
    "lists of spikes: more than half a word": Defect(
        "kernels/cpu/src/set_bits.h", "if (count > 32) _mm512", "if (count > 40) _mm512"
    ),
    "lists of spikes: by bytes": Defect("kernels/cpu/src/set_bits.h", "first += 8 * scale) {", "first += 7 * scale) {"),
    "window lists: another image's row": Defect(
        f"{CONV}/window_lists.h",
        "row_of((place.image - in.image) * in.rows + y - in.row)",
        "row_of(y - in.row)",
    ),
    "steady inputs: a span's last steps": Defect(
        f"{CONV}/steady.h", "for (; t < steps; t++) counts", "for (; t < steps - 1; t++) counts"
    ),
    "steady inputs: a span's first silent step": Defect(
        f"{CONV}/event_lists.h", "if (any && negated)", "if (any && negated && t > first)"
    ),
    "steady inputs: sums of bytes": Defect(
        "kernels/cpu/rows.py", "else LARGEST_BYTE_SUM * unit", "else 2 * LARGEST_BYTE_SUM * unit", SUMS
    ),
    "steady inputs: a weight that drowns the others": Defect(
        "kernels/cpu/rows.py", "bool((sums <= most).all())", "unit is None or bool((sums <= most).all())", SUMS
    ),
    "equal windows: where they start from": Defect(
        f"{CONV}/equal_windows.h", "!c.neurons.start_image && !c.neurons.start_pixel", "!c.neurons.start_image", SUMS
    ),
    "equal windows: the second state": Defect(
        f"{CONV}/equal_windows.h",
        "for (int64_t k = 0; k < states; k++)\n                memcpy",
        "for (int64_t k = 0; k < 1; k++)\n                memcpy",
        SUMS,
    ),
    "equal windows: what is outside the image": Defect(
        f"{CONV}/equal_windows.h", "x >= c.W) return -1;", "x >= c.W) return 0;"
    ),
    "lists of spikes: the pixel before": Defect(
        f"{CONV}/event_lists.h", "start[i] = last[i] + length", "start[i] = last[i]", SUMS
    ),
    "periods: the start of a part": Defect(
        f"{CONV}/period.h", "ceil_div(start + 1, p) * p - start - 1", "ceil_div(start + 2, p) * p - start - 1"
    ),
    "short rows: the high half": Defect(
        "kernels/cpu/src/simd.h", "{ return {a.x >> 16}; }", "{ return {a.x >> 16 & 0x7fff}; }"
    ),
    "byte rows: the offset of odd channels": Defect(
        f"{CONV}/rows.h", "broadcast_half((uint16_t)-offset)", "broadcast_half((uint16_t)(-offset & 0x3fff))"
    ),
    "engine: rows of bytes whose sums leave 16 bits": Defect(
        "kernels/cpu/src/engine/row_kinds.h",
        "half > largest_byte_sum",
        "half > 2 * largest_byte_sum",
        "tests/package/test_engine_few_steps.py",
    ),
    "engine: rows that add nothing": Defect(
        "kernels/cpu/src/engine/listed_rows.h",
        "j < most_group; j++) end[j]",
        "j < most_group - 2; j++) end[j]",
        "tests/package/test_engine_few_steps.py",
    ),
    "lookup: bits put together": Defect(
        f"{CONV}/lookup_windows.h", "(int32_t)((1ull << size) - 1)", "(int32_t)((1ull << (size - (size == 31))) - 1)"
    ),
    "im2col: a window that ends in the next word": Defect(
        f"{CONV}/im2col.h", "if (shift + row_bits > 64)", "if (shift + row_bits > 65)", "tests/cpu/test_im2col.py"
    ),
    "im2col: bits of the next window": Defect(
        f"{CONV}/im2col.h", "(1ull << bits) - 1", "(1ull << (bits + 1)) - 1", "tests/cpu/test_im2col.py"
    ),
    "im2col: a row of the image before": Defect(
        f"{CONV}/im2col.h",
        "for (int64_t i = 0; i < kept; i++)",
        "for (int64_t i = 1; i < kept; i++)",
        "tests/cpu/test_im2col.py",
    ),
    "tiles: the joined digits": Defect(
        f"{CONV}/amx.h", "_mm512_slli_epi32(sum(digit + 1), 8)", "_mm512_slli_epi32(sum(digit + 1), 7)"
    ),
    "pixel tiles: the last pixel of a tile": Defect(
        f"{CONV}/pixel_tiles.h",
        "(1 << layout.pixels) - 1",
        "(1 << (layout.pixels - 1)) - 1",
        "tests/package/test_engine_pixel_tiles.py",
    ),
    "depthwise: the last steps": Defect(
        f"{CONV}/pixel.h",
        "for (Block& sum : current) sum = bias;",
        "for (Block& sum : current) sum = n.T - t < together ? Block{} : bias;",
    ),
    "engine: inputs of a group": Defect(
        "kernels/cpu/src/engine/sliced.h", "* (c.C_in / 8);", "* (c.C_in / 16);", ENGINE_KERNELS
    ),
    "engine: images of a long input": Defect(
        "kernels/cpu/src/work.h", "return c.x_image ? c.x_image :", "return c.x_image < 0 ? c.x_image :", ENGINE_KERNELS
    ),
    "engine: additions by one of several parts": Defect(
        "kernels/cpu/src/engine/sliced.h", "if (!first || parts > 1)", "if (!first)", ENGINE_KERNELS
    ),
    "max rate pool: a count of the last step": Defect(
        "kernels/cpu/src/max_rate_pool.h",
        "for (int64_t t = 0; t < T; t++) {\n            const uint32_t fired = load_block_bits(x + t * frame, bytes);",
        "for (int64_t t = 0; t < T - (T > 32); t++) {\n"
        "            const uint32_t fired = load_block_bits(x + t * frame, bytes);",
        MAX_RATE_POOL,
    ),
    "max rate pool: what was the highest before": Defect(
        "kernels/cpu/src/max_rate_pool.h",
        "highest.v[i] = greater(highest.v[i], counts[tap].v[i]);",
        "if (tap) highest.v[i] = greater(highest.v[i], counts[tap].v[i]);",
        MAX_RATE_POOL,
    ),
    "max rate pool: the image's last row": Defect(
        "kernels/cpu/src/max_rate_pool.h",
        "y < least(top + p.kernel_h, p.H)",
        "y < least(top + p.kernel_h, p.H - (p.padding_h > 0))",
        MAX_RATE_POOL,
    ),
    "rounding: the negative half": Defect(
        "kernels/rounding.py", "torch.maximum(positive, total - positive)", "positive", "tests/package/test_rounding.py"
    ),
    "rounding on a CPU: the negative half": Defect(
        "kernels/cpu/src/rounding.h",
        "most(weights.positive, weights.all - weights.positive)",
        "weights.positive",
        "tests/package/test_rounding.py",
    ),
    "rounding: what rounding adds": Defect(
        "kernels/rounding.py",
        "self.largest_half - inputs / 2",
        "self.largest_half - inputs / 4",
        "tests/package/test_rounding.py",
    ),
    "words: a partial byte": Defect(
        "kernels/cpu/src/spike_bits.h",
        "left < 8 ? left : 8);\n        for (; word;",
        "left < 7 ? left : 7);\n        for (; word;",
        "tests/package/test_spikes.py",
    ),
    "Triton scan: the last word": Defect(
        "kernels/gpu/if_scan.py",
        "tl.minimum(T - first, 32)",
        "tl.minimum(T - first, 31)",
        "tests/gpu/test_triton_scan.py",
    ),
    "Triton neurons: the second state": Defect(
        "kernels/gpu/neuron_steps.py",
        "(_reset(margin, h, neuron[0], h - loaded[0]), adapted)",
        "(_reset(margin, h, neuron[0], h - loaded[0]), state[1])",
        "tests/gpu/test_triton_neurons.py",
    ),
    "Triton convolution: the border": Defect(
        "kernels/gpu/if_conv2d_kernel.py",
        "(x.to(tl.uint32) < W",
        "(x.to(tl.uint32) <= W",
        "tests/gpu/test_triton_conv2d.py",
    ),
    "Triton convolution: the second digit": Defect(
        "kernels/gpu/spike_operands.py",
        "result = spike << 6",
        "result = spike << 5",
        "tests/gpu/test_triton_digits.py",
    ),
    "Triton convolution: windows of pooling": Defect(
        "kernels/gpu/if_conv2d_kernel.py",
        "row = window // windows_across * 2 + place % 4 // 2",
        "row = window // windows_across * 2 + place % 2",
        "tests/gpu/test_triton_network.py",
    ),
    "Triton operands: layouts that nobody has seen": Defect(
        "kernels/gpu/one_step.py",
        "architecture in SEEN.get(triton, ())",
        "architecture in SEEN.get(triton, MMA)",
        "tests/gpu/test_spike_operands.py",
    ),
    "Triton convolution: no tensor cores": Defect(
        "kernels/gpu/convolutions.py",
        '("sm_5", "sm_6", "sm_7")',
        '("sm_5", "sm_6")',
        "tests/gpu/test_unfused_on_gpu.py",
    ),
    "Triton weights: the carry of a digit": Defect(
        "kernels/gpu/weight_parts.py",
        "whole = (whole - digit) >> 8",
        "whole = whole >> 8",
        "tests/gpu/test_triton_weight_parts.py tests/gpu/test_triton_digits.py",
    ),
    "Triton sums: the carry of a digit": Defect(
        "kernels/gpu/if_conv2d_kernel.py", "high += middle >> 8", "high += 0", "tests/gpu/test_triton_conv2d.py"
    ),
    "Triton backward: states before a step": Defect(
        "kernels/gpu/scan_backward.py",
        "before_row -= STATES * neurons",
        "before_row -= neurons",
        "tests/gradients/test_scan_backward.py",
    ),
    "sigma-delta: states go on": Defect(
        "kernels/cpu/src/sigma_delta/senders.cpp",
        "z = s.z ? load_block",
        "z = s.z && pixel ? load_block",
        SIGMA_DELTA,
    ),
    "sigma-delta: beyond the image": Defect(
        "kernels/cpu/src/sigma_delta/dense.cpp", "inside ? begin : inputs", "begin", SIGMA_DELTA
    ),
    "sigma-delta: a bias at each step": Defect(
        "kernels/cpu/src/sigma_delta/senders.h", "t || !s.bias", "!s.bias", SIGMA_DELTA
    ),
    "sigma-delta maxima: of this step alone": Defect(
        "kernels/cpu/src/sigma_delta/maximum.cpp", "        last = most;", "", SIGMA_DELTA
    ),
    "sigma-delta maxima: neurons start anew": Defect(
        "kernels/cpu/src/sigma_delta/maximum.cpp", "        if (kept) store_block(kept, neurons.a, n);", "", SIGMA_DELTA
    ),
    "sigma-delta engines: neurons that have not settled": Defect(
        "kernels/cpu/src/engine/changes.h", "    if (restless) memcpy", "    if (false) memcpy", SIGMA_DELTA_ENGINES
    ),
    "sigma-delta engines: pixels beside those that change": Defect(
        "kernels/cpu/src/engine/changes.h", "row[w.padding_w + x] |=", "row[x] |=", SIGMA_DELTA_ENGINES
    ),
    "sigma-delta engines: states of samples that go on": Defect(
        "kernels/cpu/src/engine/memory.h",
        "        keep(from.sent,",
        "        if (false) keep(from.sent,",
        SIGMA_DELTA_ENGINES,
    ),
    "sigma-delta: a pooling that others see through": Defect(
        "proxykernels/conversion/relu/sigma_delta_pools.py",
        "!= [reader]",
        "== []",
        "tests/package/test_sigma_delta_pools.py",
    ),
    "sigma-delta: a bottleneck is no ReLU": Defect(
        "proxykernels/layers/sigma_delta.py",
        "0.0 if self.rectifies else",
        "0.0 if True else",
        "tests/package/test_sigma_delta.py",
    ),
    "sigma-delta: samples that have stopped": Defect(
        "proxykernels/running/sigma_delta_layers.py",
        "self.index = self.index[~decided]",
        "pass",
        "tests/package/test_sigma_delta_states.py",
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
        "kernels/gpu/if_conv2d_kernel.py",
        "x1, x3, x5, x7 = _four(odd)",
        "x3, x1, x5, x7 = _four(odd)",
        "tests/gpu/test_triton_few_steps.py",
    ),
    "Triton currents: steps that there are not": Defect(
        "kernels/gpu/if_conv2d_kernel.py",
        "currents_pointer += neurons * C_out",
        "currents_pointer += neurons * C_out * (i != 3)",
        "tests/gpu/test_triton_few_steps.py",
    ),
    # Layers of the house
    "unfused: chunks": Defect(
        "kernels/unfused.py",
        "spikes, v = backend.if_scan(current, v, neuron)",
        "spikes, _ = backend.if_scan(current, v, neuron)",
        "tests/package/test_layers.py tests/package/test_simulate.py tests/package/test_ops.py",
    ),
    "weight cache: stale": Defect(
        "kernels/weight_cache.py", "known[key][0] != ", "False and known[key][0] != ", "tests/cpu"
    ),
    "simulation: samples in order": Defect(
        "proxykernels/running/state.py",
        "torch.cat(indices).argsort()",
        "torch.cat(indices)",
        "tests/package/test_anytime.py",
    ),
    "functional: the state": Defect(
        "proxykernels/spikes/channels_last.py",
        "(v.float(),",
        "(v.float().relu(),",
        "tests/cpu/test_exactness.py",
    ),
    "layers: folding": Defect(
        "proxykernels/layers/folded.py",
        "- mean.double()) * scale",
        "- mean.double())",
        "tests/package/test_layers.py tests/package/test_simulate.py",
    ),
    "layers: neurons of before a change": Defect(
        "proxykernels/layers/attributes.py",
        'self.__dict__.pop("_made", None)',
        "pass",
        "tests/package/test_hops.py",
    ),
    "synapses: paddings swapped": Defect(
        "proxykernels/layers/synapses.py",
        "((0, *padding[2:]), (1, *padding[:2]))",
        "((0, *padding[:2]), (1, *padding[2:]))",
        "tests/package/test_synapses.py",
    ),
    "synapses: the tap of a dilation": Defect(
        "proxykernels/layers/synapses.py",
        "torch.arange(kernel, device=heap.CPU) * dilation",
        "torch.arange(kernel, device=heap.CPU)",
        "tests/package/test_synapses.py",
    ),
    "simulation: a chunk's start": Defect(
        "proxykernels/running/stateful_layer.py",
        "[start : start + len(x)]",
        "[0 : len(x)]",
        "tests/package/test_simulate.py tests/package/test_anytime.py",
    ),
    "training: clipping": Defect(
        "proxykernels/training/twin.py",
        "F.hardtanh(current, 0.0, theta)",
        "F.relu(current)",
        "tests/package/test_proxy.py tests/package/test_proxy_modes.py",
    ),
    "training: outputs below zero": Defect(
        "proxykernels/training/twin.py",
        "(y < 0) & (gradient > 0)",
        "y < 0",
        "tests/package/test_proxy.py",
    ),
    "training: a silent layer's passes": Defect(
        "proxykernels/training/watch.py",
        "self._silent[name] + 1 for name in silent",
        "1 for name in silent",
        "tests/package/test_first_try.py",
    ),
    "training: unknown neurons": Defect(
        "proxykernels/training/twin.py",
        "type(neuron) not in KNOWN",
        "not isinstance(neuron, KNOWN)",
        "tests/package/test_first_try.py",
    ),
    "conversion: a shift beside padding": Defect(
        "proxykernels/conversion/relu/norms_behind.py",
        "not pads or not affine.shift.any()",
        "True",
        "tests/package/test_norms_behind.py",
    ),
    "conversion: a maximum of negative factors": Defect(
        "proxykernels/conversion/relu/norms_behind.py",
        "(affine.factor >= 0).all()",
        "(affine.factor >= 0).any()",
        "tests/package/test_norms_behind.py",
    ),
    "conversion: pooling of rates": Defect(
        "proxykernels/conversion/graph/graph_layers.py",
        "MAX_RATE_POOLS if x.binary else RUNNING_MAX_POOLS",
        "MAX_POOLS if x.binary else RUNNING_MAX_POOLS",
        "tests/package/test_convert.py",
    ),
    "conversion: shuffled channels": Defect(
        "proxykernels/conversion/graph/index_ops.py",
        "layers.Channels(channels)",
        "layers.Channels(channels.sort().values)",
        "tests/package/test_convert_graphs.py",
    ),
    "conversion: potentials of a loop": Defect(
        "proxykernels/conversion/libraries/time_loops.py",
        "part == (operator.getitem, (before, k))",
        "part is not None",
        "tests/package/test_library_zoos.py",
    ),
}


def noticed(defect: Defect, options: list[str]) -> tuple[bool, str]:
    """Whether the tests fail on a copy with the defect, and the line that says which one did."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "checkout")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "build", "*.egg-info", "__pycache__"))
        source = copy / defect.file
        text = source.read_text()
        if text.count(defect.old) < 1:
            raise ValueError(f"{defect.file} does not hold {defect.old!r} any more; adapt tests/planted_defects.py")
        source.write_text(text.replace(defect.old, defect.new, 1))
        if source.suffix == ".h":
            subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=copy, check=True,
                           capture_output=True)  # fmt: skip
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            *options,
            *defect.tests.split(),
        ]
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=environment)
    failed = next((line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
    return done.returncode not in (0, 5), failed or f"the tests ended with status {done.returncode}"  # 5: none ran


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of names of defects (default: all)")
    parser.add_argument("--options", default="--quick", help="of pytest (default: --quick)")
    chosen = parser.parse_args()
    missed = 0
    for name, defect in DEFECTS.items():
        if chosen.names and not any(part in name for part in chosen.names):
            continue
        start = time.perf_counter()
        found, line = noticed(defect, chosen.options.split())
        missed += not found
        print(f"{'noticed' if found else 'MISSED '} {time.perf_counter() - start:5.0f} s  {name}: {line}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
