"""Every picture of research can be redrawn from the tables of the pages."""

import shutil

import pytest
import redraw
from common.checkout import RESULTS


@pytest.mark.slow
def test_pictures_are_drawn_anew_from_the_tables(tmp_path):
    for table in RESULTS.glob("*.csv"):
        shutil.copy(table, tmp_path)
    redraw.main(["--results", str(tmp_path)])
    drawn, shipped = ({path.name for path in folder.glob("*.png")} for folder in (tmp_path, RESULTS))
    of_speeds = {
        name for name in shipped if name.startswith(("against_relu_", "event_", "ops_speed_", "sim_", "speed"))
    }
    # One shows photographs, of packages that may be missing.
    assert len(drawn) > 7 and shipped - of_speeds <= drawn | {"imagenet.png"}
