"""Where the steps are: networks of recorded events are called with [N, T, ...], and put the steps first themselves."""

from typing import Any, NamedTuple

from torch import Tensor, fx

from ..graph.sized_trace import of_sizes

SWAPS = ("transpose", "swapaxes", "swapdims", "movedim", "moveaxis")


class TimeAxes(NamedTuple):
    """Whether what a network takes, and what it gives, is [N, T, ...], where it is [T, N, ...] here."""

    input: bool = False
    output: bool = False

    def of_input(self, x: Tensor) -> Tensor:
        """Steps [T, N, ...] as the network takes them."""
        return x.transpose(0, 1).contiguous() if self.input else x

    def of_output(self, given: Any) -> Any:
        """What it gives, with the steps first."""
        return given.transpose(0, 1) if self.output and isinstance(given, Tensor) and given.ndim > 1 else given


def steps_first(traced: fx.GraphModule, model: str) -> TimeAxes:
    """Take out what exchanges the first two axes of the input and of the output; x[:, t] becomes x[t].

    Raises:
        TypeError: the input is used in several ways.
    """
    graph = traced.graph
    given = next(node for node in graph.nodes if node.op == "placeholder")
    output = next(node for node in graph.nodes if node.op == "output")
    readers = [node for node in given.users if not of_sizes(node)]
    swaps = [node for node in readers if _swaps_first_two(node)]
    steps = [node for node in readers if _of_sample_steps(node)]
    if (swaps or steps) and len(readers) not in (len(swaps), len(steps)):
        raise TypeError(f"{model} takes its input as [T, N, ...] and as [N, T, ...]; put the steps first, and once")
    for node in swaps:
        node.replace_all_uses_with(given)
        graph.erase_node(node)
    for node in steps:
        node.args = (given, node.args[1][1])  # type: ignore[index]
    last: Any = output.args[0]
    at_the_end = isinstance(last, fx.Node) and _swaps_first_two(last)
    if at_the_end:
        output.args = (last.args[0],)
        graph.eliminate_dead_code()
    return TimeAxes(bool(swaps or steps), at_the_end)


def _of_sample_steps(node: fx.Node) -> bool:
    """Whether a node is x[:, t]."""
    at: Any = node.args[1] if getattr(node.target, "__name__", "") == "getitem" else None
    return isinstance(at, tuple) and len(at) == 2 and at[0] == slice(None) and isinstance(at[1], int)


def _swaps_first_two(node: fx.Node) -> bool:
    """Whether a node exchanges axes 0 and 1, and leaves the others where they are."""
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    axes: list[Any] = [*node.args[1:], *node.kwargs.values()]
    if name in SWAPS:
        return sorted(map(str, axes)) == ["0", "1"]
    if name != "permute":
        return False
    axes = list(axes[0]) if len(axes) == 1 and isinstance(axes[0], tuple | list) else axes
    return len(axes) > 2 and axes == [1, 0, *range(2, len(axes))]
