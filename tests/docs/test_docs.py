"""Guides and notebooks run as they stand; pictures and links are there; a speed stands beside its accuracy."""

import json
import re
from pathlib import Path

import pytest
import run as docs

ROOT = Path(__file__).parents[2]

NEEDS = {
    "events.md": ("matplotlib", "faery"),
    "exchange.md": ("nir", "spikingjelly", "snntorch", "norse"),
    "look.md": ("matplotlib",),
    "save.md": ("huggingface_hub",),
}


@pytest.mark.slow
@pytest.mark.parametrize("page", docs.PAGES, ids=lambda page: page.name)
def test_page_runs(page, tmp_path, monkeypatch):
    for module in NEEDS.get(page.name, ()):
        pytest.importorskip(module)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    docs.run(page, tmp_path)


@pytest.mark.parametrize("page", [ROOT / "README.md", *docs.DOCS.glob("*.md")], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, heading = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not heading or heading in _anchors(there), target


def _anchors(page: Path) -> set[str]:
    """The names that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


PAGES = sorted((docs.DOCS / "notebooks").glob("*.md"))


def cells_of(page) -> list[dict]:
    return json.loads(page.with_suffix(".ipynb").read_text())["cells"]


def code(cell: dict) -> str:
    return "".join(cell["source"])


def test_there_are_some():
    assert len(PAGES) == 6


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_notebook_runs(page, tmp_path, monkeypatch):
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


WITH_SPEEDS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SPEED = re.compile(r"\bms\b|[Mm]illiseconds?\b|times\s+as\s+fast|[Ss]peedups?\b")
ACCURACY = re.compile(r"[Aa]ccura|\bright\b|same class|[Cc]orrelation|[Ss]trict")
WITHOUT = {  # page, heading -> what the section says
    ("drop_in.md", "Which layers to replace first"): "random",
    ("events.md", "What a step costs"): "random weights",
    ("exchange.md", "How fast transformers are"): "random",
    ("kernels.md", "At higher firing rates"): "random weights",
    ("kernels.md", "On a CPU"): "random",
    ("neurons.md", "Speed"): "random weights",
    ("recurrent.md", "Speed"): "random weights",
}


def sections(page: str) -> dict[str, str]:
    """Heading -> text, without code and pictures."""
    page = re.sub(r"^```.*?^```|^!\[[^\n]*$", "", page, flags=re.DOTALL | re.MULTILINE)
    parts = re.split(r"^#+ (.+)$", page, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def alone(text: str) -> list[str]:
    """The tables and paragraphs of a section that quote a speed and no accuracy."""
    blocks = re.split(r"\n\s*\n", text)
    return [block for block in blocks if SPEED.search(block) and not ACCURACY.search(block)]


@pytest.mark.parametrize("page", WITH_SPEEDS, ids=lambda page: page.name)
def test_a_speed_has_an_accuracy_beside_it(page):
    for heading, text in sections(page.read_text()).items():
        where, found = (page.name, heading), alone(text)
        if where in WITHOUT:
            assert WITHOUT[where] in text, f"{where} must say that it is of {WITHOUT[where]}"
        else:
            assert not found, f"{where} quotes a speed without an accuracy: {found[0].strip()[:200]}"


def test_a_paper_says_what_the_pages_say():
    """Its figures, and about a thousand words."""
    paper = (ROOT / "docs" / "joss" / "paper.md").read_text().split("---\n", 2)[2]
    bib = (ROOT / "docs" / "joss" / "paper.bib").read_text()
    pages = (ROOT / "README.md").read_text() + (ROOT / "docs" / "when.md").read_text()
    figures = re.findall(r"\d+\.\d+", paper)
    assert len(figures) > 8 and not [figure for figure in figures if figure not in pages]
    assert 750 < len(paper.split()) < 1750
    assert set(re.findall(r"@(\w+)", paper)) == set(re.findall(r"^@\w+\{(\w+),", bib, re.MULTILINE))


def test_the_list_names_sections_that_are_there():
    there = {(page.name, heading) for page in WITH_SPEEDS for heading in sections(page.read_text())}
    assert WITHOUT.keys() <= there


def test_the_rule_can_be_broken():
    table = "| ms | {} |\n|---|---|\n| 3 | 94 % |"
    pages = "# A\n\n" + table.format("rate") + "\n\n# B\n\n" + table.format("accuracy")
    assert [len(alone(text)) for text in sections(pages).values()] == [1, 0]
    assert alone("It is 3 times as fast.") and not alone("It is 3 times as fast, and 94 % are right.")
    assert list(sections("# A\n![ms](x.png)\n\n# B\nb\n")) == ["A", "B"]
    assert not alone("It fires three times.") and sections("# A\n```\n1 ms\n```\n") == {"A": "\n\n"}
