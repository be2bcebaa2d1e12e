"""gpu_speed.py compile: what kernels take when they are compiled, with no GPU."""

import ast
from dataclasses import asdict
from pathlib import Path

import gpu_speed
import pytest
from common.tables import read_csv
from gpu.compiled import compile_report, compile_variants, variants
from gpu.compiled.kernel_resources import one_slot_stores
from gpu.compiled.main_loop import MainLoop, fused_or_flushed, loop_spills, loop_types, main_loop, programs

CHECKOUT = Path(__file__).parents[2]
NEW = ("sm_100", "sm_103")  # which the ptxas of an older Triton need not know

SOUND = {
    "variant": "if_conv2d/sm_90/paper/two-products/hard/words",
    "triton": "3.9.0",
    "registers": 168,
    "spilled": 0,
    "loop_spills": 0,
    "shared": 65536,
    "tensor_core": 8,
    "layout_conversions": 3,
    "one_slot_stores": 0,
    "lost": 0,
    "mixed_steps": 0,
    "programs": 2,
    "stages": 3,
    "fused_or_flushed": 0,
    "loop_conversions": 0,
    "loop": asdict(MainLoop(207, 8, 3, 3, 0, 0, 122, 4736)),
}


def test_every_kernel_is_in_the_list():
    """A kernel is a jitted function that is launched, ``launch(name, ...)``; the others are inlined into kernels."""
    nodes = [
        node for path in (CHECKOUT / "kernels" / "gpu").glob("*.py") for node in ast.walk(ast.parse(path.read_text()))
    ]
    launched = {
        node.args[0].id
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "launch"
    }
    jitted = {
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(one) for one in node.decorator_list)
    }
    assert jitted & launched == {f"_{name}_kernel" for name in variants.KERNELS}
    for kernel in variants.KERNELS:
        for target in variants.TARGETS:
            start = f"{kernel}/{target}/"
            assert any(variant.startswith(start) for variant in variants.QUICK), start
    assert len(set(variants.VARIANTS)) == len(variants.VARIANTS)
    assert set(variants.QUICK) < set(variants.VARIANTS)


@pytest.mark.slow
@pytest.mark.triton
def test_quick_report_has_a_row_a_variant(tmp_path, capsys):
    pytest.importorskip("triton")
    out = tmp_path / "folder" / "compile_report.csv"
    gpu_speed.main(["compile", "--out", str(out.parent)])
    rows = read_csv(out)
    assert [f"{row['kernel']}/{row['target']}/{row['variant']}" for row in rows] == variants.QUICK
    assert list(rows[0]) == compile_report.COLUMNS
    compiled = [row for row in rows if "multiplies" not in row["note"]]  # what its target has
    assert {"sm_80", "sm_90"} <= {row["target"] for row in compiled}
    assert all(row["note"] == "" and int(row["registers"]) > 0 for row in compiled if row["target"] not in NEW)
    assert all(int(row["tensor_core"] or 1) > 0 for row in rows if row["kernel"] == "if_conv2d")
    assert list(out.parent.iterdir()) == [out]  # nothing half written
    shown = " ".join(capsys.readouterr().out.split())  # lines are as wide as the terminal
    assert "no spills in a main loop, and tensor cores in every product" in shown and "gfx942" in shown


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"spilled": 16, "loop_spills": 2}, "2 spills in the main loop"),
        ({"spilled": 256}, "spills 256"),
        ({"spilled": 12, "loop_spills": None}, "spills 12"),
        ({"tensor_core": 0}, "no tensor-core instruction"),
        ({"one_slot_stores": 2}, "2 stores of the main loop always go to the same slot"),
        ({"lost": 2}, "2 numbers that loops hand on are lost"),
        ({"mixed_steps": 2}, "2 instructions mix the steps of spikes"),
        ({"fused_or_flushed": 3}, "3 float instructions fused"),
        ({"loop_conversions": 9}, "9 layout conversions in the main loop"),
        ({"loop": SOUND["loop"] | {"async_copies": 0}}, "no asynchronous copies in the main loop"),
        ({"programs": 1}, "one program a multiprocessor"),
        ({"loop": SOUND["loop"] | {"barriers": 9}}, "9 barriers in the main loop, more than 4"),
        ({"shared": 300_000}, "300000 bytes of shared memory"),
        ({"error": "CompilationError: at 3:4"}, "CompilationError: at 3:4"),
    ],
)
def test_faulty_variant_is_named_and_ends_with_status_1(tmp_path, monkeypatch, change, fault):
    pytest.importorskip("triton")
    faulty = SOUND | change | {"variant": "if_conv2d/sm_80/odd/one-product/hard/words"}
    monkeypatch.setattr(compile_report, "compile_in_child", lambda variants: iter([SOUND, faulty]))
    with pytest.raises(SystemExit) as ending:
        gpu_speed.main(["compile", "--out", str(tmp_path)])
    message = str(ending.value)  # a text makes Python end with status 1 and print it
    assert "1 of 2 variants at fault" in message and f"sm_80/odd/one-product/hard/words: {fault}" in message
    assert [bool(row["note"]) for row in read_csv(tmp_path / "compile_report.csv")] == [False, True]


TWO_LOOPS = """
        /*0000*/                   FADD R1, R2, R3 ;
        /*0010*/                   FFMA R1, R2, R3, R4 ;
        /*0020*/                   F2I.FTZ.U32.TRUNC.NTZ R1, R2 ;
        /*0030*/                   LDGSTS.E.BYPASS.128 [R8], [R2.64] ;
        /*0040*/                   STS.U16 [R8], R9 ;
        /*0048*/             @!PT  LDS RZ, [RZ] ;
        /*0050*/                   LDSM.16.M88.4 R4, [R8] ;
        /*0060*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0070*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0080*/              @P1  IADD3 R1, R1, 0x1, RZ ;
        /*0090*/                   FMUL.FTZ R1, R2, R3 ;
        /*00a0*/              @P0  BRA 0x30 ;
        /*00b0*/                   BRA 0x0 ;
"""


def test_main_loop():
    """Of two loops the inner one: 9 instructions; 512 bytes of an asynchronous copy, 64 of a store, 512 of matrices; a
    load that never happens moves none. Around it are four, and one before."""
    before = "        /*fff0*/                   NOP ;\n"
    loop = main_loop(before + TWO_LOOPS, r"\bHMMA")
    assert loop == MainLoop(9, 1, 1, 1, 1, 0, 2, 512 + 64 + 512, per_word=4, once=1)
    assert main_loop(TWO_LOOPS, r"\bHGMMA") is None and not loop_types(TWO_LOOPS, r"\bHGMMA")
    types = {"products": 1, "copies": 1, "shared memory": 3, "addresses": 1, "others": 3}
    assert loop_types(TWO_LOOPS, r"\bHMMA") == types and sum(types.values()) == loop.instructions
    assert fused_or_flushed(TWO_LOOPS, "", 128) == 2
    asked = "%3 = math.fma %0, %1, %2 : tensor<4x32xf32, #blocked> loc(#loc1)"
    assert fused_or_flushed(TWO_LOOPS, asked, 128) == 1  # one a thread
    assert fused_or_flushed(TWO_LOOPS, "%4 = tt.precise_divf %3, %2", 128) == 0  # it divides
    cycles = loop.cycles(num_warps=8, tensor=4, operand_bytes=1280)
    assert cycles == {"issue": 18, "integer": 8, "shared": 78, "tensor": 4}


def test_programs_of_a_multiprocessor():
    assert programs("sm_90", 159, 69632, 8) == 1  # 160 registers x 256 threads
    assert programs("sm_90", 128, 69632, 8) == 2
    assert programs("sm_90", 128, 120_000, 8) == 1  # shared memory
    assert programs("sm_80", 32, 0, 4) == 16  # threads


TTGIR = """
  scf.for %first = %c0_i32 to %T step %c16_i32 {
    %high_1 = ttg.local_alloc : () -> !ttg.memdesc<SLOTSx64x64xf16, #shared, #smem, mutable>
    %slot_2 = ttg.memdesc_index %high_1[%c0_i32] : !ttg.memdesc<SLOTSx64x64xf16> -> !ttg.memdesc<64x64xf16>
    ttg.local_store %ahead, %slot_2 : tensor<64x64xf16, #blocked> -> !ttg.memdesc<64x64xf16>
    scf.for %k = %c0_i32 to %K step %c64_i32 iter_args(%slot_3 = %slot_2) {
      %5 = tt.dot %spike, %slot_3, %sum : tensor<128x64xf16> * tensor<64x64xf16> -> tensor<128x64xf32>
      %slot_4 = ttg.memdesc_index %high_1[INDEX] : !ttg.memdesc<SLOTSx64x64xf16> -> !ttg.memdesc<64x64xf16>
      ttg.local_store %next, %slot_4 : tensor<64x64xf16, #blocked> -> !ttg.memdesc<64x64xf16>
    }
  }
"""


@pytest.mark.parametrize(
    ("slots", "index", "stores"),
    [
        pytest.param("2", "%c0_i32", 1, id="always-the-first"),
        pytest.param("2", "%turn", 0, id="by-turns"),
        pytest.param("1", "%c0_i32", 0, id="one-slot"),
    ],
)
def test_stores_to_one_slot_of_several_are_counted(slots, index, stores):
    """Those of the main loop; what lies before it fills the slots, each by its number."""
    assert one_slot_stores(TTGIR.replace("SLOTS", slots).replace("INDEX", index)) == stores


@pytest.mark.parametrize("target", ["sm_90", "gfx942", "gfx1100"])
def test_pointers_are_specialised_as_a_launch_on_the_target_does(target):
    """AMD's compiler takes other instructions for tensors that it knows to be of at most 2 GiB."""
    pytest.importorskip("triton")

    def known(source):
        """By the argument's name, of a tuple's part with its place behind it: ("neuron", 1) is its threshold."""
        names = source.fn.arg_names
        return {(names[at], *part) if part else names[at]: dict(pairs) for (at, *part), pairs in source.attrs.items()}

    short = {"tt.pointer_range": 32} if target.startswith("gfx") else {}
    arguments = known(compile_variants.convolution(target, "paper", "two-products", "hard", "words")[0])
    assert arguments["words_pointer"] == arguments["unit_pointer"] == {"tt.divisibility": 16} | short
    assert arguments["C_out"] == {"tt.divisibility": 16} and "KERNEL_W" not in arguments
    arguments = known(compile_variants._scan(target, "fp32", "hard", "huge")[0])
    assert arguments["current_pointer"] == {"tt.divisibility": 16}
    assert arguments["neuron", 1] == {"tt.divisibility": 16} | short


SASS = """
        /*0000*/                   STL [R1], R2 ;                      /* 0x0000000201007387 */
        /*0010*/              @!P0 HMMA.16816.F32 R4, R8, R2, R4 ;     /* 0x000000020804723c */
        /*0020*/                   {} ;                                /* 0x0000000001027983 */
        /*0030*/              @P0  BRA 0x10 ;                          /* 0xfffffff000007947 */
        /*0040*/                   LDL R2, [R1] ;                      /* 0x0000000001027983 */
        /*0050*/              @P1  BRA 0x0 ;                           /* 0xfffffff000007947 */
"""


@pytest.mark.parametrize(("instruction", "spills"), [("LDL R2, [R1]", 1), ("IADD3 R2, R2, 0x1, RZ", 0)])
def test_spills_are_counted_in_the_innermost_loop(instruction, spills):
    tensor_core = compile_variants.TARGETS["sm_80"].tensor_core
    assert loop_spills(SASS.replace("{}", instruction), tensor_core) == spills
    assert loop_spills(SASS.replace("{}", instruction), "HGMMA") is None


def test_scan_needs_no_tensor_cores_and_absent_targets_are_no_fault():
    scan = SOUND | {"variant": "if_scan/sm_90/fp32/hard/aligned", "tensor_core": 0}
    assert compile_variants.faults(scan) == []
    assert compile_variants.faults({"variant": "if_scan/sm_100/x", "triton": "3.6.0", "absent": "no such ptxas"}) == []


@pytest.mark.slow
def test_failing_child_process_is_reported():
    pytest.importorskip("triton")
    with pytest.raises(RuntimeError, match="(?s)compiling if_scan/nowhere/.* status 1.*KeyError: 'nowhere'"):
        list(compile_variants.compile_in_child(["if_scan/nowhere/fp32/hard/odd"]))
