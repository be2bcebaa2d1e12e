"""How fast recurrent neurons are: forward, and in training with its memory.

    python benchmarks/recurrent_speed.py
    python benchmarks/recurrent_speed.py --cases layer --steps 200

layer    1,024 recurrent leaky neurons that fire in 5 % of the steps, batches of 1 and 64: a call, an engine, and
         training by surrogate gradients, against a step loop in plain torch, and numba and JAX where they are
         installed; numba adds the rows of weights of what fired, as we do, in 30 lines; int8: an engine of
         weights that are rounded to 7 bits, another network. JAX's compiler may round a leak's product and
         its sum as one, so a few of its spikes may differ
braille  the network of NIR's paper, 12-38-7 of current-based neurons, batches of 1 and 64: simulated, against a step
         loop, snnTorch and Norse, where they are installed

Weights and inputs are random, so no speed has an accuracy beside it; train_vowels.py has those of a real task. The step
loop multiplies all inputs at once, before its steps. Norse's neurons use the current of the step before; their work is
the same. One thread, by processor time; ", two threads": by the clock, for which no other program may run. The least of
the rounds, in each of which a contender runs twice. ms: of the second run, as in a loop over samples; first_ms: of the
first, after all others have filled the caches. memory: what the forward pass leaves for the backward pass; peak: by how
much the process grows in a step of training, beyond the gradients that it gives; in bytes. Writes recurrent_speed.csv,
and with --out benchmarks/results the table of docs/recurrent.md.
"""

from common.command import command, work
from common.printed import add_out, new_parser, positive, some_of

CASES = ["layer", "braille"]


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--cases", type=some_of(CASES), default=CASES, help=f"of {','.join(CASES)} (default: all)")
    add("--rounds", type=positive, default=5, help="timed rounds of each contender (default: 5)")
    add("--steps", type=positive, help="steps of each case (default: 1000 of the layer, 256 of braille)")
    add_out(parser, "the table")
    work("speed.recurrent_table", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
