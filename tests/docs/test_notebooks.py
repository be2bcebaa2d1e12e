"""The notebooks run, are what docs/notebooks.py makes of their pages, and begin with cells that open them in Colab."""

import json
import re

import pytest
import run as docs

PAGES = sorted((docs.DOCS / "notebooks").glob("*.md"))


def cells_of(page) -> list[dict]:
    return json.loads(page.with_suffix(".ipynb").read_text())["cells"]


def code(cell: dict) -> str:
    return "".join(cell["source"])


def test_there_are_some():
    assert len(PAGES) == 6


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    if "torchvision" in page.read_text():
        pytest.importorskip("torchvision")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    docs.run(page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_notebook_is_its_page(page):
    """After a change of a page: python docs/notebooks.py."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    install, *cells = (code(cell) for cell in cells_of(page) if cell["cell_type"] == "code")
    assert cells == [block.strip() for block in blocks]
    assert "find_spec" in install and "%pip install" in install


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_notebook_shows_what_it_drew(page):
    outputs = [output for cell in cells_of(page) for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    assert page.with_suffix(".ipynb").stat().st_size < 700_000
    assert not re.search(r"/(root|home|work|tmp|opt)/", page.with_suffix(".ipynb").read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_notebook_opens_in_colab(page):
    title, badge, install = cells_of(page)[:3]
    assert code(title).startswith("# ") and install["cell_type"] == "code"
    (address,) = re.findall(r"\((https://colab[^)]*\.ipynb)\)", code(badge))
    assert address.endswith(f"/blob/main/docs/notebooks/{page.stem}.ipynb") and "/proxykernels/" in address
