"""The Triton kernels compile for GPUs that this machine need not have, and spill no registers.

Triton's interpreter, which the other tests use where there is no GPU, replaces ``triton.jit`` for a
whole process, so one child process without it compiles all variants and prints what it found.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}
RESETS = {"hard": False, "soft": True}
OUTPUTS = {"words": False, "counts": True}
DTYPES = ("fp32", "fp16", "bf16")
SCAN_VARIANTS = [
    f"{target}-{dtype}-{reset}-{output}-aligned"
    for target in TARGETS
    for dtype in DTYPES
    for reset in RESETS
    for output in OUTPUTS
]
# What Triton's specialisation makes of other sizes: odd ones, a single neuron (an argument of 1
# becomes a constant), and more neurons than a 32-bit integer can count.
SCAN_VARIANTS += [f"{target}-fp32-hard-words-{sizes}" for target in TARGETS for sizes in ("odd", "single", "huge")]


def compile_scan(variant: str) -> dict[str, int]:
    """Compile one variant of the scan kernel: its registers, and the bytes or registers spilled."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from proxykernels.kernels.if_scan import BLOCK, NUM_WARPS, _if_scan_kernel
    from proxykernels.kernels.neurons import if_step

    target, dtype, reset, output, sizes = variant.split("-")
    integer = "i64" if sizes == "huge" else "i32"
    signature = {
        "current_pointer": f"*{dtype}",
        "v_pointer": "*fp32",
        "theta_pointer": "*fp32",
        "spikes_pointer": "*i32",
        "v_last_pointer": "*fp32",
        "T": "i32",
        "neurons": integer,
        "channels": "i32",
        "current_stride": integer,
        "v_reset": "fp32",
    }
    constants = {
        "STEP": if_step,
        "SOFT_RESET": RESETS[reset],
        "COUNTS_ONLY": OUTPUTS[output],
        "BLOCK": BLOCK,
    }
    if sizes == "single":
        constants |= {"neurons": 1, "channels": 1, "current_stride": 1}
    signature |= dict.fromkeys(constants, "constexpr")
    signature = {name: signature[name] for name in _if_scan_kernel.arg_names}
    multiples_of_16 = {name for name in signature if name.endswith("_pointer")}
    if sizes in ("aligned", "huge"):
        multiples_of_16 |= {"neurons", "channels", "current_stride"}
    attributes = {
        (index,): [["tt.divisibility", 16]] for index, name in enumerate(signature) if name in multiples_of_16
    }
    source = ASTSource(_if_scan_kernel, signature, constants, attributes)
    options = {"num_warps": NUM_WARPS, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=GPUTarget(*TARGETS[target]), options=options)

    if target == "gfx942":
        usage = dict(re.findall(r"\.(\w+_count):\s+(\d+)", compiled.asm["amdgcn"]))
        spilled = int(usage["vgpr_spill_count"]) + int(usage["sgpr_spill_count"])
        return {"registers": int(usage["vgpr_count"]), "spilled": spilled}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", cubin.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", report))
    return {"registers": int(usage["REG"]), "spilled": int(usage["STACK"]) + int(usage["LOCAL"])}


def compile_all() -> None:
    """The child process: compile everything and print one JSON object."""
    from proxykernels.kernels.if_scan import _if_scan_kernel

    not_specialized = [p.name for p in _if_scan_kernel.params if p.do_not_specialize]
    found = {"not_specialized": not_specialized}
    for variant in SCAN_VARIANTS:
        found[variant] = compile_scan(variant)
    print(json.dumps(found))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What the child process found, from an empty cache."""
    pytest.importorskip("triton", reason="compiling the Triton kernels needs: pip install triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton_cache"))
    child = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1])


@pytest.mark.triton
@pytest.mark.parametrize("variant", SCAN_VARIANTS)
def test_scan_compiles_without_spills(compiled, variant):
    found = compiled[variant]
    assert found["registers"] > 0
    assert found["spilled"] == 0


@pytest.mark.triton
def test_scan_is_not_compiled_anew_for_another_number_of_steps(compiled):
    assert compiled["not_specialized"] == ["T"]


if __name__ == "__main__":
    compile_all()
