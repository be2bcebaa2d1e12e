"""The variants of the Triton kernels without a neuron of neurons.py: counting and packing spikes, parts of weights, and
sigma-delta neurons.

Each as variants.py has them: kernel -> variant -> the types of its arguments, its constants, and which integers
are multiples of 16. A type is a tuple of types where the kernel takes a tuple of arguments.
"""

from typing import Any, NamedTuple


class Arguments(NamedTuple):
    """What a launch passes, by name: ``types`` of pointers' elements and of integers that are not int32."""

    types: dict[str, Any]
    constants: dict[str, Any]
    multiples_of_16: tuple[str, ...] = ()


def _counters(*reaches: bool) -> Arguments:
    """Of as many tensors as there are ``reaches``, which says of which of them a spike's reach is asked for."""
    integers = ("i32",) * len(reaches)
    types = {"words": ("*i32",) * len(reaches), "sizes": integers, "channels": integers, "pixels": integers}
    types |= {"reaches": tuple("*i32" if reach else None for reach in reaches), "counts_pointer": "i64"}
    return Arguments(types, {"TENSORS": len(reaches), "ROWS": 8, "COLUMNS": 128})


DIGITS = ("first_pointer", "second_pointer", "third_pointer")
_PAPER = (True, False, True, False, False, False, False, False, False)  # what simulate counts of the paper's network
_SIGMA_DELTA = {"arrived_pointer": "fp32", "highest_pointer": "fp32", "codes_pointer": "i8", "fired_pointer": "i32"}
_SIGMA_DELTA |= {"lowest": "fp32"}
VARIANTS: dict[str, dict[str, Arguments]] = {
    "counters": {"paper": _counters(*_PAPER), "one": _counters(False)},
    "count": {
        "aligned": Arguments({"words_pointer": "i32", "counts_pointer": "i32"}, {"BLOCK": 1024}, ("neurons",)),
        "odd": Arguments({"words_pointer": "i32", "counts_pointer": "i32"}, {"BLOCK": 1024}),
    },
    "float16_parts": {
        dtype: Arguments(
            {"weight_pointer": dtype, "high_pointer": "fp16", "low_pointer": "fp16", "unit_pointer": "fp32"},
            {"BLOCK": 1024} | ({} if dtype == "fp32" else {"low_pointer": None}),
        )
        for dtype in ("fp32", "fp16", "bf16")
    },
    "int8_digits": {
        f"{places}-places": Arguments(
            {"weight_pointer": "fp32", **dict.fromkeys(digits, "i8"), "unit_pointer": "fp32"},
            {"BLOCK": 1024, "PLACES": places} | {name: None for name in DIGITS if name not in digits},
        )
        for places, digits in ((7, DIGITS[:1]), (13, DIGITS[:2]), (23, DIGITS))
    },
    "sigma_delta": {
        "aligned": Arguments(_SIGMA_DELTA, {"BLOCK": 512}, ("places", "channels")),
        "odd": Arguments(_SIGMA_DELTA, {"BLOCK": 512}),
    },
    "pack": {
        "channels-first": Arguments({"dense_pointer": "u8", "words_pointer": "i32"}, {"BLOCK": 512, "stride_p": 1}),
        "channels-last": Arguments({"dense_pointer": "u8", "words_pointer": "i32"}, {"BLOCK": 512, "stride_c": 1}),
    },
}
MODULES = {
    "counters": "counters",
    "count": "counters",
    "float16_parts": "weight_parts",
    "int8_digits": "weight_parts",
    "pack": "packing",
    "sigma_delta": "sigma_delta",
}
NUM_WARPS = 4
