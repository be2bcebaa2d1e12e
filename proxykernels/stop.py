"""Rules for early exit, ``simulate(..., stop=...)``: when a sample need not be simulated any further.

    result = pk.simulate(net, images, T=64, stop=pk.stop.margin(3))
    result.steps                         # steps that each image took, [N]

A rule is a function of what a network has given so far; any function of one's own is one too.

margin      of counts of spikes: the first class leads by so many
settled     of sigma-delta neurons: the first class leads by as much as any output still changes
"""

from .running.early_exit import Stop, margin, settled

__all__ = ["Stop", "margin", "settled"]
