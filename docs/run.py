"""Run every Python block of the pages, each page's in one namespace, and draw their pictures anew.

python docs/run.py
"""

import contextlib
import re
import shutil
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent


def blocks(page: Path) -> list[str]:
    """The Python blocks of a page, in order, each behind as many empty lines as are before it: errors tell the line."""
    text = page.read_text()
    found = re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return ["\n" * text.count("\n", 0, block.start(1)) + block[1] for block in found]


PAGES = sorted(page for page in DOCS.glob("*.md") if blocks(page))


def run(page: Path, folder: Path) -> None:
    """Run a page's blocks in ``folder``, where they write their files."""
    names: dict = {}
    with contextlib.chdir(folder):
        for block in blocks(page):
            exec(compile(block, str(page), "exec"), names)


if __name__ == "__main__":
    import matplotlib

    matplotlib.use("Agg")
    sys.path.insert(0, str(DOCS.parent / "benchmarks"))
    for page in PAGES:
        print(page.name)
        with tempfile.TemporaryDirectory() as folder:  # pages also write networks, which are not kept
            run(page, Path(folder))
            for picture in [*Path(folder).glob("*.png"), *Path(folder).glob("*.gif")]:
                shutil.copy(picture, DOCS / "images")
