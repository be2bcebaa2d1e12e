"""Compiled Triton kernels use tensor cores, keep to their registers, and have no hazards; planted ones are noticed."""

import ast
import re

import pytest
import torch
from check_tritons import read_in_child, variants
from gpu.compiled.compile_variants import CHECKOUT, compile_in_child, faults
from gpu.compiled.kernel_resources import TARGETS, lost_numbers, one_slot_stores
from gpu.compiled.variants import CONV_LAYERS, KERNELS, LAYERS, PRODUCTS
from tensor_core_hazards import hazards_of_ptx, hazards_of_sass

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

import triton
from cases import dyadic, spikes, thresholds, words_over_time
from equality import equal

from proxykernels.kernels import reference
from proxykernels.kernels.gpu import block_sizes, conv2d_launch
from proxykernels.kernels.gpu.block_sizes import is_of_one_step
from proxykernels.kernels.neuron_models import if_neuron

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
    "max_pool": ["H", "W", "H_out", "W_out", "kernel_h", "kernel_w", "stride_h", "stride_w", "top", "left"],
    "max_rate_pool": ["T", "N", "H", "W", "H_out", "W_out"],
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
    names += ["if_conv2d/sm_87/paper/three-digits/hard/words-4"]  # a Jetson, in few steps
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
  %2 = scf.for %3 = %c0_i32 to %K step %c64_i32 iter_args(%next = %c0_i32) -> (i32) : i32 {
    %view = ttg.memdesc_index %slots[SLOT] : !ttg.memdesc<2x64x64xf16> -> !ttg.memdesc<64x64xf16>
    ttg.local_store %block, %view : tensor<64x64xf16> -> !ttg.memdesc<64x64xf16>
    %5 = tt.dot %a, %b, %sum : tensor<256x64xf16> * tensor<64x64xf16> -> tensor<256x64xf32>
  }
"""


@pytest.mark.parametrize("slot, stores", [("%c0_i32", 1), ("%c1_i32_4", 1), ("%next", 0)])
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


VARIANTS = ["if_conv2d/paper/three-digits/hard/words", "if_conv2d/odd/one-product/hard/words"]
TRITON = pytest.importorskip("triton", reason="compiling the Triton kernels needs: pip install triton")


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """(PTX, SASS) of two convolutions by the Triton that is installed, by name."""
    found = read_in_child(VARIANTS, tmp_path_factory.mktemp("code"), tmp_path_factory.mktemp("cache"))
    return {name: (record["ptx"].read_text(), record["sass"].read_text()) for name, record in found}


@pytest.mark.slow
@pytest.mark.triton
def test_no_hazards(code):
    for ptx, sass in code.values():
        assert "wgmma.mma_async" in ptx and "GMMA" in sass
        assert not hazards_of_ptx(ptx) and not hazards_of_sass(sass)


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.parametrize("name", VARIANTS)
def test_a_planted_hazard_is_noticed(code, name):
    ptx, sass = code[name]
    product = re.search(r"wgmma\.mma_async\S* \{%r\d+[^}]*\}, \{(%r\d+)[^}]*\}[^;]*;", ptx)
    write = f"\nmov.b32 {product[1]}, 0;"
    assert any("spikes of a product" in found for found in hazards_of_ptx(after(ptx, product, write)))
    product = re.search(r"[IH]GMMA\S* (R\d+), (R\d+), gdesc[^;]*;", sass)
    for register, kind in ((product[2], "spikes"), (product[1], "sums")):
        write = f"\n        /*ffff0*/ MOV {register}, 0x1 ;"
        assert any(f"{kind} of a product" in found for found in hazards_of_sass(after(sass, product, write)))
    fenceless = re.sub(r"fence\.proxy\.async[^;]*;", "", ptx)
    assert any("no fence has passed" in found for found in hazards_of_ptx(fenceless))
    fenceless = "\n".join(line for line in sass.splitlines() if "FENCE.VIEW" not in line)
    assert any("no fence has passed" in found for found in hazards_of_sass(fenceless))


def after(text: str, place: re.Match, line: str) -> str:
    return text[: place.end()] + line + text[place.end() :]


TURN = """
.L_x_4:
 /*0010*/ DEPBAR.LE SB0, 0x4 ;
 /*0020*/ LDS.128 R8, [R2] ;
 /*0030*/ FENCE.VIEW.ASYNC.S ;
 /*0040*/ HGMMA.64x64x16.F32 R24, R4, gdesc[UR20], R24, gsb0 ;
 /*0050*/ HGMMA.64x64x16.F32 R24, R8, gdesc[UR16], R24, gsb0 ;
 /*0060*/ WARPGROUP.DEPBAR.LE gsb0, LEFT ;
 /*0070*/ @!P3 BRA `(.L_x_4) ;
"""


@pytest.mark.parametrize("left, found", [("0x0", 0), ("0x1", 1), ("0x2", 1)])
def test_the_next_turn_is_looked_at(left, found):
    """It loads R8 .. R11, which the second product of the iteration before may still read."""
    hazards = hazards_of_sass(TURN.replace("LEFT", left))
    assert len(hazards) == found and all(hazard.endswith("LDS.128 R8, [R2]") for hazard in hazards)


def test_blocks_without_a_loop_are_looked_at():
    straight = TURN.replace("`(.L_x_4)", "`(.L_x_9)").replace("FENCE.VIEW.ASYNC.S", "NOP").replace("LEFT", "0x0")
    assert len(hazards_of_sass(straight)) == 2 and "no fence has passed" in hazards_of_sass(straight)[0]


def test_every_kernel_is_among_those_that_are_compiled():
    names = variants()
    assert len(names) == len(set(names)) > 50 and set(VARIANTS) <= set(names)
    products = {name.split("/")[2] for name in names if name.startswith("if_conv2d/")}
    assert products == {"one-product", "one-digit", "two-digits", "three-digits"}
    assert {name.partition("/")[0] for name in names} == set(KERNELS)
    assert "if_conv2d/paper/three-digits/hard/words-4" in variants("sm_90", ["few-steps"])
    assert all(name.startswith("recurrent_") for name in variants("sm_100", ["recurrent"]))


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TARGET = block_sizes.architecture(DEVICE)


@pytest.mark.triton
@pytest.mark.usefixtures("kernels_can_run")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("T", [16, 33])
@pytest.mark.parametrize("one_step", [False, True])
def test_the_short_code_is_right_where_layouts_were_seen(generator, monkeypatch, one_step, T, dtype):
    """Of the fused kernel, on GPUs too that do not take it. Elsewhere it may give wrong spikes."""
    monkeypatch.setattr(
        conv2d_launch, "instructions", lambda target: block_sizes.instructions(target) | {"ONE_STEP": one_step}
    )
    x, weight = spikes(T, 1, 64, 2, 3, generator=generator), dyadic(17, 64, 3, 3, generator=generator)
    theta, v = thresholds(17, generator), torch.zeros(1, 6, 17)
    expected, _ = reference.if_conv2d(x, weight, v_threshold=theta, padding=1)
    assert 0 < expected.mean() < 1
    window = (1, 1), (1, 1), (1, 1), 1
    given = words_over_time(x.flatten(3)).to(DEVICE), T, (2, 3), weight.to(DEVICE, dtype), None, v.to(DEVICE)
    words, _ = conv2d_launch.if_conv2d(*given, if_neuron(theta.to(DEVICE), 0.0), *window)
    words, expected = words.cpu(), words_over_time(expected.flatten(3))
    if not one_step or not TARGET or is_of_one_step(TARGET, triton.__version__):
        assert equal(words, expected)
    elif TARGET == "sm_75":  # where all layouts are of single numbers; of those of Triton 3.8 some would do
        assert not equal(words, expected)


@pytest.mark.parametrize(
    "target, version",
    [("sm_75", "3.9.0"), ("sm_100", "3.9.0"), ("sm_90", "3.8.0"), ("sm_90", "3.9.1"), ("sm_130", "3.9.0")]
    + [("gfx942", "3.9.0"), ("", "3.9.0"), ("sm_90", "4.0.0"), ("sm_90", "3.9.0+git")],
)
def test_what_nobody_has_seen_takes_the_code_for_any_layout(monkeypatch, target, version):
    monkeypatch.setattr(triton, "__version__", "3.9.0")
    assert block_sizes.instructions("sm_90")["ONE_STEP"]
    monkeypatch.setattr(triton, "__version__", version)
    assert not block_sizes.instructions(target)["ONE_STEP"]
    assert target != "sm_90" or block_sizes.instructions(target)["FENCED"] == (version == "3.8.0")
