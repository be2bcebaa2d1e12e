"""Which cases of a parametrized test run: a covering selection by default, each value once if quick, or all of them.

Most tests here are products: kernels x steps x resets x shapes. What breaks a kernel is nearly always one value of one
parameter or a pair of them, so by default the cases of a test are thinned out until every PAIR of values still meets
once (pairwise testing: Cohen et al., "The AETG system", IEEE TSE 23, 1997), and with ``--quick`` every value. A test
marked ``costly`` has one level less: every value, and with ``--quick`` one case. One marked ``alike``, or of Triton
kernels, has every value in both. The pairs that these leave out are slow tests. ``--quick`` leaves out tests marked
``long``. ``--exhaustive`` runs the whole product, and a case that is named runs. The choice is the same on all machines
that have the same instruction sets.

Tests marked ``slow`` take seconds each. They run where they are named, with ``--exhaustive`` or with ``--slow K/N``:
.ci/run takes a part.
"""

import random
from argparse import ArgumentTypeError
from collections import Counter
from collections.abc import Iterable
from itertools import combinations

import pytest
import torch

TOGETHER = 4  # cases of a slow test in one part


def thin(metafunc: pytest.Metafunc, quick: bool, slow: bool) -> None:
    """Keep a selection of a test's cases: every pair of values and every row of a table, or every value, or one case.

    Cases that are slow, and those of a GPU that is not there, have pairs of their own. Done before pytest makes an item
    of each case: that of all of them would take longer than most tests.
    """
    cases, marked = metafunc._calls, metafunc.definition.get_closest_marker
    costly, is_slow = marked("costly") is not None, marked("slow") is not None
    random.Random(metafunc.function.__name__).shuffle(shuffled := cases[:])
    seldom, often = _marked(shuffled, {"slow"} if torch.cuda.is_available() else {"slow", "gpu"})
    tables = [] if quick else _tables(metafunc)
    if quick:
        kept = _covering(often, 0 if costly else 1)
    elif costly or (marked("alike") or marked("triton")) and not is_slow:
        kept = _covering(often, 1, [] if costly else tables)
        if slow and not is_slow:
            pairs = _without(_covering(often, 2, tables), kept)
            for case in pairs:
                case.marks.append(pytest.mark.slow.mark)
            kept += pairs
    else:
        kept = _covering(often, 2, tables)
    kept += _covering(_marked(seldom, {"slow"})[0], 1 if quick or costly else 2, tables)
    cases[:] = _without(cases, _without(cases, kept or cases))  # in their order


def _marked(cases: list, names: set[str]) -> tuple[list, list]:
    """Cases with a mark of one of these names, and those without."""
    found = [case for case in cases if any(mark.name in names for mark in case.marks)]
    return found, _without(cases, found)


def _tables(metafunc: pytest.Metafunc) -> list[list[str]]:
    """The names of those parameters that are given together, in rows."""
    names = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    split = [given.replace(" ", "").strip(",").split(",") if isinstance(given, str) else [*given] for given in names]
    return [table for table in split if len(table) > 1]


def _without(cases: list, others: list) -> list:
    out = set(map(id, others))
    return [case for case in cases if id(case) not in out]


def _covering(cases: list, strength: int, tables: Iterable[list[str]] = ()) -> list:
    """Cases, each of which brings combinations of ``strength`` values that none before it had: first those of most."""
    left = []
    for case in cases:
        # By identity: the cases share the values, which need not be hashable.
        values = {name: (name, id(value)) for name, value in case.params.items()}
        rows = {tuple(values[name] for name in table) for table in tables}
        left.append((case, rows.union(combinations(values.values(), min(strength, len(values))))))
    seen: set[tuple] = set()
    chosen = []
    while left:
        most = max(len(brought) for _, brought in left)
        for case, brought in left:
            brought -= seen
            if len(brought) == most:
                chosen.append(case)
                seen |= brought
        for _, brought in left:
            brought -= seen
        left = [(case, brought) for case, brought in left if brought]
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
