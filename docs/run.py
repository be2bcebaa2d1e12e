"""Run every Python block of the pages, each page's in one namespace, and draw their pictures anew.

python docs/run.py
"""

import contextlib
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
WITHOUT_BLOCKS = "README index benchmarks browser kernels models paper recipes speed supported".split()
PAGES = sorted(page for page in DOCS.glob("*.md") if page.stem not in WITHOUT_BLOCKS)


def run(page: Path, folder: Path) -> None:
    """Run a page's blocks in ``folder``, where they write their files."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    if not blocks:
        raise ValueError(f"{page} has no Python block")
    names: dict = {}
    with contextlib.chdir(folder):
        for block in blocks:
            exec(compile(block, str(page), "exec"), names)


if __name__ == "__main__":
    import matplotlib

    matplotlib.use("Agg")
    sys.path.insert(0, str(DOCS.parent / "benchmarks"))
    try:
        for page in PAGES:
            print(page.name)
            run(page, DOCS / "images")
    finally:
        for name in ("net.nir", "net.safetensors"):  # of exchange.md and engine.md, and no pictures
            (DOCS / "images" / name).unlink(missing_ok=True)
