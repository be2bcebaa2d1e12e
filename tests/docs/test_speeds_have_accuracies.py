"""A speed is quoted only where an accuracy stands beside it: CONTRIBUTING's rule, over README and the guides.

A table or paragraph that has milliseconds or a speedup tells an accuracy too. Sections of random weights, random spikes
or a model of times have none, and say what they are of.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SPEED = re.compile(r"\bms\b|[Mm]illiseconds?\b|times\s+as\s+fast|[Ss]peedups?\b")
ACCURACY = re.compile(r"[Aa]ccura|\bright\b|same class|[Cc]orrelation|[Ss]trict")
WITHOUT = {  # page, heading -> what the section says
    ("drop_in.md", "Which layers to replace first"): "random",
    ("events.md", "What a step costs"): "random weights",
    ("kernels.md", "At higher firing rates"): "random weights",
    ("kernels.md", "On a CPU"): "random",
    ("neurons.md", "Speed"): "random weights",
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_speed_has_an_accuracy_beside_it(page):
    for heading, text in sections(page.read_text()).items():
        where, found = (page.name, heading), alone(text)
        if where in WITHOUT:
            assert WITHOUT[where] in text, f"{where} must say that it is of {WITHOUT[where]}"
        else:
            assert not found, f"{where} quotes a speed without an accuracy: {found[0].strip()[:200]}"


def test_the_list_names_sections_that_are_there():
    there = {(page.name, heading) for page in PAGES for heading in sections(page.read_text())}
    assert WITHOUT.keys() <= there


def test_the_rule_can_be_broken():
    table = "| ms | {} |\n|---|---|\n| 3 | 94 % |"
    pages = "# A\n\n" + table.format("rate") + "\n\n# B\n\n" + table.format("accuracy")
    assert [len(alone(text)) for text in sections(pages).values()] == [1, 0]
    assert alone("It is 3 times as fast.") and not alone("It is 3 times as fast, and 94 % are right.")
    assert list(sections("# A\n![ms](x.png)\n\n# B\nb\n")) == ["A", "B"]
    assert not alone("It fires three times.") and sections("# A\n```\n1 ms\n```\n") == {"A": "\n\n"}
