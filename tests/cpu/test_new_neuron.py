"""A neuron model that is not complete does not compile."""

import shutil
import subprocess

import pytest

from proxykernels.kernels.cpu import sources

STRUCT = """
struct Doubling : LeakyHardReset {
    template <class V> static inline Compared<V> step(V* state, V current, const Parameters<V>& p) {
        return LeakyHardReset::step(state, current + current, p);
    }
};
"""
BACK = "template <> struct Back<Doubling> : Back<LeakyHardReset> {};\n"


@pytest.mark.slow
@pytest.mark.parametrize("complete", [False, True])
def test_a_neuron_without_a_step_back(tmp_path, complete):
    """It would return gradients that nobody has written."""
    folder = tmp_path / "src"
    shutil.copytree(sources.FOLDER, folder)

    def add(file, text, before):
        code = (folder / file).read_text()
        assert code.count(before) == 1
        (folder / file).write_text(code.replace(before, text + before))

    add("models.h", "MODEL(Doubling, 1, 2, 2) ", "MODEL(SynapticHardReset")
    add("neurons.h", STRUCT, "template <class Model>\nconstexpr int channelwise = 0;")
    if complete:
        add("scan_backward.h", BACK, "struct Strip {")
    code = tmp_path / "scan.cpp"
    code.write_text('#include "if_scan.h"\n#include "scan_backward.h"\n')
    flags = [*sources.FLAGS, "-DPK_TARGET=portable", f"-I{folder}", "-fsyntax-only"]
    done = subprocess.run(["c++", *flags, str(code)], capture_output=True, text=True)
    assert (done.returncode == 0) == complete, done.stderr
    assert complete or "Back<portable::Doubling>" in done.stderr
