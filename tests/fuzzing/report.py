"""What a run of the fuzzer prints: what was executed, and how to run a wrong case again."""

from .case import Case
from .runner import Tally


def table(tally: Tally, expected: list[tuple[str, str]]) -> str:
    """Cases by kind and way; calls by instruction set and function."""
    total, silent = sum(tally.cases.values()), sum(tally.silent.values())
    lines = [f"{total} cases, {_percent(total - silent, total)} of them with spikes"]
    lines += _columns(
        ["kind", "cases", "with spikes"],
        [[kind, str(n), _percent(n - tally.silent[kind], n)] for kind, n in sorted(tally.cases.items())],
    )
    lines += _columns(["way", "cases"], [[way, str(n)] for way, n in tally.ways.items()])
    targets = list(dict.fromkeys(target for target, _ in expected))
    names = list(dict.fromkeys(name for _, name in expected))
    rows = [[name, *(_calls(tally, expected, target, name) for target in targets)] for name in names]
    lines += _columns(["calls of", *targets], rows)
    return "\n".join(lines)


def never_ran(tally: Tally, expected: list[tuple[str, str]]) -> list[str]:
    """What this machine can execute, and did not."""
    return [f"{name} ({target})" for target, name in expected if not tally.executed[target, name]]


def replay(one: Case, smallest: Case | None, seed: int, number: int, only: str | None) -> str:
    """How to see a failure again; ``smallest``: None if it needs the cases before it."""
    chosen = f" --only {only}" if only else ""
    if smallest is None:
        return (
            f"Alone it is right, so it needs those before it: python tests/fuzz.py --seed {seed} --cases {number + 1}"
            f"{chosen}\nIt is {one}"
        )
    module, name = type(smallest).__module__, type(smallest).__name__
    return (
        f"The smallest that fails, as Python in the folder tests:\n\n"
        f"    from {module} import {name}\n    {changed(smallest)}.check()\n\n"
        f"The whole case: python tests/fuzz.py --seed {seed} --case {number}{chosen}"
    )


def changed(one: Case) -> str:
    """A case as Python, without the fields that have their defaults."""
    defaults = type(one)()
    parts = (f"{key}={value!r}" for key, value in vars(one).items() if value != getattr(defaults, key))
    return f"{type(one).__name__}({', '.join(parts)})"


def _calls(tally: Tally, expected: list[tuple[str, str]], target: str, name: str) -> str:
    return str(tally.executed[target, name]) if (target, name) in expected else "-"


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.1f} %" if total else "-"


def _columns(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in (head, *rows))
    return ["", *(line.rstrip() for line in lines)]
