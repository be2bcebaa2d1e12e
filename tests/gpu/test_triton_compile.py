"""The Triton kernels compile for GPUs that this machine need not have, use tensor cores and keep to their registers.

The list of variants, how they are compiled and what is a fault are in benchmarks/compile_variants.py.
"""

import pytest
from gpu.compile_variants import VARIANTS, compile_in_child, faults

# Half a minute less: sm_100 is left to benchmarks/compile_report.py.
TESTED = [variant for variant in VARIANTS if "/sm_100/" not in variant]


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
