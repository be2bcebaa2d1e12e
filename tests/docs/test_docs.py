"""The guides run as they stand, and their pictures and links are there."""

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
