"""All parts of a model that have no counterpart in spikes, named at once: each of them takes another training."""

from torch import fx

from ..graph.functions import is_known
from ..graph.fx_calls import arguments, needed, path_of
from ..graph.index_ops import is_move
from ..graph.noted import is_constant
from ..graph.refusals import remedy

PLACES = 3  # that are named of each kind
BLOCK = "squeeze-and-excitation block"
OF_BLOCKS = "; it multiplies each channel by a number computed from the same sample, which spikes cannot: remove it"
PRODUCTS = ("mul", "multiply")


def with_all(error: TypeError, traced: fx.GraphModule, model: str, supported: tuple[type, ...]) -> TypeError:
    """``error``, of the first part that has no counterpart, with a list of all such parts if there are several.

    ``supported``: modules that have one. A run has noted what each node gives (noted.py).
    """
    found = _parts(traced, model, supported)
    if "no counterpart in spikes" not in str(error) or sum(map(len, found.values())) < 2:
        return error
    lines = []
    for (kind, what_to_do), places in found.items():
        shown = ", ".join(places[:PLACES]) + (", ..." if len(places) > PLACES else "")
        lines.append(f"  {len(places)} x {kind} ({shown}){what_to_do}")
    total = sum(map(len, found.values()))
    return TypeError(
        "\n".join(
            [f"{error}\n{model} has {total} such parts; change all of them, then continue training once:", *lines]
        )
    )


def _parts(traced: fx.GraphModule, model: str, supported: tuple[type, ...]) -> dict[tuple[str, str], list[str]]:
    """(kind, remedy) -> the places of these parts, in order."""
    nodes = [node for node in needed(traced, model) if not is_constant(node)]
    blocks = {_owner(node): node for node in nodes if _is_excitation(node) and _owner(node)}
    found: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        block = next((owner for owner in blocks if _owner(node) == owner or _owner(node).startswith(f"{owner}.")), None)
        if block is not None:
            if node is blocks[block]:
                found.setdefault((BLOCK, OF_BLOCKS), []).append(f"module '{block}'")
            continue
        kind = _kind(node, traced, supported)
        if kind:
            found.setdefault((kind, remedy(kind.removesuffix("()"))), []).append(path_of(node))
    return found


def _kind(node: fx.Node, traced: fx.GraphModule, supported: tuple[type, ...]) -> str:
    """The module's class, or the function, that has no counterpart; "": it has one, as far as its name tells."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        kind = type(module).__name__
        return kind if remedy(kind) and not isinstance(module, supported) and not is_move(node, traced) else ""
    name = _name(node)
    if name in PRODUCTS:
        return f"{name}()" if _is_product(node) else ""
    return f"{name}()" if name and remedy(name) and not is_known(name) and not is_move(node, traced) else ""


def _is_excitation(node: fx.Node) -> bool:
    """Whether a node multiplies images by one number a channel, [N, C, 1, 1], computed from a sample."""
    if _name(node) not in PRODUCTS or not _is_product(node):
        return False
    pixels = [shape[2:].count(1) for shape in (argument.meta.get("shape", ()) for argument in arguments(node))]
    return len(node.meta.get("shape", ())) == 4 and sorted(pixels)[-1] == 2 and sorted(pixels)[0] < 2


def _is_product(node: fx.Node) -> bool:
    return sum(not is_constant(argument) for argument in arguments(node)) > 1


def _name(node: fx.Node) -> str:
    if node.op not in ("call_function", "call_method"):
        return ""
    name = node.target if isinstance(node.target, str) else node.target.__name__
    return name.strip("_").removeprefix("i") if name.strip("_") == "imul" else name


def _owner(node: fx.Node) -> str:
    """The path of the module whose forward pass calls a function, or of a module that is called."""
    if node.op == "call_module":
        return str(node.target)
    owners = list(node.meta.get("nn_module_stack") or {})
    return owners[-1] if owners else ""
