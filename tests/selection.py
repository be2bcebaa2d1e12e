"""Which cases of a parametrized test run: a covering selection by default, each value once if quick, or all of them.

Most tests here are products: kernels x steps x resets x shapes. What breaks a kernel is nearly always one value of one
parameter or a pair of them, so by default the cases of a test that has many are thinned out until every PAIR of values
still meets once (pairwise testing: Cohen et al., "The AETG system", IEEE TSE 23, 1997), and with ``--quick``, or where
the test is marked ``costly``, every value. ``--exhaustive`` runs the whole product. What is left out is deselected, so
counts stay honest, and the choice is the same on every machine that has the same instruction sets.
"""

import random
from collections import defaultdict
from itertools import combinations

import pytest

FEW = 24  # cases of a test that are never thinned out


def thinned(items: list[pytest.Item], strength: int) -> list[pytest.Item]:
    """The items, with a selection of each test's cases in which every ``strength`` of its values meet."""
    by_test = defaultdict(list)
    for item in items:
        by_test[getattr(item, "originalname", item.name), item.path].append(item)
    kept: set[pytest.Item] = set()
    for (name, _), cases in by_test.items():
        level = 1 if cases[0].get_closest_marker("costly") else strength
        kept.update(cases if len(cases) <= FEW and level > 1 else _covering(name, cases, level))
    return [item for item in items if item in kept]


def _covering(name: str, cases: list[pytest.Item], strength: int) -> list[pytest.Item]:
    """Cases, each of which brings a combination of ``strength`` values that none before it had."""
    seen: set[tuple] = set()
    chosen = []
    for case in random.Random(name).sample(cases, len(cases)):
        # By identity: the cases share the values, which need not be hashable.
        values = (
            [(name, id(value)) for name, value in case.callspec.params.items()] if hasattr(case, "callspec") else []
        )
        combined = set(combinations(values, min(strength, len(values))))
        if not combined <= seen or not values:
            seen |= combined
            chosen.append(case)
    return chosen
