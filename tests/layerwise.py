"""simulate layer by layer, in chunks: what a network's plan is compared with."""

import proxykernels as pk


def simulate(net, x, T, **options):
    return pk.simulate(net, x, T, **{"chunk": 8 if options.get("stop") else 64} | options)
