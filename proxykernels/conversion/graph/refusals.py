"""Remedies for modules and functions that have no counterpart in spikes, for error messages."""

_SMOOTH = "; a firing rate approximates a ReLU: replace it by nn.ReLU and continue training"
_NORM = "; it normalises by the values of each sample: replace it by BatchNorm and continue training"
_PRODUCT = "; spikes cannot multiply two results, as in attention: remove it and continue training"
_AXES = "; only one or two axes are supported: move the third to channels or samples"
_LOOP = "; it has a state: replace it by a convolution or linear layer"
_STEPS = "; if it repeats the input over time, call set_step_mode(net, 'm'), or pass the layers of one step"
_COMPARED = "; it compares values: write relu(x) for x * (x > 0) and the like, or train with nn.ReLU"
_LARGEST = "; write relu(x) for the maximum of x and 0, and max_pool2d for that of an image"
_SINABS = (
    "; in sinabs train with spike_fn=SingleSpike and min_v_mem=None, for neurons here fire once in a step and have no "
    "lower bound, and pass its graph: from_nir(sinabs.nir.to_nir(net, sample), reset='subtract')"
)
_REMEDIES = {
    **dict.fromkeys(
        "gelu silu swish hardswish hardsigmoid sigmoid tanh hardtanh elu selu celu softplus mish softsign "
        "logsigmoid".split(),
        _SMOOTH,
    ),
    **dict.fromkeys(
        "layernorm layernorm2d groupnorm instancenorm1d instancenorm2d localresponsenorm rmsnorm layer_norm group_norm "
        "instance_norm local_response_norm lrn".split(),
        _NORM,
    ),
    **dict.fromkeys(
        "mul multiheadattention matmul bmm einsum scaled_dot_product_attention multi_head_attention_forward "
        "shiftedwindowattention shifted_window_attention".split(),
        _PRODUCT,
    ),
    **dict.fromkeys("conv3d convtranspose3d maxpool3d avgpool3d adaptiveavgpool3d batchnorm3d".split(), _AXES),
    **dict.fromkeys("lstm gru rnn".split(), _LOOP),
    **dict.fromkeys("unsqueeze repeat expand".split(), _STEPS),
    **dict.fromkeys("gt lt ge le eq ne where masked_fill sign heaviside bool".split(), _COMPARED),
    **dict.fromkeys("maximum minimum max min amax amin".split(), _LARGEST),
    "rearrange": "; write it with flatten",
    "reduce": "; write it with mean() or a pooling of torch",
    "einmix": "; write it with Rearrange and Linear",
    "sum": "; use the mean, and scale the weights behind it",
}


_FOR_NEURONS = {
    _SMOOTH: "; take it out, or put neurons in its place and continue training",
    _NORM: _NORM,
    _PRODUCT: "; only products of spikes are supported: remove it and continue training",
    _AXES: _AXES,
    _LOOP: "; it has a state of its own: put neurons in its place and continue training",
    _STEPS: _STEPS,
}


def remedy_of_imports(name: str) -> str:
    """The same in networks of other libraries."""
    if name.lower() in ("relu", "relu6", "leaky_relu", "leakyrelu", "prelu", "threshold"):
        return _FOR_NEURONS[_SMOOTH]
    known = remedy(name)
    return _FOR_NEURONS.get(known, known)


def remedy_of_library(kind: type) -> str:
    """The remedy for neurons of a library whose networks are taken in another way; "" if there is none."""
    is_neuron = kind.__module__.startswith("sinabs.layers.") and hasattr(kind, "reset_states")
    return _SINABS if is_neuron else ""


def remedy(name: str) -> str:
    """The remedy for a module or function of this name; "" if none is known."""
    return _REMEDIES.get(name.lower(), "")
