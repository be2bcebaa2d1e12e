"""The map of CONTRIBUTING.md: rooms import only from those below them."""

import ast
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PACKAGE = CHECKOUT / "proxykernels"

pytestmark = pytest.mark.skipif(not (CHECKOUT / "CONTRIBUTING.md").is_file(), reason="needs a checkout")


def floors() -> dict[str, int]:
    """Each room and how far down it is in the table."""
    page = (CHECKOUT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", page.partition("A call of a layer")[0], re.MULTILINE)
    return {name.strip("/"): floor for floor, row in enumerate(rows) for name in re.findall(r"`([\w./]+)`", row)}


def imports(path: Path) -> set[str]:
    """The rooms that a file imports from."""
    found = set()
    package = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            for alias in node.names:
                full = [*base, *(node.module or "").split("."), alias.name]
                found.add(room([part for part in full if part]))
    return found


def room(parts: list[str]) -> str:
    return f"{parts[0]}.py" if (PACKAGE / f"{parts[0]}.py").is_file() else parts[0]


def test_each_room_imports_only_from_those_below_it():
    known = floors()
    assert 12 <= len(known) < 20
    seen = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        own = room(list(path.relative_to(PACKAGE).with_suffix("").parts))
        if own == "__init__.py" or own.startswith("_"):
            continue
        for other in imports(path) - {own}:
            seen.add((own, other))
            assert known[own] < known[other], f"{path.relative_to(CHECKOUT)} imports from {other}"
    assert len(seen) > 40
