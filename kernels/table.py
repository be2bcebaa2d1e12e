"""The table: the lists that Python and C++ share, each stated here only.

setup.py writes them into headers of C++ (:func:`headers`), and the library says which table it was built with. This
file imports nothing of the package, since setup.py runs it without the package.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum, StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple


class Model(NamedTuple):
    """What one step of a model's neurons takes and keeps; the equations are in reference.py.

    Attributes:
        states: values that a neuron keeps from step to step, the potential first.
        channels: the parameters that each channel has a value of, the threshold first.
        scalars: the parameters that all neurons share.
        step: of a model that is written in Python only, called as those in reference.py; None: every kernel has it.
    """

    states: int
    channels: tuple[str, ...]
    scalars: tuple[str, ...]
    step: Callable | None = None


# Where a model has two resets, "hard" comes first: it has v_reset, and "soft" has not.
_MODELS = {
    "HardReset": Model(1, ("theta",), ("v_reset",)),
    "SoftReset": Model(1, ("theta",), ()),
    "LeakyHardReset": Model(1, ("theta", "decay"), ("v_reset", "v_rest")),
    "LeakySoftReset": Model(1, ("theta", "decay"), ("v_rest",)),
    "SynapticHardReset": Model(2, ("theta", "decay", "current_decay"), ("v_reset", "v_rest")),
    "SynapticSoftReset": Model(2, ("theta", "decay", "current_decay"), ("v_rest",)),
    "AdaptiveHardReset": Model(2, ("theta", "decay", "adaptation_decay", "adaptation"), ("v_reset", "v_rest")),
    "AdaptiveSoftReset": Model(2, ("theta", "decay", "adaptation_decay", "adaptation"), ("v_rest",)),
    "RefractoryHardReset": Model(2, ("theta", "decay"), ("v_reset", "v_rest", "refractory")),
    "RefractorySoftReset": Model(2, ("theta", "decay"), ("v_rest", "refractory")),
    "LoihiHardReset": Model(2, ("theta", "decay", "current_decay", "v_bias"), ("v_reset",)),
}
MODELS: Mapping[str, Model] = MappingProxyType(_MODELS)  # nothing can be added: the kernels would not know it

# Models whose neurons fire several times in a step, and so give integers.
COUNTING_MODELS: Mapping[str, Model] = MappingProxyType(
    {"IntegerSoftReset": Model(1, ("theta", "decay"), ("max_spike_count", "rounds"))}
)

SURROGATES = ("ATan", "FastSigmoid", "Sigmoid", "Triangle")  # shapes of surrogate derivatives


class Function(IntEnum):
    """Functions of values by their numbers in a file, with the names of torch's modules. C++ has them in
    cpu/src/engine/functions.h."""

    SIGMOID = 1
    HARDSIGMOID = 2
    HARDSWISH = 3
    SILU = 4
    TANH = 5
    ELU = 6
    SOFTPLUS = 7
    MISH = 8


class Kind(StrEnum):
    """The kinds of a plan's operations, by the names that a file has for them.

    FIRE: neurons, which give their potentials where they never fire. Poolings work on each step, or on sums over
    time, which are states as potentials are. FLATTEN, UNFLATTEN and MOVE put values elsewhere. RECUR: neurons of one
    pixel that receive their own spikes, on the currents in the slot that they read. ATTENTION multiplies queries, keys
    and values, which lie side by side; MULTIPLY what two slots hold.

    In networks of sigma-delta neurons: CHANGES, what the input changes by; SEND, neurons, which pass their input on
    where they never fire; SEND_MAXIMA, max pooling of all that was sent, with or without neurons behind it; SUM, what
    the changes of the output add up to. FUNCTION and MULTIPLY give what a function of all that has arrived, or the
    product of two of these, changes by.
    """

    FIRE = "neurons"
    MAX_POOL = "max pool"
    AVERAGE_POOL = "average pool"
    MAX_RATE_POOL = "max rate pool"
    RUNNING_MAX_POOL = "running max pool"
    FLATTEN = "flatten"
    UNFLATTEN = "unflatten"
    MOVE = "move"
    RECUR = "recurrent neurons"
    CHANGES = "changes of the input"
    SEND = "sigma-delta"
    SEND_MAXIMA = "sigma-delta maxima"
    SUM = "sum of changes"
    DELAY = "delay"
    ATTENTION = "attention"
    MULTIPLY = "product"
    FUNCTION = "function of sums"


# What kinds have in common; C++ asks functions of these names:
#   passes_on        it gives spikes for spikes and values for values, except in networks of sigma-delta neurons
#   gives_values     it gives values, whatever it reads
#   keeps_size       it reads one input, of the size that it gives
#   changes_in_time  its output differs from step to step even if its input does not
COMMON = {
    "passes_on": (Kind.MAX_POOL, Kind.FLATTEN, Kind.UNFLATTEN, Kind.MOVE, Kind.DELAY, Kind.MULTIPLY),
    "gives_values": (Kind.AVERAGE_POOL, Kind.RUNNING_MAX_POOL, Kind.ATTENTION),
    "keeps_size": (Kind.CHANGES, Kind.SUM, Kind.DELAY, Kind.RECUR, Kind.FUNCTION),
    "changes_in_time": (Kind.FIRE, Kind.RECUR, Kind.MAX_RATE_POOL, Kind.DELAY),
}


class Way(StrEnum):
    """How neurons are run in a segment of steps: the rows of weights of a pattern of spikes are added (PATTERNS), or
    rows times values (VALUES), or those of each spike where it reaches (SCATTERING), or a kernel of cpu/src/conv2d
    runs."""

    PATTERNS = "patterns"
    DEPTHWISE = "depthwise"
    SLICES = "rows"
    TABLES = "tables"
    TILES = "tiles"
    SCATTERING = "scattered"
    PIXEL_TILES = "pixel tiles"
    VALUES = "values"


class Runner(IntEnum):
    """Who runs a call of a layer: its plan; its plan, once windows of few channels are gathered into pixels; or torch's
    convolution, step by step, where most inputs fire."""

    PLAN = 0
    GATHERED_PLAN = 1
    TORCH = 2


class InputKind(IntEnum):
    """Kinds of a plan's input: packed spikes, values that are the same at each step, values of each step."""

    PACKED_SPIKES = 0
    HELD_VALUES = 1
    VALUES = 2


class Outcome(IntEnum):
    """How a plan's run ends: a value is not finite or beyond 2^100; there is no memory; the rule of early exit gave no
    answer; it was told not to go on."""

    NOT_FINITE = 0
    RAN = 1
    NO_MEMORY = 2
    NO_ANSWER = 3
    INTERRUPTED = 4


class Most(IntEnum):
    """The most that a plan may have."""

    WINDOWS = 8  # of an operation
    INPUTS = 1 << 24  # of a neuron, and of the window of a pooling
    MOVED = 1 << 10  # inputs that lie side by side
    DELAY = 1 << 12  # steps
    SIZE = 1 << 31  # of anything; below it
    GROWTH = 1 << 14  # values that operations read or give at a step, for each of the input, of weights and of windows
    EXPONENTS = 12  # of sigma-delta neurons
    CODE = 127  # units that graded neurons of 8 bits send, with a ReLU
    SIGNED_CODE = 63  # the same of an identity, to either side


class Field(NamedTuple):
    """A value in the description of a plan, by the name that it has in a file, in Python and in C++.

    Attributes:
        type: how a file has it, and C++: a key of TYPES.
        about: a comment.
        least: of numbers. default: in C++.
        size: of a tensor of an operation: "C", the channels that it gives, or "P", the pixels. Plans copy such tensors,
            and "floats" among them must be finite.
        written: "always"; "given": if it is not None or 0; "changes": in networks of sigma-delta neurons. What is not
            always written may be missing, but where only some kinds of operations have it.
        null: whether null may be there.
        kinds: the kinds of operations that have it; (): all.
    """

    name: str
    type: str
    about: str = ""
    least: int = 0
    default: str = ""
    written: str = "always"
    null: bool = False
    kinds: tuple[Kind, ...] = ()
    size: str = ""


class CType(NamedTuple):
    """The C++ of a field's type: the declaration of ``name``, and its default."""

    declaration: str
    default: str


TYPES = {
    "whole": CType("int64_t {name}", "0"),
    "pair": CType("int64_t {name}_h = {default}, {name}_w", "0"),  # of height and width
    "truth": CType("bool {name}", "false"),
    "limit": CType("float {name}", "INFINITY"),  # a number of at least 0, or null
    "floats": CType("const float* {name}", "nullptr"),  # the name of a tensor, like the next
    "integers": CType("const int64_t* {name}", "nullptr"),
}
# What an operation reads.
WINDOW = (
    Field("slot", "whole"),
    Field("kernel", "pair", least=1, default="1"),
    Field("stride", "pair", least=1, default="1"),
    Field("padding", "pair"),
    Field("dilation", "pair", least=1, default="1"),
    Field("groups", "whole", least=1, default="1"),
    Field("averages", "whole", "of spikes, part of the weight: what a neuron reads", 1, written="given"),
    Field("weight", "floats", "[C_out, C_in / groups, kernel_h, kernel_w]; null: the input itself", null=True),
    Field("bias", "floats", "[C_out], of sigma-delta neurons; or null", written="changes", null=True),
)
# Neurons of FIRE and RECUR, besides their "model" and its "scalars".
NEURONS = (
    Field("fires", "truth", "or their potentials are what is given", default="true"),
    Field("rectifies", "truth", "whether they stand for neurons with a ReLU"),
    Field("limit", "limit", "of that ReLU", null=True),
    Field("channels", "floats", "[parameters of a channel, C], thresholds first"),
    Field("bias", "floats", "[C]"),
    Field("start", "floats", "[states, C]: of a run from rest; of RECUR then the spikes before the first step"),
    Field("scale", "floats", "what a spike a step stands for: [C], or one number; null: not converted", null=True),
)
# Neurons of SEND and SEND_MAXIMA: activations from 0, or from -infinity, to a limit.
SENDERS = (
    Field("exponents", "whole", least=1, default="1"),
    Field("rectifies", "truth", default="true"),
    Field("limit", "floats", "[C]"),
    Field(
        "threshold",
        "limit",
        "of graded neurons, which send values; null: they send powers of two",
        written="given",
        null=True,
    ),
)
# An operation, besides its "kind", "name", "shape", "windows", "neurons" and, of sigma-delta neurons, "senders"; of
# FUNCTION also its "parameters".
OPERATION = (
    Field("real", "truth", "whether it gives values, and not spikes"),
    Field("divisor", "whole", "of an average; 0: the size of the window,", 1 - Most.SIZE),
    Field("count_padding", "truth", "with the pixels of the padding", default="true"),
    Field("adaptive", "truth", "windows divide the image as evenly as they can, and have no sizes of their own"),
    Field("pixels", "integers", "[P]: the pixel of the inputs that each is, -1: zeros; null: as they lie", null=True,
          kinds=(Kind.MOVE,), size="P"),
    Field("channels", "integers", "[C]: the same, counted on through all inputs", null=True, kinds=(Kind.MOVE,),
          size="C"),
    Field("recurrent", "floats", "[C, C], row i: what neuron i receives; or [C], what it receives of itself",
          written="given", kinds=(Kind.RECUR,)),
    Field("scale", "floats", "[C], of SUM: what 1 stands for", written="changes", null=True, size="C"),
    Field("grid", "limit", "of CHANGES and graded neurons: what values are rounded to multiples of; null: of nothing",
          written="given", null=True),
    Field("delays", "integers", "[C]: steps", written="given", kinds=(Kind.DELAY,), size="C"),
    Field("heads", "whole", "of ATTENTION", 1, written="given"),
    Field("function", "whole", "of FUNCTION: its number", 1, written="given"),
)  # fmt: skip

# Numbers counted of an operation in a run: spikes, additions of a weight for a spike, and those for a value.
TALLIES = 3


def _headers(told: str) -> dict[str, str]:
    return {
        "models.h": f"""{_MADE}
#pragma once
#include <cstdint>

// The neuron models, which neurons.h defines; Neuron.model is an index into this list. Each has its name and the
// numbers of its states, parameters of a channel and scalars.
#define PK_MODELS(MODEL) {_lines(map(_model, MODELS, MODELS.values()))}

// The models whose neurons fire several times in a step. Their indices follow. The last index is CurrentSums, which a
// convolution runs instead of neurons to sum up its currents.
#define PK_COUNTING_MODELS(MODEL) {_lines(map(_model, COUNTING_MODELS, COUNTING_MODELS.values()))}

namespace models {{
#define MODEL(name, ...) name,
enum : int64_t {{ PK_MODELS(MODEL) PK_COUNTING_MODELS(MODEL) CurrentSums }};
#undef MODEL
}}  // namespace models
""",
        "table.h": f"""{_MADE}
#pragma once
#include <cmath>
#include <cstdint>

#define PK_TABLE "{told}"  // a hash of the table, which Python compares

// The surrogate derivatives, which scan_backward.h defines; Surrogate.shape is an index into this list.
#define PK_SURROGATES(SURROGATE) {_lines(f"SURROGATE({name})" for name in SURROGATES)}

namespace surrogates {{
#define SURROGATE(name) name,
enum : int64_t {{ PK_SURROGATES(SURROGATE) }};
#undef SURROGATE
}}  // namespace surrogates

// The operations of a plan, and their names in a file.
#define PK_KINDS(KIND) {_lines(f'KIND({_camel(kind)}, "{kind.value}")' for kind in Kind)}

namespace engine {{
#define KIND(name, text) name,
enum : int64_t {{ PK_KINDS(KIND) }};
#undef KIND
enum : int64_t {{ {", ".join(f"By{_camel(way)}" for way in Way)} }};  // how neurons are run
enum : int64_t {{ {", ".join(f"By{_camel(runner)}" for runner in Runner)} }};  // who runs a call of a layer
enum : int64_t {{ {", ".join(map(_camel, InputKind))} }};  // kinds of inputs
enum : int64_t {{ {", ".join(map(_camel, Outcome))} }};  // of a run
enum : int64_t {{ {", ".join(f"{_camel(f)}Function = {f.value}" for f in Function)} }};  // of sums
constexpr int64_t tallies = {TALLIES};  // numbers that are counted of an operation

{_common()}
}}  // namespace engine

// The most that a plan may have.
{_limits()}

// The fields of a plan's description, and how its reader takes them: TYPE(name, least, may be missing, may be null,
// kinds that have it, as bits; 0: all).
{"".join(map(_fields, DESCRIBED, DESCRIBED.values()))}
// The tensors of an operation that have one number for each of its C channels or P() pixels.
#define PK_OPERATION_TENSORS(FLOATS, INTEGERS) {_lines(_sized(field) for field in OPERATION if field.size)}
""",
    }


DESCRIBED = {"WINDOW": WINDOW, "NEURONS": NEURONS, "SENDERS": SENDERS, "OPERATION": OPERATION}
_MADE = """// Made by kernels/table.py: change the table there. A build writes this file anew.
// clang-format off: lists"""


def _model(name: str, model: Model) -> str:
    parameters = " ".join(model.channels + model.scalars)
    return f"MODEL({name}, {model.states}, {len(model.channels)}, {len(model.scalars)})  /* {parameters} */"


def _lines(items: Iterator[str]) -> str:
    return "".join(f"\\\n    {item} " for item in items).rstrip()


def _limits() -> str:
    return "\n".join(f"constexpr int64_t most_{most.name.lower()} = {most.value};" for most in Most)


def _common() -> str:
    """A function for each property that kinds have in common."""
    return "\n".join(
        f"constexpr bool {name}(int64_t kind) {{ return {_bits(kinds)} >> kind & 1; }}"
        for name, kinds in COMMON.items()
    )


def _bits(kinds: tuple[Kind, ...]) -> int:
    return sum(1 << list(Kind).index(kind) for kind in kinds)


def _sized(field: Field) -> str:
    return f"{field.type.upper()}({field.name}, {field.size}{'()' * (field.size == 'P')})"


def _fields(name: str, fields: tuple[Field, ...]) -> str:
    """The members of a struct, and what the reader takes them for."""
    members = ("".join((_declared(field), f"  /* {field.about} */" * bool(field.about))) for field in fields)
    read = (
        f"{f.type.upper()}({f.name}, {f.least}, {int(f.written != 'always' and not f.kinds)}, {int(f.null)}, "
        f"{_bits(f.kinds)})"
        for f in fields
    )
    types = ", ".join(map(str.upper, TYPES))
    return f"#define PK_{name}_MEMBERS {_lines(members)}\n#define PK_{name}_FIELDS({types}) {_lines(read)}\n"


def _declared(field: Field) -> str:
    declaration, default = TYPES[field.type]
    default = field.default or default
    return f"{declaration.format(name=field.name, default=default)} = {default};"


def _camel(member: StrEnum | IntEnum) -> str:
    """The name that C++ has for a member."""
    return member.name.title().replace("_", "")


HASH = hashlib.sha256(repr(_headers("")).encode()).hexdigest()


def headers() -> dict[str, str]:
    """The headers that the table makes, by their names in kernels/cpu/src."""
    return _headers(HASH)


def write_headers(folder: Path) -> None:
    """Write those that differ from what stands in the folder: a file that is as it was is not compiled again."""
    for name, text in headers().items():
        file = folder / name
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
