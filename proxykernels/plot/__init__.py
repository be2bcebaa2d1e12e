"""Pictures of spikes, rates, potentials and accuracy, by matplotlib (``pip install proxykernels[plot]``).

Every function but :func:`rasters` and :func:`animation` draws into ``ax`` (default: that of a new figure) and returns
it; ``ax.figure.savefig(path)`` saves it.
"""

from .animation import animation
from .pictures import accuracy, accuracy_vs_T, conversion, potential, raster, rasters, rate_histogram, rates

__all__ = [
    "accuracy",
    "accuracy_vs_T",
    "animation",
    "conversion",
    "potential",
    "raster",
    "rasters",
    "rate_histogram",
    "rates",
]
