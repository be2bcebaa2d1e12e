"""A process ends in silence while engines and streams still live."""

import subprocess
import sys

import pytest

MADE = """
import builtins, sys, threading
import torch, proxykernels as pk

net = torch.nn.Sequential(pk.FusedIFLinear(8, 4, v_threshold=0.5))
torch.nn.init.ones_(net[0].weight)
x = torch.ones(2, 8)
engine = pk.compile(net, x)
stream = engine.stream(2)
print(int(stream(x).count().sum()), int(pk.simulate(net, x, T=4).count().sum()))
"""

KEPT = {
    "globals": "",
    "thread": """
there = threading.Event()

def keep(engine):
    stream = engine.stream(2)
    stream(x)
    there.set()
    threading.Event().wait()

threading.Thread(target=keep, args=(engine,), daemon=True).start()
there.wait()
""",
    "other modules": """
class Holder: pass
holder = Holder(); holder.me = holder; holder.engine = engine; holder.stream = stream
sys.modules["kept"] = holder
torch.kept = builtins.kept = engine, stream
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("kept", KEPT)
def test_a_process_ends_without_a_word(kept):
    ended = subprocess.run([sys.executable, "-c", MADE + KEPT[kept]], capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "8 32\n", "")
