"""The Triton kernels compile for GPUs that this machine need not have, use tensor cores and keep to their registers.

The variants are listed in benchmarks/gpu/variants.py; how they are compiled, and what is a fault, is in
compile_variants.py. By default each is compiled for one of the targets; the most important ones for all of them in
tests/benchmarks/test_gpu_compile.py.
"""

import ast

import pytest
from gpu.compile_variants import CHECKOUT, compile_in_child, faults
from gpu.kernel_resources import TARGETS, lost_numbers, one_slot_stores
from gpu.variants import CONV_LAYERS, KERNELS, LAYERS, PRODUCTS

# Each once; of layers and products below, each of either.
RESTS = [(kernel, rest) for kernel, rests in KERNELS.items() for rest in rests if rest not in LAYERS.values()]
# What another number of steps or images must not compile anew.
NOT_SPECIALIZED = {
    "if_scan": ["T"],
    "scan_backward": ["T"],
    "recurrent_scan": ["T"],
    "recurrent_backward": ["T"],
    "if_conv2d": ["T", "N", "H", "W", "H_out", "W_out"],
    "counters": ["images"],
    "count": ["words_of_neuron", "last_bits"],
    "float16_parts": ["C", "taps", "K"],
    "int8_digits": ["C", "taps", "K"],
    "pack": ["one", "largest", "unsigned", "T", "N"],
    "unpack": ["one", "T", "N"],
    "sigma_delta": ["T", "T_in", "T_added", "exponents"],
    "values": ["rows", "steps"],
    "running_sums": ["T", "T_in"],
}


@pytest.fixture(scope="module")
def compiled(request, tmp_path_factory):
    """Gives the record of a chosen variant. It and the next ones are compiled together, from an empty cache."""
    pytest.importorskip("triton", reason="compiling the Triton kernels needs: pip install triton")
    users = [item for item in request.session.items if item.path == request.path and "compiled" in item.fixturenames]
    variants = [variant(**item.callspec.params) for item in users]
    cache, records = tmp_path_factory.mktemp("triton_cache"), {}

    def record(**case: str) -> dict:
        wanted = variant(**case)
        if wanted not in records:  # not all at once: another process of pytest-xdist may have the rest
            first = variants.index(wanted)
            records.update((record["variant"], record) for record in compile_in_child(variants[first:][:12], cache))
        return records[wanted]

    return record


def variant(kernel: str = "if_conv2d", *, target: str, rest: str = "", layer: str = "", products: str = "") -> str:
    return f"{kernel}/{target}/{rest or LAYERS[layer, products]}"


@pytest.mark.slow
@pytest.mark.triton
def test_the_convolution_compiles_for_a_card_of_nvidia_and_of_amd(tmp_path):
    """One of each in every run of the tests; all others are slow."""
    names = ["if_conv2d/sm_90/paper/three-digits/hard/words", "if_conv2d/gfx942/one-neuron/two-products/hard/words"]
    for record in compile_in_child(names, tmp_path):
        check(record, NOT_SPECIALIZED["if_conv2d"])


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.costly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("kernel", "rest"), RESTS)
def test_variant_compiles_without_faults(compiled, kernel, target, rest):
    check(compiled(kernel=kernel, target=target, rest=rest), NOT_SPECIALIZED[kernel])


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.costly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("layer", CONV_LAYERS)
def test_layer_compiles_without_faults(compiled, layer, products, target):
    check(compiled(target=target, layer=layer, products=products), NOT_SPECIALIZED["if_conv2d"])


def check(record: dict, not_specialized: list[str]) -> None:
    if "absent" in record:
        pytest.skip(record["absent"])
    assert not faults(record)
    assert record["registers"] > 0
    assert record["not_specialized"] == not_specialized


def test_what_neurons_load_is_blocks_alone():
    """Triton 3.6 makes tensors of all that a function returns, which of a soft reset's None it cannot."""
    tree = ast.parse((CHECKOUT / "kernels/gpu/neuron_steps.py").read_text())
    loads = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("load_")]
    assert loads
    for load in loads:
        (returned,) = (node.value for node in ast.walk(load) if isinstance(node, ast.Return))
        assert isinstance(returned, ast.Tuple) and returned.elts
        assert all(ast.unparse(value).startswith("_load_row(") for value in returned.elts)


LOOP = """
  %slots = ttg.local_alloc : () -> !ttg.memdesc<2x64x64xf16, #shared, #smem, mutable>
  %2 = scf.for %3 = %c0_i32 to %K step %c64_i32 iter_args(%turn = %c0_i32) -> (i32) : i32 {
    %view = ttg.memdesc_index %slots[SLOT] : !ttg.memdesc<2x64x64xf16> -> !ttg.memdesc<64x64xf16>
    ttg.local_store %block, %view : tensor<64x64xf16> -> !ttg.memdesc<64x64xf16>
    %5 = tt.dot %a, %b, %sum : tensor<256x64xf16> * tensor<64x64xf16> -> tensor<256x64xf32>
  }
"""


@pytest.mark.parametrize("slot, stores", [("%c0_i32", 1), ("%c1_i32_4", 1), ("%turn", 0)])
def test_stores_that_go_to_one_slot_are_noticed(slot, stores):
    """As Triton 3.9.0 made them of three stages on AMD, of a kernel before."""
    assert one_slot_stores(LOOP.replace("SLOT", slot)) == stores


LOOPS = """
  %1:4 = scf.for %t = %c0 to %T step %c1 iter_args(%v = %2, %count = %3, %row = %4) -> (TYPES) : i32 {
    %5 = scf.for %k = %c0 to %count step %c1 iter_args(%sum = %6) -> (tensor<64xf32, #blocked>) : i32 {
    scf.for %k = %c0 to %count step %c1 : i32 {
"""


@pytest.mark.parametrize(
    "types, lost",
    [
        pytest.param("tensor<64x!tt.ptr<f32>, #blocked>, i32, i32, !tt.ptr<f32>", 0, id="none"),
        pytest.param("tensor<64x!tt.ptr<f32>, #blocked>, i32, !tt.ptr<f32>", 1, id="a-count"),
        pytest.param("i32, i32, !tt.ptr<f32>, i32", 0, id="a-tensor"),
        pytest.param("tensor<64x!tt.ptr<f32>, #blocked>", 3, id="all"),
    ],
)
def test_numbers_that_loops_lose_are_noticed(types, lost):
    """As Triton 3.6.0 and 3.7.1 lost the number of neurons that fired, of recurrent neurons before."""
    before = LOOPS.replace("TYPES", "tensor<64x!tt.ptr<f32>>, i32, i32, !tt.ptr<f32>")
    after = LOOPS.replace("TYPES", types)
    assert lost_numbers(before, after) == lost_numbers(before, after + "scf.for : i32 {") == lost
