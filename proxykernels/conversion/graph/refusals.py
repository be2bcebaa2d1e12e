"""What to do about what has no counterpart in spikes, for messages."""

_SMOOTH = "; a rate of spikes is a ReLU's value: put nn.ReLU in its place and train on"
_NORM = "; it normalises by each sample's own values: put BatchNorm in its place, whose statistics stay, and train on"
_PRODUCT = "; no spikes multiply two results, as attention and squeeze-and-excitation do: leave it out and train on"
_AXES = "; images have one or two axes here: fold the third into channels or samples"
_LOOP = "; it keeps a state: put a convolution or matrix product in its place"
_STEPS = "; where it repeats the input over time, call set_step_mode(net, 'm'), or take the layers of one step"
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
    "sum": "; take the mean, which the weights behind it scale",
}


def remedy(name: str) -> str:
    """What to do about a module or function of that name; nothing, where nothing is known."""
    return _REMEDIES.get(name.lower(), "")
