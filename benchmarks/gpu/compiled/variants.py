"""The one list of the Triton kernels' variants: everything that layers can launch, by name, for each target.

A variant is ``kernel/target/...``, such as ``if_scan/sm_90/fp32/hard/aligned``; the kernel ``if_scan`` is the
function ``_if_scan_kernel`` in the folder kernels.
"""

from typing import Any, NamedTuple

from gpu.compiled.kernel_resources import TARGETS

RESETS = ("hard", "soft")
FAMILIES = ("", "leaky-", "synaptic-", "adaptive-", "refractory-")  # of neuron models, kernels/neuron_models.py
NEURONS = {family + reset: f"{family[:-1].title()}{reset.title()}Reset" for family in FAMILIES for reset in RESETS}
NEURONS["loihi-hard"] = "LoihiHardReset"
ONCE = list(NEURONS)  # those that fire once at most in a step
OTHERS = [neuron for neuron in ONCE if neuron not in RESETS]  # than integrate and fire
NEURONS |= {"integer-soft": "IntegerSoftReset", "readout": "LeakyHardReset"}  # which only scans run
SCAN = [f"{dtype}/{reset}/aligned" for dtype in ("fp32", "fp16", "bf16") for reset in RESETS]
SCAN += [f"fp32/{neuron}/aligned" for neuron in OTHERS]
# What Triton's specialisation makes of other sizes: odd ones, a single neuron (an argument of 1 becomes a constant),
# and more neurons than a 32-bit integer can count.
SCAN += [f"fp32/hard/{sizes}" for sizes in ("odd", "single", "huge")]
SCAN += ["fp32/integer-soft/aligned", "fp16/integer-soft/odd", "fp32/integer-soft/huge"]
SCAN += ["fp32/readout/aligned", "fp16/readout/odd"]
BACKWARD = [f"{neuron}/atan/sequence/aligned" for neuron in ONCE]
BACKWARD += ["hard/sigmoid/sequence/aligned", "hard/fastsigmoid/sequence/aligned"]
BACKWARD += ["soft/triangle/held/aligned", "leaky-hard/atan/held/aligned", "synaptic-hard/atan/last/aligned"]
BACKWARD += [f"hard/atan/sequence/{sizes}" for sizes in ("odd", "single", "huge")]
BACKWARD += ["integer-soft/atan/sequence/aligned", "integer-soft/atan/held/odd"]
RECURRENT = [f"{neuron}/full/aligned" for neuron in ONCE] + ["hard/full/odd", "leaky-hard/elementwise/aligned"]
RECURRENT_BACKWARD = [f"{neuron}/atan/full/aligned" for neuron in ONCE]
RECURRENT_BACKWARD += [
    "hard/triangle/full/odd",
    "adaptive-soft/sigmoid/full/largest",
    "leaky-hard/atan/elementwise/last",
]


class ConvLayer(NamedTuple):
    """A convolution's sizes; ``neurons`` are the output pixels of all samples."""

    neurons: int
    C: int
    C_out: int
    kernel_size: int
    stride: int = 1
    groups: int = 1
    bias: bool = True


# Layers that together take the choices of blocks and the special cases of sizes.
CONV_LAYERS = {
    "paper": ConvLayer(100352, 128, 128, 3),
    "last": ConvLayer(128, 256, 10, 1),
    "strided": ConvLayer(25088, 64, 64, 3, stride=2),
    "grouped": ConvLayer(25088, 128, 128, 3, groups=2),
    "few-channels": ConvLayer(100352, 3, 32, 3),
    "one-channel": ConvLayer(100352, 1, 16, 3),
    "odd": ConvLayer(100352, 72, 70, 3),
    "half-blocks": ConvLayer(100352, 32, 32, 1),
    "one-sample": ConvLayer(1, 2560, 1152, 1, bias=False),
    "one-neuron": ConvLayer(128, 1, 1, 1),
}


def conv_layer(name: str) -> ConvLayer:
    """A layer of CONV_LAYERS, or one whose name is its numbers: pixels, C, C_out, kernel and 1 for a bias or 0."""
    if name in CONV_LAYERS:
        return CONV_LAYERS[name]
    neurons, C, C_out, kernel_size, bias = map(int, name.split("-"))
    return ConvLayer(neurons, C, C_out, kernel_size, bias=bool(bias))


class Parts(NamedTuple):
    """What weights are multiplied as (kernels/weight_layouts.py)."""

    type: str
    count: int

    @property
    def digits(self) -> int:
        """As choose_blocks takes them."""
        return self.count if self.type == "i8" else 0


PRODUCTS = {
    "three-digits": Parts("i8", 3),  # float32 weights
    "two-digits": Parts("i8", 2),  # those of precision="int16"
    "one-digit": Parts("i8", 1),  # and of "int8"
    "one-product": Parts("fp16", 1),  # 16-bit weights
    "two-products": Parts("fp16", 2),  # float32 weights where digits are not faster
}


def is_launched(target: str, products: str, steps: int = 32) -> bool:
    """Whether weights become such products on a target: float32 ones are digits, or float16 parts; and whether programs
    have so many steps at a time there."""
    from proxykernels.kernels.gpu.block_sizes import steps_at_a_time, takes_digits

    is_made = products == "one-product" or (PRODUCTS[products].type == "i8") == takes_digits(target)
    return is_made and steps_at_a_time(steps, target) == steps


def output_and_steps(output: str) -> tuple[str, int]:
    """The output of a convolution's name, and the steps at a time: "words-4" is of up to 4 steps, "words" of more than
    16."""
    kind, _, steps = output.partition("-")
    return kind, int(steps or 32)


LAYERS = {(layer, products): f"{layer}/{products}/hard/words" for layer in CONV_LAYERS for products in PRODUCTS}
CONV = list(LAYERS.values())
CONV += [f"paper/{products}/hard/words-{steps}" for products in PRODUCTS for steps in (16, 4)]  # at most
CONV += [f"paper/three-digits/soft/words-{steps}" for steps in (1, 2, 8)] + ["odd/two-products/soft/words-8"]
CONV += ["last/three-digits/hard/words-4", "one-sample/one-digit/hard/words-4", "few-channels/two-digits/hard/pooled-4"]
CONV += ["half-blocks/one-product/hard/words-1", "paper/three-digits/adaptive-hard/words-4"]
CONV += ["paper/two-digits/hard/counts", "paper/two-digits/soft/pooled"]
CONV += [
    f"paper/{products}/{rest}"
    for products in ("three-digits", "two-products")
    for rest in ("soft/words", "hard/counts", "soft/counts", "hard/pooled")
]
CONV += [f"paper/{products}/soft/shortcut" for products in ("three-digits", "two-products")]
CONV += [f"paper/{products}/soft/beside" for products in ("three-digits", "two-products")]
CONV += ["half-blocks/one-digit/hard/shortcut-4", "odd/two-products/hard/shortcut", "odd/three-digits/hard/beside"]
CONV += ["strided/one-product/soft/pooled", "paper/three-digits/hard/currents", "odd/two-products/soft/currents"]
CONV += [f"paper/{products}/{neuron}/words" for products in ("three-digits", "two-products") for neuron in OTHERS]


class Arguments(NamedTuple):
    """What a launch passes, by name: ``types`` of pointers' elements and of what is not int32, tuples among them."""

    types: dict[str, Any]
    constants: dict[str, Any]
    multiples_of_16: tuple[str, ...] = ()


def _counters(*reaches: bool) -> Arguments:
    """Of as many tensors as there are ``reaches``, which says of which of them a spike's reach is asked for."""
    integers = ("i32",) * len(reaches)
    types = {"words": ("*i32",) * len(reaches), "sizes": integers, "channels": integers, "pixels": integers}
    types |= {"reaches": tuple("*i32" if reach else None for reach in reaches), "counts_pointer": "i64"}
    return Arguments(types, {"TENSORS": len(reaches), "ROWS": 8, "COLUMNS": 128})


def _by_sizes(types: dict[str, Any], block: int, *lengths: str) -> dict[str, Arguments]:
    return {"aligned": Arguments(types, {"BLOCK": block}, lengths), "odd": Arguments(types, {"BLOCK": block})}


DIGITS = ("first_pointer", "second_pointer", "third_pointer")
_PAPER = (True, False, True, False, False, False, False, False, False)  # what simulate counts of the paper's network
_COUNT = {"words_pointer": "i32", "counts_pointer": "i32"}
_BOOL, _FLOAT = ({"dense_pointer": kind, "words_pointer": "i32", "found_pointer": "i32"} for kind in ("u8", "i32"))
_TILE = {"PIXELS": 32, "CHANNELS": 32}
_RATES = {"words_pointer": "i32", "counts_pointer": "fp32", "pooled_pointer": "i32", "after_pointer": "fp32"}
_WINDOW = {"PADDING_H": 0, "PADDING_W": 0, "BLOCK": 1024}
_WINDOW |= {f"{of}_{axis}": 2 for of in ("KERNEL", "STRIDE") for axis in "HW"}
_OVERLAPPING = _WINDOW | {"KERNEL_H": 3, "KERNEL_W": 3, "PADDING_H": 1, "PADDING_W": 1, "TAPS": 16, "OUTPUTS": 512}
_LARGE = _WINDOW | {"KERNEL_H": 7, "KERNEL_W": 7, "TAPS": 64, "OUTPUTS": 32}
_PARTS = {"high_pointer": "fp16", "low_pointer": "fp16", "unit_pointer": "fp32"}
_SIGMA_DELTA = {"arrived_pointer": "fp32", "highest_pointer": "fp32", "sent_pointer": "i8", "fired_pointer": "i32"}
_SIGMA_DELTA |= {"lowest": "fp32", "threshold": "fp32"}
_POWERS = {"BLOCK": 512, "GRADED": False}
_STATE = dict.fromkeys(("z_pointer", "a_pointer", "bias_pointer", "added_pointer"), "fp32")
_CURRENTS = ("z_pointer", "bias_pointer", "added_pointer")  # which the neurons of a pool have not
_MAXIMA, _SIZES = _SIGMA_DELTA | {"a_pointer": "fp32"}, ("places", "channels")
_CODES = {"x_pointer": "i8", "sums_pointer": "fp32", "sent_pointer": "fp32"}
_CODES |= {"values_pointer": "fp32", "reach_pointer": "i32", "additions_pointer": "i64"}
# Kernels without a neuron of neuron_models.py.
SMALL: dict[str, dict[str, Arguments]] = {
    "counters": {"paper": _counters(*_PAPER), "one": _counters(False)},
    "count": _by_sizes(_COUNT, 1024, "neurons"),
    "float16_parts": {
        dtype: Arguments(_PARTS | {"weight_pointer": dtype}, {"BLOCK": 1024} | absent)
        for dtype, absent in (("fp32", {}), ("fp16", {"low_pointer": None}), ("bf16", {"low_pointer": None}))
    },
    "int8_digits": {
        f"{places}-places": Arguments(
            {"weight_pointer": "fp32", **dict.fromkeys(digits, "i8"), "unit_pointer": "fp32"},
            {"BLOCK": 1024, "PLACES": places} | {name: None for name in DIGITS if name not in digits},
        )
        for places, digits in ((7, DIGITS[:1]), (13, DIGITS[:2]), (23, DIGITS))
    },
    "max_pool": _by_sizes({"words_pointer": "i32", "pooled_pointer": "i32"}, 1024, "C"),
    "max_rate_pool": {
        "aligned": Arguments(_RATES, _WINDOW | {"TAPS": 4, "OUTPUTS": 512}, ("C", "stride_n", "stride_p")),
        "overlapping": Arguments(_RATES, _OVERLAPPING, ("C",)),
        "odd": Arguments(_RATES, _LARGE),
        "from-rest": Arguments(
            _RATES, _WINDOW | {"TAPS": 4, "OUTPUTS": 512, "stride_n": 0, "stride_p": 0, "stride_c": 0}, ("C",)
        ),
    },
    "sigma_delta": {
        "aligned": Arguments(_SIGMA_DELTA | _STATE, _POWERS | {"IS_Z": False}, _SIZES),
        "odd": Arguments(_SIGMA_DELTA | _STATE, _POWERS | {"IS_Z": False}),
        "from-rest": Arguments(_SIGMA_DELTA, _POWERS | {"IS_Z": False} | dict.fromkeys(_STATE), _SIZES),
        "maxima": Arguments(_MAXIMA, _POWERS | {"IS_Z": True} | dict.fromkeys(_CURRENTS), _SIZES),
        "graded": Arguments(
            _SIGMA_DELTA | _STATE | {"sent_pointer": "fp32"}, _POWERS | {"IS_Z": False, "GRADED": True}, _SIZES
        ),
    },
    "values": {
        "codes": Arguments(_CODES, {"BLOCK": 512, "stride_c": 1}),
        "floats": Arguments(_CODES | {"x_pointer": "fp32"}, {"BLOCK": 512, "stride_p": 1, "reach_pointer": None}),
        "counted": Arguments(_CODES | {"x_pointer": "fp32"}, {"BLOCK": 512, "stride_c": 1, "values_pointer": None}),
    },
    "running_sums": _by_sizes(_CODES, 512, "places")
    | {"from-rest": Arguments(_CODES | {"x_pointer": "fp32"}, {"BLOCK": 512, "sent_pointer": None}, ("places",))},
    "pack": {
        "channels-first": Arguments(
            _BOOL, _TILE | {"IS_FLOAT": False, "ALONG_C": False, "stride_w": 1, "found_pointer": None}
        ),
        "channels-last": Arguments(_BOOL, _TILE | {"IS_FLOAT": False, "ALONG_C": True, "stride_c": 1}),
        "looking": Arguments(_FLOAT, _TILE | {"IS_FLOAT": True, "ALONG_C": False, "stride_w": 1}),
    },
    "unpack": {"bool": Arguments(_BOOL, _TILE), "float32": Arguments(_FLOAT, _TILE, ("P", "C"))},
}
SMALL_WARPS = 4

KERNELS = {"if_scan": SCAN, "scan_backward": BACKWARD, "recurrent_scan": RECURRENT, "if_conv2d": CONV}
KERNELS["recurrent_backward"] = RECURRENT_BACKWARD
KERNELS |= {name: list(SMALL[name]) for name in SMALL}
VARIANTS = [f"{kernel}/{target}/{rest}" for kernel, rests in KERNELS.items() for target in TARGETS for rest in rests]
_QUICK = (
    "fp32/hard/aligned",
    "fp32/integer-soft/aligned",
    "/hard/atan/sequence/aligned",
    "/hard/full/aligned",
    "/hard/atan/full/aligned",
    "paper/two-products/hard/words",
    "paper/three-digits/hard/words",
    "paper/three-digits/leaky-hard/words",
    "paper/three-digits/hard/pooled",
    "one-channel/one-product/hard/words",
)
_SMALL = [f"{kernel}/{target}/{next(iter(variants))}" for kernel, variants in SMALL.items() for target in TARGETS]
QUICK = [variant for variant in VARIANTS if variant.endswith(_QUICK) or variant in _SMALL]
