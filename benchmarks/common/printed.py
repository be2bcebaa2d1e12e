"""What commands print and ask for: tables that fit the terminal, and help with an example.

The terminal's width is what rich finds: COLUMNS, else the terminal's, else (a pipe, a file) 80.
"""

import argparse
import math
import re
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.box import HORIZONTALS
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table

from common.checkout import RUNS

ITEM = r"- |\d+\. |\w+(?:,? \w+)* {2,}"  # what an item of a list begins with
CHECKOUT = Path(__file__).parents[2]
LARGEST_SEED = 2**32 - 1  # torch's generators take 64 bits, and an epoch's seed is a million times the training's
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


class _Wrapper(textwrap.TextWrapper):
    """Breaks lines at spaces and after the commas of a list of names, not at hyphens: those are parts of names."""

    def __init__(self, width: int, hang: str = ""):
        super().__init__(width, subsequent_indent=hang, break_on_hyphens=False)

    def _split(self, text: str) -> list[str]:
        return [part for chunk in super()._split(text) for part in re.split(r"(?<=,)(?=[^\W\d])", chunk)]


class Help(argparse.HelpFormatter):
    """Fills the paragraphs of a docstring to the terminal's width; indented lines, the examples, stay as written.

    Each option shows its default, except those without one and those whose text names it.
    """

    def _get_help_string(self, action: argparse.Action) -> str:
        said = action.help or ""
        if action.default is None or isinstance(action.default, bool) or "default:" in said:
            return said
        if action.default is argparse.SUPPRESS or not action.option_strings:
            return said
        return f"{said} (default: {_default(action)})"

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _Wrapper(width).wrap(" ".join(text.split()))

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
        filled = _Wrapper(width, hang).fill(hang + re.sub(" +", " ", item[len(hang) :]))
        return filled.replace(hang, mark[0] if mark else "", 1)


def _default(action: argparse.Action) -> str:
    """As it would be given; a path within the checkout from there."""
    value = action.default
    if isinstance(value, list | tuple):
        return (" " if action.nargs else ",").join(map(str, value))
    inside = isinstance(value, Path) and value.is_relative_to(CHECKOUT)
    return str(value.relative_to(CHECKOUT) if inside else value).replace("%", "%%")


def new_parser(doc: str) -> argparse.ArgumentParser:
    """A command's parser: ``--help`` shows its module's docstring, with its examples."""
    return argparse.ArgumentParser(description=doc, formatter_class=Help)


def add_out(parser: argparse.ArgumentParser, holds: str, tracked: str = "benchmarks/results") -> None:
    """The option ``--out``, by default a folder that git ignores.

    Args:
        holds: what is written there, for the help.
        tracked: the folder that a maintainer gives, whose files git tracks.
    """
    help = f"folder of {holds}; those that git tracks are in {tracked}"
    parser.add_argument("--out", type=Path, default=RUNS, help=help)


def positive(text: str) -> int:
    """The type of an option that is a whole number of at least 1."""
    if not re.fullmatch(r"\+?\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def natural(text: str) -> int:
    """The type of an option that is a whole number of at least 0."""
    if not re.fullmatch(r"\+?\d+", text):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def seed(text: str) -> int:
    """The type of an option that is a seed of random numbers."""
    if not re.fullmatch(r"\d+", text) or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"expected a whole number within 0 .. {LARGEST_SEED}, got {text!r}")
    return int(text)


def seeds(text: str) -> list[int]:
    """The type of an option that is some of them, with commas between them; each once."""
    return list(dict.fromkeys(map(seed, text.split(","))))


def positive_number(text: str) -> float:
    """The type of an option that is a number above 0, such as a learning rate."""
    return _number(text, "a number above 0", lambda value: 0 < value < math.inf)


def share(text: str) -> float:
    """The type of an option that is a number from 0 to below 1."""
    return _number(text, "a number within 0 .. 1, without 1", lambda value: 0 <= value < 1)


def _number(text: str, wanted: str, is_good: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not is_good(value):
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
    return value


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
