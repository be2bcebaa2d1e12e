"""Tables in pages of docs/, which commands put in: a table stands behind a line <!-- table: NAME -->."""

import re


def put_table(text: str, name: str, table: str) -> str:
    """The page with this table in its place; as it was if it has no such place."""
    place = rf"(<!-- table: {re.escape(name)} -->\n+)(\|[^\n]*\n)*"
    return re.sub(place, lambda found: found[1] + table + "\n", text)


def has_table(text: str, name: str, table: str) -> bool:
    return f"<!-- table: {name} -->\n\n{table}\n\n" in f"{text}\n"


def markdown(lines: list[list[str]]) -> str:
    """A table, the first line its head."""
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join(f"| {' | '.join(line)} |".replace("| ---", "|---").replace("--- |", "---|") for line in lines)
