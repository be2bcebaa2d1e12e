"""The map of CONTRIBUTING.md is what the imports draw: rooms without circles, each with words of its own."""

import pytest
import rooms

pytestmark = pytest.mark.skipif(not rooms.PAGE.is_file(), reason="needs a checkout")


def test_the_page_has_the_map_that_the_imports_draw():
    page = rooms.PAGE.read_text()
    assert "| ? |" not in rooms.table(page), "a room has no words: add its row to CONTRIBUTING.md"
    assert rooms.drawn(page) == page, "run: python tests/rooms.py --write"


def test_rooms_are_few_and_on_several_floors():
    assert 12 <= len(rooms.floors()) < 22
    assert rooms.floors()["kernels/"] == 0
    assert sum(map(len, rooms.imports().values())) > 40
    assert {"checks.py", "spikes/"} <= rooms.imports()["layers/"].keys()


def test_a_circle_is_named(monkeypatch):
    circle = {"a/": {"b/": "a/x.py"}, "b/": {"c.py": "b/y.py"}, "c.py": {"a/": "c.py"}}
    monkeypatch.setattr(rooms, "imports", lambda: circle)
    with pytest.raises(ValueError, match=r"circle: a/ -> b/ -> c.py -> a/ \(by a/x.py, b/y.py, c.py\)"):
        rooms.floors.__wrapped__()


def test_a_page_that_is_out_of_date_is_another_one():
    page = rooms.PAGE.read_text()
    wrong = page.replace("| 0 | `kernels/`", "| 5 | `kernels/`")
    assert wrong != page
    assert rooms.drawn(wrong) == page
