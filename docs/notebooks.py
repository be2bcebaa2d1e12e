"""Make the notebooks of docs/notebooks: from their pages in Markdown, run, with their pictures.

    python docs/notebooks.py
    python docs/notebooks.py --turn 7 --out runs/notebooks      one of them, by turns, elsewhere: what CI does

A notebook begins with cells that open it in Colab and install the package there. GitHub and the site show it as it ran.
"""

import argparse
import re
import tomllib
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).parent
FOLDER = DOCS / "notebooks"
PAGES = sorted(FOLDER.glob("*.md"))
REPOSITORY = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
COLAB = REPOSITORY.replace("https://github.com", "https://colab.research.google.com/github") + "/blob/main"
BADGE = (
    f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({COLAB}/docs/notebooks/{{name}}.ipynb)"
    f" or [download it]({REPOSITORY}/raw/main/docs/notebooks/{{name}}.ipynb)"
)
INSTALL = f"""\
# In Colab: installs the package, which compiles for some minutes.
import importlib.util

if importlib.util.find_spec("proxykernels") is None:
    %pip install -q "proxykernels[benchmarks] @ git+{REPOSITORY}"
"""
SECONDS = 300  # for a cell, and for the kernel to start, on a busy machine


def made(page: Path) -> nbformat.NotebookNode:
    """The notebook of a page, which has not run."""
    text = re.sub(r"\]\(\.\./([\w.]+)\)", rf"]({REPOSITORY}/blob/main/docs/\1)", page.read_text())
    notebook = jupytext.reads(text, fmt="md")
    title, *cells = notebook.cells
    badge = nbformat.v4.new_markdown_cell(BADGE.format(name=page.stem))
    notebook.cells = [title, badge, nbformat.v4.new_code_cell(INSTALL.strip()), *cells]
    for k, cell in enumerate(notebook.cells):
        cell.id = f"cell-{k}"
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def ran(page: Path) -> nbformat.NotebookNode:
    """The notebook of a page, with what its cells print and draw."""
    notebook = made(page)
    NotebookClient(notebook, timeout=SECONDS, startup_timeout=SECONDS, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":  # progress bars are no part of it
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turn", type=int, help="any number: only the notebook whose turn it is")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the notebooks (default: docs/notebooks)")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for page in PAGES if options.turn is None else [PAGES[options.turn % len(PAGES)]]:
        notebook = ran(page)
        nbformat.write(notebook, options.out / f"{page.stem}.ipynb")
        print(page.stem)


if __name__ == "__main__":
    main()
