"""Which cases of a parametrized test run: a covering selection by default, each value once if quick, or all of them.

Most tests here are products: kernels x steps x resets x shapes. What breaks a kernel is nearly always one value of one
parameter or a pair of them, so by default the cases of a test that has many are thinned out until every PAIR of values
still meets once (pairwise testing: Cohen et al., "The AETG system", IEEE TSE 23, 1997), and with ``--quick`` every
value. A test marked ``costly`` has one level less: every value, and with ``--quick`` one case. Tests marked ``long``
``--quick`` leaves out. ``--exhaustive`` runs the whole product, and a case that is named runs. The choice is the same
on every machine that has the same instruction sets.

Tests marked ``slow`` take seconds each. They run where they are named, with ``--exhaustive`` or with ``--slow K/N``:
.ci/run takes a part.
"""

import random
from argparse import ArgumentTypeError
from collections import Counter
from itertools import combinations

import pytest

FEW = 24  # cases of a test that are never thinned out
TOGETHER = 4  # cases of a slow test in one part


def thin(metafunc: pytest.Metafunc, strength: int) -> None:
    """Keep a selection of a test's cases in which every ``strength`` of its values meet.

    Done before pytest makes an item of each case: that of all of them would take longer than most tests.
    """
    cases, strength = metafunc._calls, strength - (metafunc.definition.get_closest_marker("costly") is not None)
    if len(cases) > FEW or strength < 2:
        kept = set(map(id, _covering(metafunc.function.__name__, cases, strength)))
        cases[:] = [case for case in cases if id(case) in kept]


def _covering(name: str, cases: list, strength: int) -> list:
    """Cases, each of which brings a combination of ``strength`` values that none before it had."""
    seen: set[tuple] = set()
    chosen = []
    for case in random.Random(name).sample(cases, len(cases)):
        # By identity: the cases share the values, which need not be hashable.
        values = [(name, id(value)) for name, value in case.params.items()]
        combined = set(combinations(values, min(strength, len(values))))
        if not combined <= seen:
            seen |= combined
            chosen.append(case)
    return chosen


def part(text: str) -> tuple[int, int]:
    """``K/N`` with 0 <= K < N, as the option --slow takes it."""
    k, _, n = text.partition("/")
    if not (k.isdecimal() and n.isdecimal() and int(k) < int(n)):
        raise ArgumentTypeError(f"K/N is needed with 0 <= K < N, as 0/1 for all, got {text!r}")
    return int(k), int(n)


def part_of_slow(items: list[pytest.Item], k: int, n: int) -> list[pytest.Item]:
    """Every n-th slow test from the k-th on; of many cases, every n-th four of them: those beside share fixtures."""
    groups: dict[tuple, list[pytest.Item]] = {}
    counts: Counter[tuple] = Counter()
    for item in items:
        if item.get_closest_marker("slow"):
            test = item.path, getattr(item, "originalname", item.name)
            groups.setdefault((*test, counts[test] // TOGETHER), []).append(item)
            counts[test] += 1
    return [item for group in list(groups.values())[k::n] for item in group]
