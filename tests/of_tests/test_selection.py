"""The cases of a parametrized test that run: each pair of values, each row of a table, each value, or one."""

from itertools import combinations, product
from types import SimpleNamespace

import pytest
import selection

T, RATES, SHAPES = [1, 7, 33, 64], [0.1, 0.5, 0.9], [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10)]


def cases(options: str = "", *marks: str, slow=(), given: str = "T, rate"):
    """The cases of a test of shape, and of T and rate, a table of two columns; and those of them that stay."""
    rows = [*product(T, RATES)][:: 2 if given == "T, rate" else 1]
    made = [
        SimpleNamespace(params={"shape": shape, "T": t, "rate": rate}, marks=[pytest.mark.slow.mark] * (t in slow))
        for shape, (t, rate) in product(SHAPES, rows)
    ]
    names = {"parametrize": [pytest.mark.parametrize(given, []), pytest.mark.parametrize("shape", [])]}
    definition = SimpleNamespace(
        get_closest_marker=lambda name: name if name in marks else None,
        iter_markers=lambda name: [mark.mark for mark in names[name]],
    )
    metafunc = SimpleNamespace(_calls=made[:], definition=definition, function=cases)
    selection.thin(metafunc, "quick" in options, "slow" in options)
    return made, metafunc._calls


def met(found: list, size: int, names=("shape", "T", "rate")) -> set:
    return {values for case in found for values in combinations([(name, case.params[name]) for name in names], size)}


def test_every_pair_meets_in_few_cases():
    made, kept = cases(given="shape")
    assert met(kept, 2) == met(made, 2) and len(made) == 60 and 20 <= len(kept) < 30
    assert kept == [case for case in made if case in kept]  # in their order


def test_no_row_of_a_table_is_left_out():
    made, kept = cases()
    assert met(kept, 2, ("T", "rate")) == met(made, 2, ("T", "rate")) and met(kept, 2) == met(made, 2)


@pytest.mark.parametrize("mark", ["triton", "alike", "costly"])
def test_pairs_of_what_is_dear_are_slow(mark):
    made, kept = cases("", mark)
    assert met(kept, 1) == met(made, 1) and len(kept) < 10
    made, kept = cases("slow", mark)
    assert met(kept, 2) == met(made, 2)
    assert met([case for case in kept if not case.marks], 1) == met(made, 1)


def test_quick_ones():
    made, kept = cases("quick")
    assert met(kept, 1) == met(made, 1) and len(kept) <= 6
    assert len(cases("quick", "costly")[1]) == 1


def test_slow_cases_take_no_pair_from_the_others():
    made, kept = cases(slow=[7])
    often = [[case for case in some if not case.marks] for some in (made, kept)]
    assert met(often[1], 2) == met(often[0], 2) and len(often[1]) < len(kept)
    assert met(kept, 2) == met(made, 2)
