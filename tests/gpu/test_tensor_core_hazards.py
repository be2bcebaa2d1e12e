"""Compiled convolutions have no hazards of sm_90's tensor cores; and one that is planted is noticed."""

import re

import pytest
from check_tritons import read_in_child, variants
from gpu.variants import KERNELS
from tensor_core_hazards import hazards_of_ptx, hazards_of_sass

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


LOOP = """
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
    """It loads R8 .. R11, which the second product of the turn before may still read."""
    hazards = hazards_of_sass(LOOP.replace("LEFT", left))
    assert len(hazards) == found and all(hazard.endswith("LDS.128 R8, [R2]") for hazard in hazards)


def test_blocks_without_a_loop_are_looked_at():
    straight = LOOP.replace("`(.L_x_4)", "`(.L_x_9)").replace("FENCE.VIEW.ASYNC.S", "NOP").replace("LEFT", "0x0")
    assert len(hazards_of_sass(straight)) == 2 and "no fence has passed" in hazards_of_sass(straight)[0]


def test_every_kernel_is_among_those_that_are_compiled():
    names = variants()
    assert len(names) == len(set(names)) > 50 and set(VARIANTS) <= set(names)
    products = {name.split("/")[2] for name in names if name.startswith("if_conv2d/")}
    assert products == {"one-product", "one-digit", "two-digits", "three-digits"}
    assert {name.partition("/")[0] for name in names} == set(KERNELS)
    assert "if_conv2d/paper/three-digits/hard/words-4" in variants("sm_90", ["few-steps"])
    assert all(name.startswith("recurrent_") for name in variants("sm_100", ["recurrent"]))
