"""Every Triton kernel in every variant that layers use, compiled ahead of time for GPUs that need not be here.

compile_report.py prints what comes of the variants (variants.py), tests/gpu/test_triton_compile.py checks it. Triton's
interpreter replaces ``triton.jit`` for a whole process, so a child process without it compiles:

    python -m gpu.compiled.compile_variants VARIANT ...        in benchmarks/; one JSON object a variant and line
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gpu.compiled.kernel_resources import TARGETS, resources
from gpu.compiled.variants import NEURONS, PRODUCTS, SMALL, SMALL_WARPS, conv_layer, is_launched, output_and_steps

CHECKOUT = Path(__file__).resolve().parents[3]
# Whose floats are the neurons' alone: each operation rounded by itself.
STEPS_OF_IEEE = ("if_conv2d", "if_scan", "recurrent_scan", "sigma_delta", "running_sums")
# Of a warp in a pass, of the targets of main_loop.py, which says what is bound by them: some more than there are today.
MOST_IN_LOOP = {"instructions": 260, "barriers": 4, "short_stores": 0, "conversions": 0}
MOST_CONVERSIONS_IN_LOOP = 6  # of layouts, in Triton's GPU IR
# Bytes of a thread that may be spilled outside the main loop: with tight registers the assembler keeps a few numbers on
# the stack that are needed once in 32 steps.
SPILLS_OUTSIDE_LOOP = 192
# The same of few steps, of which a program has more pixels, and so more states.
SPILLS_OF_FEW_STEPS = 256
# And of a kernel without a main loop, which memory bounds: for sm_120 the assembler stops at 64 registers, so that more
# programs run, and keeps two numbers of a refractory neuron's gradient on the stack.
SPILLS_WITHOUT_LOOP = 8


def compile_in_child(variants: Iterable[str], cache: Path | None = None) -> Iterator[dict]:
    """Compile variants in a child process without Triton's interpreter, and give each record as soon as it is there.

    A record holds ``variant``, ``triton`` (its version), and ``absent`` (why this toolchain cannot compile for the
    target, or the kernel does not run so), ``error`` (why the compilation failed), or what :func:`resources` reads.

    Args:
        cache: Triton's cache folder (default: the user's).

    Raises:
        RuntimeError: the child process died; the message names the variant, and holds what the process wrote last.
    """
    variants, done = list(variants), 0
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    paths = [str(CHECKOUT), str(CHECKOUT / "benchmarks"), environment.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    if cache is not None:
        environment["TRITON_CACHE_DIR"] = str(cache)
    command = [sys.executable, "-m", "gpu.compiled.compile_variants", *variants]
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as child:
            try:
                for line in child.stdout:
                    yield json.loads(line)
                    done += 1
            except BaseException:  # whoever reads the records stopped early
                child.kill()
                raise
        if child.returncode:
            errors.seek(0)
            variant = variants[min(done, len(variants) - 1)]
            raise RuntimeError(f"compiling {variant} ended with status {child.returncode}:\n{errors.read()[-4000:]}")


def faults(record: dict) -> list[str]:
    """What is wrong with a compiled variant, in words; nothing if it is fine or its target is absent."""
    if "absent" in record:
        return []
    if "error" in record:
        return [record["error"]]
    kernel, target, *_, output = record["variant"].split("/")
    found = []
    if record["loop_spills"]:
        found.append(f"{record['loop_spills']} spills in the main loop")
    outside = SPILLS_OF_FEW_STEPS if kernel == "if_conv2d" and output_and_steps(output)[1] < 32 else SPILLS_OUTSIDE_LOOP
    if record["spilled"] > (SPILLS_WITHOUT_LOOP if record["loop_spills"] is None else outside):
        found.append(f"spills {record['spilled']}")
    if record["one_slot_stores"]:
        found.append(f"{record['one_slot_stores']} stores of the main loop always go to the same slot: miscompiled")
    if record["lost"]:
        found.append(f"{record['lost']} numbers that loops hand on are lost: miscompiled")
    if record["mixed_steps"]:
        found.append(f"{record['mixed_steps']} instructions mix the steps of spikes, which are then wrong")
    if kernel in STEPS_OF_IEEE and record.get("fused_or_flushed"):
        found.append(f"{record['fused_or_flushed']} float instructions fused, or flushing small numbers to 0")
    if record.get("loop"):
        counts = [(record["loop"][name], name, most) for name, most in MOST_IN_LOOP.items()]
        found += [f"{count} {name} in the main loop, more than {most}" for count, name, most in counts if count > most]
        if not record["loop"]["async_copies"] and record["stages"] > 1:
            found.append("no asynchronous copies in the main loop")
        if record["loop_conversions"] > MOST_CONVERSIONS_IN_LOOP:
            found.append(f"{record['loop_conversions']} layout conversions in the main loop")
    if kernel == "if_conv2d" and record.get("programs", 2) < 2:
        found.append("one program a multiprocessor: nothing multiplies while it expands bits")
    if kernel == "if_conv2d" and not record["tensor_core"]:
        found.append("no tensor-core instruction")
    if record["shared"] > TARGETS[target].shared_limit:
        found.append(f"{record['shared']} bytes of shared memory, the target has {TARGETS[target].shared_limit}")
    return found


def compile_variant(variant: str) -> dict:
    """Compile one variant, in this process; the record of :func:`compile_in_child`."""
    import triton
    from triton.backends.compiler import GPUTarget

    from proxykernels.kernels.gpu.backend import has_tensor_cores
    from proxykernels.kernels.gpu.block_sizes import takes_digits

    kernel, target, *rest = variant.split("/")
    record = {"variant": variant, "triton": triton.__version__}
    if not _toolchain_has(target):
        return record | {"absent": f"this Triton's ptxas or cuobjdump does not know {target}"}
    if kernel == "if_conv2d" and not has_tensor_cores(target):
        return record | {"absent": f"torch multiplies on {target}: Triton uses no tensor cores there"}
    if kernel == "if_conv2d" and not is_launched(target, rest[1]):
        return record | {"absent": f"{target} multiplies {'int8 digits' if takes_digits(target) else 'float16 parts'}"}
    if kernel == "if_conv2d" and not is_launched(target, rest[1], steps := output_and_steps(rest[3])[1]):
        return record | {"absent": f"{target} takes more than {steps} steps at a time"}
    try:
        makers = {"if_scan": _scan, "scan_backward": _scan_backward, "if_conv2d": convolution}
        makers |= {"recurrent_scan": _recurrent_scan, "recurrent_backward": _recurrent_backward}
        make = makers.get(kernel) or partial(_small, kernel)
        source, options = make(target, *rest)
        compiled = triton.compile(source, target=GPUTarget(*TARGETS[target].gpu), options=options)
    except Exception as error:  # of the compiler, in many types: a row of the report, and the next variant
        return record | {"error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
    not_specialized = [p.name for p in source.fn.params if p.do_not_specialize or p.do_not_specialize_on_alignment]
    stages = source.constants.get((source.fn.arg_names.index("NUM_STAGES"),), 1) if kernel == "if_conv2d" else 1
    found = {"not_specialized": not_specialized, "stages": stages}
    return record | resources(compiled, TARGETS[target]) | found


def gpu_ir(target: str, source, options: dict) -> str:
    """Triton's GPU IR, where layouts are chosen, which needs no assembler that knows the target."""
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend

    gpu, context, stages = GPUTarget(*gpu_of(target)), ir.context(), {}
    backend = make_backend(gpu)
    parsed = backend.parse_options(dict(options))
    ir.load_dialects(context)
    backend.load_dialects(context)
    backend.add_stages(stages, parsed, source.language)
    implementation, modules = backend.get_codegen_implementation(parsed), backend.get_module_map()
    module, metadata = source.make_ir(gpu, parsed, implementation, modules, context), {"target": gpu, **vars(parsed)}
    for stage in ("ttir", "ttgir"):
        module = stages[stage](module, metadata)
    return str(module)


def gpu_of(target: str) -> tuple:
    """The arguments of Triton's GPUTarget for a target of TARGETS, or any other of NVIDIA's."""
    return TARGETS[target].gpu if target in TARGETS else ("cuda", int(target.removeprefix("sm_")), 32)


def _scan(target: str, dtype: str, neuron: str, sizes: str):
    from proxykernels.kernels.gpu.neuron_steps import potential_step
    from proxykernels.kernels.gpu.scans import BLOCK, NUM_WARPS, _if_scan_kernel
    from proxykernels.kernels.neuron_models import COUNTING_MODELS

    numbers = neuron == "readout" or NEURONS[neuron] in COUNTING_MODELS
    types = dict.fromkeys(("v_pointer", "v_last_pointer"), "fp32")
    types |= {"current_pointer": dtype, "spikes_pointer": "fp32" if numbers else "i32"}
    constants = {"NUMBERS": numbers, "BLOCK": BLOCK} | ({"STEP": potential_step} if neuron == "readout" else {})
    return _scan_source(target, _if_scan_kernel, types, constants, sizes, neuron), _options(NUM_WARPS)


def _back(kernel, neuron: str, surrogate: str, last: bool) -> tuple[dict, dict]:
    """Types and constants of the kernels that go back in time; ``last``: whether the last state has a gradient."""
    from proxykernels.kernels.gpu.neurons_backward import SHAPES, back_of
    from proxykernels.kernels.neuron_models import about

    pointers = [name for name in kernel.arg_names if name.endswith("_pointer")]
    constants = {
        "BACK": back_of(NEURONS[neuron]),
        "DERIVATIVE": {name.lower(): function for name, function in SHAPES.items()}[surrogate],
        "PARAMETERS": len(about(NEURONS[neuron]).channels),
    }
    constants |= {} if last else {"grad_v_pointer": None}
    return dict.fromkeys([*pointers, "first", "second", "passes"], "fp32"), constants


def _scan_backward(target: str, neuron: str, surrogate: str, given: str, sizes: str):
    from proxykernels.kernels.gpu.scans_backward import BLOCK, NUM_WARPS, _scan_backward_kernel

    types, constants = _back(_scan_backward_kernel, neuron, surrogate, given == "last")
    constants |= {"CONSTANT": given == "held", "BLOCK": BLOCK}
    return _scan_source(target, _scan_backward_kernel, types, constants, sizes, neuron), _options(NUM_WARPS)


def _recurrent_scan(target: str, neuron: str, recurrence: str, sizes: str):
    from proxykernels.kernels.gpu.scans import _recurrent_scan_kernel, warps_of

    block = 1024
    pointers = [name for name in _recurrent_scan_kernel.arg_names if name.endswith("_pointer")]
    types = dict.fromkeys(pointers, "fp32") | {"list_pointer": "i16", "spikes_pointer": "i32"}
    multiples_of_16 = ("C", "current_stride") if sizes == "aligned" else ()
    constants = {"FULL": recurrence == "full", "BLOCK": block}
    source = _source(target, _recurrent_scan_kernel, types, constants, multiples_of_16, neuron)
    return source, _options(warps_of(block))


def _recurrent_backward(target: str, neuron: str, surrogate: str, recurrence: str, sizes: str):
    """``sizes``: "aligned", also "last", where the last state has a gradient, or "largest", of 2,048 neurons; "odd"."""
    from proxykernels.kernels.gpu.scans import MOST_NEURONS
    from proxykernels.kernels.gpu.scans_backward import _recurrent_backward_kernel, warps_of

    block = MOST_NEURONS if sizes == "largest" else 1024
    types, constants = _back(_recurrent_backward_kernel, neuron, surrogate, sizes == "last")
    types["list_pointer"] = "i16"
    constants |= {"FULL": recurrence == "full", "BLOCK": block}
    multiples_of_16 = () if sizes == "odd" else ("C", "current_stride", "grad_stride")
    source = _source(target, _recurrent_backward_kernel, types, constants, multiples_of_16, neuron)
    return source, _options(warps_of(block))


def _options(num_warps: int) -> dict:
    """As the launchers of scans pass them."""
    from proxykernels.kernels.gpu.launch import OPTIONS

    return {"num_warps": num_warps} | OPTIONS


def _scan_source(target: str, kernel, types: dict[str, Any], constants: dict, sizes: str, neuron: str):
    """The source of a scan of as many neurons as ``sizes`` says."""
    lengths = [name for name in ("neurons", "channels", "current_stride", "grad_stride") if name in kernel.arg_names]
    types |= dict.fromkeys({*lengths} - {"channels"}, "i64" if sizes == "huge" else "i32")
    constants |= dict.fromkeys(lengths, 1) if sizes == "single" else {}
    multiples_of_16 = lengths if sizes in ("aligned", "huge") else ()
    return _source(target, kernel, types, constants, multiples_of_16, neuron, small=sizes != "huge")


def convolution(target: str, layer: str, products: str, neuron: str, output: str, **changed: bool):
    """The source and the options of a variant; ``changed``: of the kernel's constants."""
    from proxykernels.kernels.gpu.block_sizes import choose_blocks, instructions, launch_options
    from proxykernels.kernels.gpu.conv2d_kernel import _if_conv2d_kernel
    from proxykernels.kernels.gpu.launch import OPTIONS

    neurons, C, C_out, kernel_size, stride, groups, bias = conv_layer(layer)
    parts, group_C = PRODUCTS[products], C // groups
    output, steps = output_and_steps(output)
    beside = group_C // 2 if output == "beside" else 0  # channels of a 1x1 shortcut
    K = group_C * kernel_size**2 + beside
    blocks = choose_blocks(neurons, C_out // groups, K, target, parts.digits, steps=steps)
    options = launch_options(blocks) | OPTIONS
    types = dict.fromkeys(("unit_pointer", "bias_pointer", "v_pointer", "v_last_pointer", "currents_pointer"), "fp32")
    types |= dict.fromkeys(("first_pointer", "second_pointer", "third_pointer"), parts.type)
    # As Triton's launcher specialises: 1 is a constant, and multiples of 16 are known as such.
    sizes = dict(C_out=C_out, K=-(-K // 16) * 16, groups=groups, dilation_h=1, dilation_w=1)
    sizes |= dict(stride_h=stride, stride_w=stride, padding_h=kernel_size // 2, padding_w=kernel_size // 2)
    constants = {name: 1 for name, size in sizes.items() if size == 1}
    constants |= {name: options.pop(name) for name in list(options) if name in _if_conv2d_kernel.arg_names}
    constants |= {"COUNTS_ONLY": output in ("counts", "currents"), "STEPS": steps}
    constants |= {"GROUP_C": group_C, "KERNEL_W": kernel_size, "BESIDE": beside, **instructions(target), **changed}
    constants |= {"TAPS": kernel_size**2, "TAP": kernel_size**2 // 2} if beside else {"TAPS": 0, "TAP": 0}
    is_there = {"second": parts.count > 1, "third": parts.count > 2, "bias": bias}
    is_there |= {name: output == name for name in ("pooled", "currents", "shortcut")}
    constants |= {f"{name}_pointer": None for name, there in is_there.items() if not there}
    multiples_of_16 = [name for name, size in sizes.items() if size % 16 == 0]
    return _source(target, _if_conv2d_kernel, types, constants, multiples_of_16, neuron), options


def _small(kernel: str, target: str, variant: str):
    names = ("counters", "packing", "pools", "sigma_delta", "weight_parts")
    modules = [import_module(f"proxykernels.kernels.gpu.{name}") for name in names]
    jitted = next(vars(module)[f"_{kernel}_kernel"] for module in modules if f"_{kernel}_kernel" in vars(module))
    return _source(target, jitted, *SMALL[kernel][variant]), _options(SMALL_WARPS)


def _source(
    target: str, kernel, types: dict[str, Any], constants: dict, multiples_of_16, neuron: str | None = None, small=True
):
    """What triton.compile takes, specialised as a launch on the target does.

    Args:
        types: of scalars, of elements and of a tuple's members, None for one that is absent; others are int32.
        multiples_of_16: names of integers that are.
        neuron: the model, a name of NEURONS; None: the kernel has none.
        small: whether all tensors have at most 2 GiB; else the neurons' parameters alone.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend

    from proxykernels.kernels.gpu.neuron_steps import model_constants
    from proxykernels.kernels.neuron_models import about

    if neuron:  # a tuple: v_reset, which a soft reset has not, other scalars, and pointers
        model = about(NEURONS[neuron])
        scalars = [None if neuron.endswith("soft") else "fp32"]
        scalars += ["fp32" for scalar in model.scalars if scalar != "v_reset"]
        types = types | {"neuron": (*scalars, *["*fp32"] * len(model.channels))}
        constants = model_constants(NEURONS[neuron]) | constants
    backend = make_backend(GPUTarget(*gpu_of(target)))
    parameters = getattr(kernel, "params", ())  # Triton's interpreter has none
    unaligned = {parameter.name for parameter in parameters if parameter.do_not_specialize_on_alignment}
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        is_pointer = name.endswith("_pointer")
        if isinstance(types.get(name), tuple):
            signature[name] = tuple(kind or "constexpr" for kind in types[name])
            row = backend.parse_attr(backend.get_tensor_specialization(_tensor(2**30), align=True))
            for k, kind in enumerate(types[name]):
                constants = constants if kind else constants | {(index, k): None}
                attributes |= {(index, k): row} if kind and kind.startswith("*") else {}
            continue
        signature[name] = "constexpr" if name in constants else "*" * is_pointer + types.get(name, "i32")
        if name in constants:
            continue
        if is_pointer:
            tensor = _tensor(2**30 if small else 2**40)
            specialization = backend.get_tensor_specialization(tensor, align=name not in unaligned)
            attributes[(index,)] = backend.parse_attr(specialization)
        elif name in multiples_of_16:
            attributes[(index,)] = backend.parse_attr(backend.get_int_specialization(16, align=True))
    return ASTSource(kernel, signature, constants, attributes)


def _tensor(size: int) -> SimpleNamespace:
    """What Triton's specialisation asks of a tensor of so many bytes: one at a multiple of 16."""
    return SimpleNamespace(data_ptr=lambda: 0, ptr_range=lambda: size)


@cache
def _toolchain_has(target: str) -> bool:
    """Whether what assembles and what reads binaries know the target; Triton carries its AMD compiler in itself.

    Triton 3.6 brings a ptxas for sm_103, and a cuobjdump that is older.
    """
    import triton
    from triton.backends.nvidia.compiler import get_ptxas

    backend, architecture, _ = TARGETS[target].gpu
    if backend == "hip":
        return True
    paths = get_ptxas(architecture).path, triton.knobs.nvidia.cuobjdump.path
    listed = (subprocess.run([path, "--help"], capture_output=True, text=True, check=True).stdout for path in paths)
    return all(f"'{target}'" in text for text in listed)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(json.dumps(compile_variant(name)), flush=True)
