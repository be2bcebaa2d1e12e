"""What a network returns, compared with what its translation makes of the same spikes."""

from typing import Any

from torch import Tensor

from ..graph.compare import TINY, Difference, as_steps, over_time, rounding


class Outputs:
    """Finds what a network returns of its steps: all of them, or one value for all, made in one way in every run."""

    def __init__(self) -> None:
        self.kinds: set[str] | None = None

    def check(self, y: Tensor, sizes: Tensor, output: Any) -> None:
        """
        Args:
            y: what the translation gives at each step [T, N, ...]. sizes: [T], the largest sums of its terms' sizes.
            output: what the original returned; anything but tensors is not compared.

        Raises:
            Difference: it is of another shape, or differs.
        """
        given = as_steps(output, y)
        if not isinstance(given, Tensor):
            return
        if given.shape == y.shape:
            candidates = {"steps": y}
        elif given.shape == y.shape[1:]:
            candidates = over_time(y)
        elif given.ndim == y.ndim and given.shape[1:] == y.shape[1:]:
            raise Difference("", f"it returns {len(given)} steps, where its neurons run for {len(y)}")
        else:
            raise Difference("", f"its output has the shape {list(given.shape)}, and {list(y.shape)} here, [T, N, ...]")
        limits = rounding(given) * (sizes if "steps" in candidates else sizes.sum()) + TINY
        limits = limits.view(-1, *[1] * (y.ndim - 1)) if limits.ndim else limits
        wrong = {kind: ~((one - given).abs() <= limits) for kind, one in candidates.items()}
        right = {kind for kind in candidates if not bool(wrong[kind].any())}
        kinds = right if self.kinds is None else right & self.kinds
        if kinds:
            self.kinds = kinds
            return
        if "steps" in wrong:
            step = int(wrong["steps"].flatten(1).any(1).byte().argmax())
            far = (y - given)[step].abs().max()
            raise Difference("", f"its output differs by up to {far:.3g} at step {step}")
        least = min((one - given).abs().max().item() for one in candidates.values())
        raise Difference(
            "", f"its output differs by up to {least:.3g} from the mean, the sum and the last of its {len(y)} steps"
        )
