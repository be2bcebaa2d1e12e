"""What commands print and ask for: tables that fit the terminal, and help with an example.

The terminal's width is what rich finds: COLUMNS, else the terminal's, else (a pipe, a file) 80.
"""

import argparse
import re
import textwrap
from collections.abc import Callable, Iterable

from rich.box import HORIZONTALS
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table

ITEM = r"- |\d+\. |\w+(?:,? \w+)* {2,}"  # what an item of a list begins with
NARROW = 60  # columns; with fewer, tables are lists of plain lines


def print_table(
    console: Console, title: str, headings: list[str], rows: list[list[str]], *, left: int = 1, end: int = 0
) -> None:
    """Print a table; where it does not fit, or the terminal is narrow, plain lines: words, then figures.

    Args:
        headings: of the columns; a line break in one makes it two lines high.
        rows: the cells, as text.
        left: how many columns, from the first, are words; the others are numbers and set to the right.
        end: how many of the last rows are set off by a line.
    """
    table = Table(title=title, title_justify="left", box=HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index < left else "right", no_wrap=True)
    for index, row in enumerate(rows):
        table.add_row(*row, end_section=index == len(rows) - 1 - end)
    console.print()
    needed = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    if console.width >= NARROW and needed <= console.width:
        console.print(table)
        return
    console.print(title)
    for row in rows:
        console.print(" ".join(word for word in row[:left] if word))
        figures = zip(headings[left:], row[left:], strict=True)
        text = ", ".join(f"{_one_line(heading)} {cell}" for heading, cell in figures if cell)
        console.print(Padding(text, (0, 0, 0, 2)))


def _one_line(heading: str) -> str:
    return heading.replace("-\n", "").replace("\n", " ")


class Help(argparse.HelpFormatter):
    """Fills the paragraphs of a docstring to the terminal's width; indented lines, the examples, stay as written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(self._fill(paragraph, width) for paragraph in text.strip().split("\n\n"))

    def _fill(self, paragraph: str, width: int) -> str:
        if paragraph.startswith(" "):
            return paragraph
        items = re.split(rf"\n(?={ITEM})", paragraph)
        return "\n".join(self._fill_item(" ".join(item.split("\n")), width) for item in items)

    def _fill_item(self, item: str, width: int) -> str:
        mark = re.match(ITEM, item)
        hang = " " * len(mark[0]) if mark else ""
        return textwrap.fill(hang + re.sub(" +", " ", item[len(hang) :]), width, subsequent_indent=hang).replace(
            hang, mark[0] if mark else "", 1
        )


def new_parser(doc: str) -> argparse.ArgumentParser:
    """A command's parser: ``--help`` shows its module's docstring, with its examples."""
    return argparse.ArgumentParser(description=doc, formatter_class=Help)


def positive(text: str) -> int:
    """The type of an option that is a whole number of at least 1."""
    if not re.fullmatch(r"\+?\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def numbers(text: str) -> list[int]:
    """The type of an option that is such numbers, with commas between them; each once, in order."""
    return sorted({positive(part) for part in text.split(",")})


def some_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """The type of an option that is some of ``names``, with commas between them; written as :func:`written`."""
    known = {written(name): name for name in names}

    def parse(text: str) -> list[str]:
        given = list(dict.fromkeys(text.split(",")))
        unknown = [name for name in given if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return [known[name] for name in given]

    return parse


def written(name: str) -> str:
    """A table's name as options spell it: "converted, max" is converted-max."""
    return re.sub(r"[^\w.]+", "-", name.replace("'", "")).strip("-")


def shown(names: Iterable[str]) -> str:
    """The names that an option of :func:`some_of` takes, for its help."""
    return ",".join(map(written, names))
