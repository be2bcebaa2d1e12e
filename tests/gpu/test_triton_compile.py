"""The Triton kernels compile for GPUs that this machine need not have, use tensor cores and keep to their registers.

The list of variants, how they are compiled and what is a fault are in benchmarks/gpu/compile_variants.py. By default
each is compiled for one of the targets; the most important ones for all of them in tests/benchmarks/test_reports.py.
"""

import ast
import os
import subprocess
import sys

import pytest
from gpu.compile_variants import CHECKOUT, KERNELS, compile_in_child, faults
from gpu.kernel_resources import TARGETS

# What another number of steps or images must not compile anew.
NOT_SPECIALIZED = {
    "if_scan": ["T"],
    "scan_backward": ["T"],
    "if_conv2d": ["T", "N", "H", "W", "H_out", "W_out"],
    "counters": [],
    "count": ["words_of_neuron", "last_bits"],
    "float16_parts": ["C", "taps", "K"],
    "pack": ["T", "N"],
}


@pytest.fixture(scope="module")
def compiled(request, tmp_path_factory):
    """Gives the record of a chosen variant. It and the next ones are compiled together, from an empty cache."""
    pytest.importorskip("triton", reason="compiling the Triton kernels needs: pip install triton")
    chosen = [item.callspec.params for item in request.session.items if "compiled" in getattr(item, "fixturenames", ())]
    variants = [f"{case['kernel']}/{case['target']}/{case['rest']}" for case in chosen]
    cache, records = tmp_path_factory.mktemp("triton_cache"), {}

    def record(variant: str) -> dict:
        if variant not in records:  # not all at once: another process of pytest-xdist may have the rest
            first = variants.index(variant)
            records.update((record["variant"], record) for record in compile_in_child(variants[first:][:12], cache))
        return records[variant]

    return record


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.costly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("kernel", "rest"), [(kernel, rest) for kernel, rests in KERNELS.items() for rest in rests])
def test_variant_compiles_without_faults(compiled, kernel, target, rest):
    record = compiled(f"{kernel}/{target}/{rest}")
    if "absent" in record:
        pytest.skip(record["absent"])
    assert not faults(record)
    assert record["registers"] > 0
    assert record["not_specialized"] == NOT_SPECIALIZED[kernel]


def test_what_neurons_load_is_blocks_alone():
    """Triton 3.6 makes tensors of all that a function returns, which of a soft reset's None it cannot."""
    tree = ast.parse((CHECKOUT / "kernels/gpu/neurons.py").read_text())
    loads = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("load_")]
    assert loads
    for load in loads:
        (returned,) = (node.value for node in ast.walk(load) if isinstance(node, ast.Return))
        assert isinstance(returned, ast.Tuple) and returned.elts
        assert all(ast.unparse(value).startswith("_load_row(") for value in returned.elts)


@pytest.mark.slow
@pytest.mark.triton
def test_three_stages_on_amd_would_be_noticed():
    """Triton 3.9.0 miscompiles them; where this fails, a newer one may be right, and AMD could take three stages."""
    triton = pytest.importorskip("triton")
    if triton.__version__ != "3.9.0":
        pytest.skip("the defect is Triton 3.9.0's")
    three_stages = (
        "from gpu import compile_variants as c; from proxykernels.kernels.gpu import block_sizes as b;"
        "b.AMD.update({n: blocks._replace(NUM_STAGES=3) for n, blocks in b.AMD.items()});"
        "b.HALF_K.update({n: blocks._replace(NUM_STAGES=3) for n, blocks in b.HALF_K.items()});"
        "variants = [v for v in c.VARIANTS if '/gfx' in v and v.endswith('paper/two-products/hard/words')];"
        "print(*(c.faults(c.compile_variant(variant)) for variant in variants), sep='\\n')"
    )
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run(
        [sys.executable, "-c", three_stages], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True
    )
    shown = child.stdout.splitlines()
    assert len(shown) == 5
    assert all("2 stores of the main loop always go to the same slot: miscompiled" in line for line in shown)
