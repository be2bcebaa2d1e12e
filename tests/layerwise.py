"""simulate layer by layer, in chunks: what a network's plan is compared with."""

from unittest import mock

import proxykernels as pk
from proxykernels.running import kept_plans


def simulate(net, x, T, **options):
    with mock.patch.object(kept_plans, "run", return_value=None):
        return pk.simulate(net, x, T, **{"chunk": 8 if options.get("stop") else 64} | options)
