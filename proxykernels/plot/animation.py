"""A simulation step by step: an image, the spikes that it becomes in the layers, and how the answer settles."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..running.result import Result
from ..spikes import Spikes
from .pictures import check_sample, new_figure, spikes_by_name

BETWEEN = 0.35
LEADING, OTHERS = "tab:orange", "tab:gray"


def animation(
    result: Result,
    image: Tensor | None = None,
    *,
    sample: int = 0,
    classes: Sequence[str] | None = None,
    interval_ms: int = 200,
):
    """The recorded layers' spikes of one sample, a frame a step, and the output's spikes so far.

    A layer of channels is shown as a mosaic of its maps, any other as a block of its neurons. Bright points are spikes.

    Args:
        result: what ``simulate(..., record=["conv1", "linear1"])`` returns.
        image: what was simulated, [C, H, W] or [H, W] with values from 0 to 1, shown to the left.
        sample: which of the N samples.
        classes: names of the output's neurons; default: their numbers.
        interval_ms: from frame to frame.

    Returns:
        A ``matplotlib.animation.FuncAnimation``: ``.save("spikes.gif", writer="pillow")``, or in a notebook
        ``HTML(x.to_jshtml())``.

    Raises:
        TypeError, ValueError: ``result`` is something else or has no recorded spikes, there is no such sample, or
            ``classes`` are not as many as the outputs.
        ImportError: matplotlib is not installed.
    """
    if not isinstance(result, Result):
        raise TypeError(f"result must be what simulate returns, got {type(result).__name__}")
    layers = spikes_by_name(result.records)
    check_sample(sample, result.spikes.shape[1])
    outputs = _of_sample(result.spikes, sample).flatten(1).cumsum(0)
    names = list(map(str, range(outputs.shape[1]))) if classes is None else list(map(str, classes))
    if len(names) != outputs.shape[1]:
        raise ValueError(f"classes must be the names of {outputs.shape[1]} outputs, got {len(names)}")
    mosaics = {name: mosaic(_of_sample(spikes, sample)) for name, spikes in layers.items()}
    return _Frames(mosaics, outputs, names, image).animated(interval_ms)


def mosaic(fired: Tensor) -> Tensor:
    """Spikes [T, C, H, W] as images of all maps in a grid, separated by lines; [T, ...] as a block of neurons.

    Lines and empty places have the value BETWEEN.
    """
    maps = F.pad(fired, (1, 0, 1, 0), value=BETWEEN) if fired.ndim == 4 else fired.flatten(1)[..., None, None]
    count = maps.shape[1]
    least = math.isqrt(count - 1) + 1
    columns = next((n for n in range(least, 2 * least + 1) if count % n == 0), least)
    rows = -(-count // columns)
    maps = F.pad(maps, (0, 0, 0, 0, 0, rows * columns - count), value=BETWEEN).unflatten(1, (rows, columns))
    return maps.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class _Frames:
    """The figure, whose contents change from frame to frame."""

    def __init__(self, mosaics: dict[str, Tensor], counts: Tensor, names: list[str], image: Tensor | None):
        self.mosaics, self.counts = mosaics, counts
        columns = len(mosaics) + 1 + (image is not None)
        self.figure, axes = new_figure(columns, figsize=(2.6 * columns, 2.9))
        *shown, bars = axes
        if image is not None:
            pixels = image.detach().float().cpu()
            channels = pixels.shape[0] if pixels.ndim == 3 else 1
            shown[0].imshow(pixels.movedim(0, -1) if channels == 3 else pixels.reshape(pixels.shape[-2:]), cmap="gray")
            shown[0].set_title("image", fontsize=10)
        for ax in shown:
            ax.set_axis_off()
        self.shown = shown[len(shown) - len(mosaics) :]
        self.images = [
            ax.imshow(frames[0], cmap="magma", vmin=0, vmax=1.15, interpolation="nearest", aspect="auto")
            for ax, frames in zip(self.shown, mosaics.values(), strict=True)
        ]
        self.bars = bars.barh(names, [0] * len(names))
        bars.invert_yaxis()
        bars.set(xlim=(0, max(1, int(counts.max()))), xlabel="spikes so far")
        bars.tick_params(labelsize=8)
        self.title = bars.set_title("", fontsize=10)

    def draw(self, t: int) -> list:
        """The frame of step t, from 0."""
        for ax, image, (name, frames) in zip(self.shown, self.images, self.mosaics.items(), strict=True):
            image.set_data(frames[t])
            ax.set_title(f"{name}: {int((frames[t] == 1).sum()):,} spikes", fontsize=10)
        so_far = self.counts[t]
        leads = (so_far == so_far.max()) & (so_far > 0)
        for bar, count, lead in zip(self.bars, so_far.tolist(), leads.tolist(), strict=True):
            bar.set_width(count)
            bar.set_color(LEADING if lead else OTHERS)
        self.title.set_text(f"step {t + 1} of {len(self.counts)}")
        return [*self.images, *self.bars, self.title]

    def animated(self, interval_ms: int):
        """The animation of all frames."""
        from matplotlib.animation import FuncAnimation

        self.draw(0)
        self.figure.canvas.draw()
        self.figure.set_layout_engine("none")  # keep the layout instead of computing it for each frame
        return FuncAnimation(self.figure, self.draw, frames=len(self.counts), interval=interval_ms)


def _of_sample(spikes: Spikes, sample: int) -> Tensor:
    return spikes.dense()[:, sample].cpu()
