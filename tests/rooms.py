"""The map of the house, drawn from the imports: its rooms, and the floor that each of them stands on.

    python tests/rooms.py            # prints the table of CONTRIBUTING.md as it must be
    python tests/rooms.py --write    # and puts it into the page

A room is a folder or a file of proxykernels/; kernels/ is one room. Floor 0 imports from no room; any other
room stands one floor above the highest room that it imports from. What is in a room is told by the page itself.
"""

import ast
import re
import sys
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "proxykernels"
PAGE = CHECKOUT / "CONTRIBUTING.md"
KERNELS = "kernels/"
HEAD = "| floor | room | what is in it |\n|---|---|---|\n"
ROW = re.compile(r"^\| \d+ \| `([\w./]+)` \| (.+) \|$", re.MULTILINE)


def room(name: str) -> str:
    """The room of a module, from the first part of its name within the package."""
    return f"{name}.py" if (PACKAGE / f"{name}.py").is_file() else f"{name}/"


@cache
def imports() -> dict[str, dict[str, str]]:
    """Each room -> the rooms that it imports from, each with a file that does."""
    found: dict[str, dict[str, str]] = {}
    for base, start in ((PACKAGE, []), (CHECKOUT / "kernels", ["kernels"])):
        for path in sorted(base.rglob("*.py")):
            package = [*start, *path.relative_to(base).parent.parts]
            first = [*package, path.stem][0]
            if first.startswith("_") and first != "_version":  # __init__ and its helpers stand above all rooms
                continue
            targets = found.setdefault(room(first), {})
            for parts in _imported(path, package):
                if parts and parts[0] != first:
                    targets.setdefault(room(parts[0]), path.relative_to(CHECKOUT).as_posix())
    return found


def _imported(path: Path, package: list[str]) -> list[list[str]]:
    """The modules, as parts of their names within the package, that a file imports by relative imports."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    found = []
    for node in nodes:
        if node.level:
            base = package[: len(package) - node.level + 1]
            found += [[*base, *filter(None, (node.module or "").split(".")), alias.name] for alias in node.names]
    return found


@cache
def floors() -> dict[str, int]:
    """Each room and its floor, from the highest down.

    Raises:
        ValueError: rooms import from each other in a circle, which is named.
    """
    found: dict[str, int] = {}

    def floor(name: str, above: tuple[str, ...]) -> int:
        if name in above:
            circle = [*above[above.index(name) :], name]
            files = [imports()[a][b] for a, b in zip(circle, circle[1:], strict=False)]
            raise ValueError(f"rooms import in a circle: {' -> '.join(circle)} (by {', '.join(files)})")
        if name not in found:
            found[name] = max((floor(other, (*above, name)) + 1 for other in imports()[name]), default=0)
        return found[name]

    for name in imports():
        floor(name, ())
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def table(page: str) -> str:
    """The table as it must stand on the page, with the page's words for each room."""
    told = dict(ROW.findall(page))
    return HEAD + "".join(f"| {floor} | `{name}` | {told.get(name, '?')} |\n" for name, floor in floors().items())


def drawn(page: str) -> str:
    """The page with the table as it must be."""
    start = page.index(HEAD)
    end = page.index("\n\n", start) + 1
    return page[:start] + table(page) + page[end:]


if __name__ == "__main__":
    print(table(PAGE.read_text()), end="")
    if "--write" in sys.argv:
        PAGE.write_text(drawn(PAGE.read_text()))
