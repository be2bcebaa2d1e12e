"""The Triton kernels compile for GPUs that this machine need not have, use tensor cores and keep to their registers.

The list of variants, how they are compiled and what is a fault are in benchmarks/compile_variants.py.
"""

import os
import subprocess
import sys

import pytest
from gpu.compile_variants import CHECKOUT, QUICK, VARIANTS, compile_in_child, faults

# All variants of three targets and a few of most others; the rest is left to benchmarks/compile_report.py.
WHOLE = ("/sm_80/", "/sm_90/", "/gfx942/")
SOME = ("/gfx90a/", "/gfx1100/", "/gfx1201/")
TESTED = [variant for variant in VARIANTS if any(target in variant for target in WHOLE)]
TESTED += [variant for variant in QUICK if any(target in variant for target in SOME)]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The record of each variant, compiled from an empty cache."""
    pytest.importorskip("triton", reason="compiling the Triton kernels needs: pip install triton")
    records = compile_in_child(TESTED, tmp_path_factory.mktemp("triton_cache"))
    return {record["variant"]: record for record in records}


@pytest.mark.triton
@pytest.mark.parametrize("variant", TESTED)
def test_variant_compiles_without_faults(compiled, variant):
    assert not faults(compiled[variant])
    assert compiled[variant]["registers"] > 0


@pytest.mark.triton
@pytest.mark.parametrize(
    ("kernel", "names"),
    [("if_scan", ["T"]), ("if_scan_backward", ["T"]), ("if_conv2d", ["T", "N", "H", "W", "H_out", "W_out"])],
)
def test_not_compiled_anew_for_another_number_of_steps_or_images(compiled, kernel, names):
    assert all(
        record.get("not_specialized") == names
        for variant, record in compiled.items()
        if variant.startswith(f"{kernel}/")
    )


@pytest.mark.triton
@pytest.mark.parametrize("target", ["gfx90a", "gfx942", "gfx1100", "gfx1201"])
def test_three_stages_on_amd_would_be_noticed(target):
    """Triton 3.9.0 miscompiles them; where this fails, a newer one may be right, and AMD could take three stages."""
    triton = pytest.importorskip("triton")
    if triton.__version__ != "3.9.0":
        pytest.skip("the defect is Triton 3.9.0's")
    three_stages = (
        "from gpu import compile_variants as c; from proxykernels.kernels.gpu import block_sizes as b;"
        "b.TABLES = {'': {n: blocks._replace(NUM_STAGES=3) for n, blocks in b.DEFAULT.items()}};"
        f"print(c.faults(c.compile_variant('if_conv2d/{target}/paper/two-products/hard/words')))"
    )
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run(
        [sys.executable, "-c", three_stages], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True
    )
    assert "2 stores of the main loop always go to the same slot: miscompiled" in child.stdout
