"""What planted_defects.py changes stands in the sources still: else it would plant nothing."""

import planted_defects
import pytest


@pytest.mark.parametrize("name", planted_defects.DEFECTS)
def test_its_place_is_there(name):
    defect = planted_defects.DEFECTS[name]
    assert defect.old in (planted_defects.ROOT / defect.file).read_text() and defect.old != defect.new
