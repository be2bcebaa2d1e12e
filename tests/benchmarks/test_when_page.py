"""docs/when.md has the tables of against_relu.py; `benchmarks/draw.py --results benchmarks/results` puts them in."""

import pytest
from common.checkout import RESULTS
from common.pages import has_table
from common.tables import read_csv
from speed import levels, when_page

TEXT = when_page.PAGE.read_text()


@pytest.mark.parametrize("name", when_page.tables())
def test_tables_are_those_of_the_csvs(name):
    wanted = when_page.tables()[name]
    assert wanted.count("\n") > 1
    assert has_table(TEXT, name, wanted), f"docs/when.md must have behind its mark:\n{wanted}"


@pytest.mark.parametrize("name", when_page.blocks())
def test_networks_have_the_tables_of_their_csvs(name):
    wanted = when_page.blocks()[name]
    assert f"{wanted}\n" in TEXT, f"docs/when.md must have:\n{wanted}"


def test_tables_are_put_in_their_places(tmp_path, monkeypatch):
    page = tmp_path / "when.md"
    page.write_text(
        "# A\n\n<!-- table: a -->\n\n| old |\n|---|\n\ntext\n\n### net, AVX2\n\n### net\n\nold\n\n| old |\n\n## End\n"
    )
    monkeypatch.setattr(when_page, "tables", lambda: {"a": "| new |\n|---|", "elsewhere": "| x |"})
    monkeypatch.setattr(when_page, "blocks", lambda: {"net": "### net\n\nnew", "net, AVX2": "### net, AVX2\n\nx"})
    when_page.update(page)
    assert page.read_text() == (
        "# A\n\n<!-- table: a -->\n\n| new |\n|---|\n\ntext\n\n### net, AVX2\n\nx\n\n### net\n\nnew\n\n## End\n"
    )


def test_what_other_pages_cite():
    """Of one image of the paper's network: four steps in float32, and early exit with int8 weights."""
    rows, root = levels.of_batch(read_csv(when_page.table_of("paper")), "1"), RESULTS.parents[1]
    readme, few_steps = ((root / name).read_text().replace("\n", " ") for name in ("README.md", "docs/few_steps.md"))
    level = levels.first_level(rows, levels.IF, "float32")
    float32, int8 = passes(rows, level)
    reference = levels.reference(rows)["right"]
    for text in (
        f"a pass of its ReLU network, whose accuracy on the 10,000 test images is {reference} %:",
        f"| spiking network, {level['T']} steps |",
        f"| float32 | {level['right']} % | {float32:.2f} | {int8:.2f} |",
    ):
        assert text in readme, text
    assert f"{float32:.2f} of the float32 pass and {int8:.1f} of the int8 pass at T = {level['T']}" in few_steps
    level = levels.first_level(rows, levels.EARLY, "int8")
    shares = " | ".join(f"{share:.2f}" for share in passes(rows, level))
    assert f"| int8, early exit | {level['right']} % | {shares} |" in readme


def passes(rows: levels.Rows, row: dict[str, str]) -> tuple[float, float]:
    found = levels.passes(rows, row)
    return found["float32"], found["int8"]
