"""Does the emulator see defects? Takes single instructions out of the compiled kernels, and counts what is noticed.

    python tests/gpu/mutate_triton.py
    python tests/gpu/mutate_triton.py --target sm_90 --every 10

Each barrier, wait, fence and asynchronous copy of seven convolutions, and of recurrent neurons, is removed in turn; a
wait for groups is also weakened by one. Printed is how each was noticed: a Fault, a wrong result, or not at all, and
then where. Not all can be, as Triton sets more than is needed:

- a barrier between accesses of which each warp has its own bytes, as where few steps' states go back to the places
  that the same threads have read; and one before a slot of shared memory is written whose readers have all passed
  another barrier since, as behind the products of a pass with three slots, and before a recurrent word is written;
- a proxy fence with no write to shared memory since the last one, as between the products of one block;
- a wait for products whose registers nothing but another product touches before the next wait;
- a barrier of recurrent neurons that one of a sum over warps makes needless.
"""

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ["TRITON_INTERPRET"] = "0"
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import torch  # noqa: E402
from cases import dyadic, fine, spikes, thresholds, words_over_time  # noqa: E402
from emulator import driver  # noqa: E402
from emulator.memory import Fault  # noqa: E402

from proxykernels.kernels import reference  # noqa: E402
from proxykernels.kernels.gpu import conv2d_launch  # noqa: E402
from proxykernels.kernels.gpu.backend import KERNELS as gpu  # noqa: E402
from proxykernels.kernels.gpu.block_sizes import Blocks  # noqa: E402
from proxykernels.kernels.gpu.conv2d_kernel import _if_conv2d_kernel  # noqa: E402
from proxykernels.kernels.gpu.scans import _recurrent_scan_kernel, recurrent_scan  # noqa: E402
from proxykernels.kernels.neuron_models import if_neuron  # noqa: E402
from proxykernels.kernels.weight_cache import CONSTANTS, WHOLE_BITS  # noqa: E402

LAYERS = {  # steps, input channels, height and width, output channels, weights, blocks, pooled
    "three digits": (33, 64, 3, 65, "float32", Blocks(4, 64, 32, 3, 4, 255), False),
    "two digits": (33, 64, 2, 129, "int16", Blocks(4, 128, 64, 3, 4, 255), False),
    "pooled": (33, 16, 4, 33, "float32", Blocks(4, 32, 64, 3, 4, 168), True),
    "float16": (33, 64, 2, 129, "float16", Blocks(4, 128, 64, 3, 4, 255), False),
    "four steps": (4, 64, 6, 65, "float32", Blocks(32, 64, 32, 3, 4, 255), False),  # in registers
    "three steps, pooled": (3, 64, 4, 33, "int16", Blocks(16, 32, 32, 3, 4, 255), True),  # through shared memory
    "16 steps": (13, 64, 3, 65, "float16", Blocks(8, 64, 32, 3, 4, 255), False),
}
ORDER = (
    r"bar\.sync|bar\.warp\.sync|cp\.async\.wait_group|cp\.async\.c[ag]\.|wgmma\.wait_group|wgmma\.fence|fence\.proxy"
)
WAIT = r"(cp\.async\.wait_group|wgmma\.wait_group\.sync\.aligned)\s+(\d+);"


def mutants(text: str) -> Iterator[tuple[str, int, str]]:
    """(What was done, in which line, the mutant's text)."""
    lines = text.splitlines()

    def with_line(i: int, line: str) -> str:
        return "\n".join([*lines[:i], line, *lines[i + 1 :]])

    for i, line in enumerate(lines):
        code = line.strip()
        if re.match(rf"(@!?%p\d+ )?({ORDER})", code):
            yield f"without {code.split()[code.startswith('@')]}", i + 1, with_line(i, "")
            if wait := re.match(WAIT, code):
                yield f"{wait[1]} of one group less", i + 1, with_line(i, f"{wait[1]} {int(wait[2]) + 1};")


def convolution_is_right(T: int, C: int, size: int, C_out: int, weights: str, blocks: Blocks, pooled: bool) -> bool:
    """Whether a 3 x 3 convolution of exact data, of which every digit counts, equals the definition."""
    generator = torch.Generator().manual_seed(0)
    x = spikes(T, 1, C, size, size, generator=generator)
    if weights == "float32":
        weight = fine(C_out, C, 3, 3, generator=generator)
    elif weights == "int16":
        weight = dyadic(C_out, C, 3, 3, generator=generator, span=4000, unit=2.0**-12)
        CONSTANTS.add(weight.untyped_storage())
        WHOLE_BITS[weight.untyped_storage()] = 13
    else:
        weight = dyadic(C_out, C, 3, 3, generator=generator).half()
    bias, theta = dyadic(C_out, generator=generator), thresholds(C_out, generator)
    v = torch.zeros(1, size * size, C_out)
    expected, v_expected = reference.if_conv2d(x, weight.float(), bias, v_threshold=theta, padding=1)
    conv2d_launch.choose_blocks = lambda *_: blocks
    run = gpu.if_conv2d_pooled if pooled else gpu.if_conv2d
    arguments = words_over_time(x.flatten(3)), T, (size, size), weight, bias, v, if_neuron(theta, 0.0)
    words, *pooled_words, v_last = run(*arguments, (1, 1), (1, 1), (1, 1), 1)
    if pooled:
        windows = torch.nn.functional.max_pool2d(expected.flatten(0, 1), 2).unflatten(0, (T, 1))
        if not torch.equal(pooled_words[0], words_over_time(windows.flatten(3))):
            return False
    same_v = torch.equal(v_last, v_expected.flatten(2).transpose(1, 2))
    return same_v and torch.equal(words, words_over_time(expected.flatten(3)))


def recurrence_is_right(C: int) -> bool:
    """Whether recurrent neurons, all to all, equal the definition."""
    generator = torch.Generator().manual_seed(0)
    current, recurrent = dyadic(34, 2, C, generator=generator), dyadic(C, C, generator=generator, span=8)
    v = torch.cat([torch.zeros(2, 1, C), spikes(2, 1, C, generator=generator, rate=0.3)], 1)
    neuron = if_neuron(thresholds(C, generator), 0.0)
    expected, v_expected = reference.recurrent_scan(current, v, neuron, recurrent)
    words, v_last = recurrent_scan(current.unsqueeze(2), v.unsqueeze(2), neuron, recurrent)
    same_v = torch.equal(v_last.squeeze(2), v_expected)
    return same_v and torch.equal(words, words_over_time(expected.unsqueeze(3)))


class Case(NamedTuple):
    """A kernel, and whether it is right."""

    kernel: Any
    is_right: Callable[[], bool]


CASES = {name: Case(_if_conv2d_kernel, partial(convolution_is_right, *layer)) for name, layer in LAYERS.items()}
CASES["recurrent"] = Case(_recurrent_scan_kernel, partial(recurrence_is_right, 130))


def outcome(case: Case, edit) -> str:
    """How the kernel does whose text went through ``edit``."""
    entry = f".entry {case.kernel.fn.__name__}"
    driver.State.edit = lambda text: edit(text) if entry in text else text
    driver.State.kernels.clear()
    case.kernel.device_caches.clear()  # Triton then loads it anew
    try:
        return "not noticed" if case.is_right() else "wrong result"
    except Fault as fault:
        return f"Fault: {fault}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="sm_80", choices=list(driver.TARGETS))
    parser.add_argument("--layer", choices=list(CASES), help="only this one")
    parser.add_argument("--every", type=int, default=1, help="only every n-th mutant")
    options = parser.parse_args()
    driver.install(options.target)
    outcomes: dict[str, Counter] = {}
    for name, case in CASES.items():
        if options.layer not in (None, name):
            continue
        texts = []
        if outcome(case, lambda text, texts=texts: texts.append(text) or text) != "not noticed":
            sys.exit(f"{name}: wrong before anything was changed")
        for change, line, mutant in list(mutants(texts[0]))[:: options.every]:
            found = outcome(case, lambda _, mutant=mutant: mutant)
            if found == "not noticed":
                print(f"{name}, line {line}: {change} is not noticed")
            outcomes.setdefault(change, Counter())[found] += 1
    for change, found in outcomes.items():
        for how, count in found.items():
            print(f"{count:3d} x {change}: {how}")
    total = sum(found.total() for found in outcomes.values())
    noticed = total - sum(found["not noticed"] for found in outcomes.values())
    print(f"{noticed} of {total} defects noticed")


if __name__ == "__main__":
    main()
