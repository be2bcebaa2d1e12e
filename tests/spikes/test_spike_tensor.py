"""Tensors that stay packed until somebody looks, also where compilers follow: equal to dense ones whatever is done."""

import copy
import io
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import packed_cases
import pytest
import torch
import torch.nn.functional as F
import torch.utils.dlpack
from equality import equal
from packed_cases import SIZE, C, T
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import proxykernels as pk
from proxykernels.spikes import spike_tensor
from proxykernels.spikes.spike_tensor import SpikeTensor


@pytest.fixture
def layer(generator):
    return packed_cases.layer(generator)


@pytest.fixture
def following(generator):
    return packed_cases.following(generator)


@pytest.fixture
def x(generator):
    return packed_cases.values(generator)


@pytest.fixture
def expected(layer, x):
    return packed_cases.dense_spikes(layer, x)


def test_it_stays_packed_from_layer_to_layer(layer, following, x, expected):
    y = layer(x)
    assert type(y) is SpikeTensor and isinstance(y, torch.Tensor)
    assert (y.shape, y.dtype, y.device, y.requires_grad) == (expected.shape, x.dtype, x.device, False)
    assert (y.stride(), y.dim(), len(y), y.numel()) == (expected.stride(), 5, T, expected.numel())
    assert equal(following(y), following(expected)) and following(expected).any()
    assert equal(pk.MaxPool2d(2)(y), pk.MaxPool2d(2)(expected))
    assert equal(pk.AvgPool2d(2)(y), pk.AvgPool2d(2)(expected))
    assert equal(pk.Flatten()(y).packed().dense(), expected.flatten(2))
    assert pk.pack(y) is y.packed()
    assert y.packed() is not None
    assert equal(y, expected)
    assert y.packed() is None


@pytest.mark.parametrize("name", ["input", "x", "a"])
def test_the_first_argument_by_its_name(layer, x, expected, name):
    """By each that torch takes."""
    assert equal(torch.sum(**{name: layer(x)}, dim=0), expected.sum(0))
    assert equal(torch.flatten(**{name: layer(x)}, start_dim=2), expected.flatten(2))


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y[2:7], lambda y: y[:4], lambda y: y.flatten(2), lambda y: torch.flatten(y, 2), lambda y: y.detach(),
        lambda y: y.clone(), lambda y: y.contiguous(), lambda y: y.float(), lambda y: y.half(), lambda y: y.bool(),
        lambda y: y.to(torch.int64), lambda y: torch.cat([y, y[:3]]), lambda y: torch.cat([y, y, y], 2),
        lambda y: F.dropout(y, 0.5, False), lambda y: y[1:][:3].flatten(2),
    ],
)  # fmt: skip
def test_functions_of_torch_that_take_the_bits(layer, x, expected, function):
    y = layer(x)
    given, wanted = function(y), function(expected)
    assert type(given) is SpikeTensor and given.packed() is not None
    assert (given.shape, given.dtype, given.stride()) == (wanted.shape, wanted.dtype, wanted.stride())
    assert y.packed() is not None and equal(given, wanted)


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y + 1, lambda y: y[3], lambda y: y[:, 1:], lambda y: y[::2], lambda y: y[5:2], lambda y: y.sum(0),
        lambda y: y.mean(0), lambda y: y.sum(), lambda y: y.mean((0, 1)), lambda y: torch.cat([y, 1 - y], 2),
        lambda y: F.conv2d(y.flatten(0, 1), torch.ones(2, C, 3, 3)), lambda y: torch.ops.aten.mul(y, 2),
        lambda y: torch.func.vmap(lambda z: z * 2)(y), lambda y: torch.stack(list(y)), lambda y: y.transpose(0, 1),
        lambda y: torch.from_dlpack(y), lambda y: torch.from_numpy(y.numpy()), lambda y: torch.tensor(np.asarray(y)),
        lambda y: copy.copy(y), lambda y: copy.deepcopy(y), lambda y: pickle.loads(pickle.dumps(y)),
        lambda y: y.view(-1), lambda y: torch.empty_like(y).fill_(2), lambda y: F.linear(y, torch.ones(2, 12)),
        lambda y: torch.tensor(y.tolist()), lambda y: torch.where(y > 0, 2.0, 3.0), lambda y: y.data, lambda y: y.T,
    ],
)  # fmt: skip
def test_functions_of_torch_that_look(layer, x, expected, function):
    given, wanted = function(layer(x)), function(expected)
    assert type(given) is torch.Tensor and given.dtype == wanted.dtype
    assert equal(given, wanted)


@pytest.mark.parametrize("seen", [False, True])
def test_copies_share_memory_as_what_they_are_copies_of(layer, x, expected, seen):
    y = layer(x)
    if seen:
        y.sum()
    module = nn.Module()
    module.register_buffer("all", y)
    module.parts = [y[1:3], y, y.flatten(2), y.clone()]
    copied = copy.deepcopy(module)
    part, whole, flat, apart = copied.parts
    assert whole is copied.all and equal(whole, expected)
    whole.fill_(7)
    assert (part == 7).all() and (flat == 7).all()
    assert equal(apart, expected) and equal(y, expected) and expected.any()


@pytest.mark.parametrize("seen", [False, True])
def test_code_that_asks_for_the_address_of_its_bytes_gets_an_error(layer, x, expected, seen):
    """It was a null pointer, and the process died of it. What asks torch, gets that of the dense tensor."""
    y = layer(x)
    if seen:
        y.sum()
    with pytest.raises(RuntimeError, match="Cannot access data pointer"):
        torch.utils.dlpack.to_dlpack(y)
    assert equal(torch.from_dlpack(torch.utils.dlpack.to_dlpack(layer(x).data)), expected)
    assert equal(y, expected) and equal(torch.from_dlpack(y.__dlpack__()), expected)
    assert y.data_ptr() == torch.from_dlpack(y).data_ptr()


def test_saved_and_printed(layer, x, expected):
    file = io.BytesIO()
    torch.save({"y": layer(x)}, file)
    file.seek(0)
    assert equal(torch.load(file)["y"], expected)
    assert repr(layer(x)) == repr(expected) and f"{layer(x).sum()}" == f"{expected.sum()}"


WRITES = {
    "in place": lambda y: y.zero_(),
    "item": lambda y: y.__setitem__((2, slice(None), 3), 1),
    "slice": lambda y: y[1:4].fill_(1),
    "slice of a slice": lambda y: y[1:8][2:4].fill_(1),
    "flat": lambda y: y.flatten(2)[:, :, 7:90].fill_(1),
    "view": lambda y: y.view(-1)[:1000].zero_(),
    "data": lambda y: y.data.zero_(),
    "detached": lambda y: y.detach()[3:5].zero_(),
    "numpy": lambda y: y.numpy().__setitem__(4, 1),
    "dlpack": lambda y: torch.from_dlpack(y).__setitem__(0, 1),
    "out": lambda y: torch.mul(torch.ones(y.shape), 1, out=y),
    "operator": lambda y: torch.ops.aten.fill_(y, 1),
    "functional": lambda y: F.relu(y.sub_(1), inplace=True),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("seen", [False, True])
def test_what_is_written_is_never_missed(layer, following, x, expected, write, seen):
    y, wanted = layer(x), expected.clone()
    part, flat = y[2:6], y.flatten(2)
    if seen:
        y.sum()
    WRITES[write](y)
    WRITES[write](wanted)
    assert not torch.equal(wanted, expected)
    assert equal(following(y), following(wanted))
    assert equal(part, wanted[2:6]) and equal(flat, wanted.flatten(2)) and equal(y, wanted)
    part.fill_(1)  # and back
    assert (y[2:6] == 1).all() and (flat[2:6] == 1).all()


def test_views_outlive_what_they_are_of(layer, x, expected):
    y = layer(x)
    first, second = y[:5], y[3:]
    del y
    first.fill_(1)
    assert (second[:2] == 1).all() and equal(second[2:], expected[5:])


def test_what_is_a_view_of_a_dense_tensor_is_one(layer, x, expected):
    for view in (pk.Flatten(), pk.Dropout(0.5).eval(), nn.Flatten(2), nn.Identity()):
        y = layer(x)
        view(y).zero_()
        assert not y.any()
    y = layer(x)
    pk.Unflatten((C, *SIZE))(pk.Flatten()(y)).zero_()
    assert not y.any() and expected.any()


def test_it_is_itself(layer, x, expected):
    y = layer(x)
    assert y.contiguous() is y and y.float() is y and y.add_(1) is y and torch.relu_(y) is y and {y: 1}[y] == 1
    y.unsqueeze_(0)
    assert y.shape == (1, *expected.shape) and equal(y[0], expected + 1)


def test_autograd_sees_a_dense_tensor(layer, x, expected):
    y, linear = layer(x), nn.Linear(SIZE[1], 2)
    linear(y).square().sum().backward()
    given, linear.weight.grad = linear.weight.grad, None
    linear(expected).square().sum().backward()
    assert equal(given, linear.weight.grad)
    y = layer(x).requires_grad_()
    (y * y).sum().backward()
    assert type(y.grad) is torch.Tensor and equal(y.grad, 2 * expected)

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            ctx.save_for_backward(value)
            return 2 * value

        @staticmethod
        def backward(ctx, gradient):
            return gradient * ctx.saved_tensors[0]

    y = layer(x)
    assert equal(Double.apply(y), 2 * expected)
    y.requires_grad_()
    Double.apply(y).sum().backward()
    assert equal(y.grad, expected)


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("learns", [False, True])
def test_it_becomes_a_parameter(layer, x, expected, seen, learns):
    """Which shares its memory, as that of any tensor does, and lives on in an optimizer and in copies."""
    y = layer(x)
    if seen:
        y.sum()
    module = nn.Module()
    module.p = nn.Parameter(y, requires_grad=learns)
    assert isinstance(module.p, nn.Parameter) and equal(module.p, expected) and equal(y, expected)
    assert list(module.state_dict()) == ["p"] and (module.p.requires_grad, y.requires_grad) == (learns, False)
    if learns:
        (module.p * 3).sum().backward()
        torch.optim.SGD(module.parameters(), 0.5).step()
        assert equal(y, expected - 1.5)
    copied = copy.deepcopy(module).double()
    assert isinstance(copied.p, nn.Parameter) and equal(copied.p, y.double())
    reference = layer(x)
    held = weakref.ref(reference)  # so that it cannot be another object's contents
    assert equal(nn.Parameter(reference), expected) and held() is reference
    assert equal(nn.Buffer(layer(x)), expected)


def test_where_it_cannot_wait_it_is_dense(layer, x, expected):
    differentiable = copy.deepcopy(layer)
    differentiable.surrogate = pk.ATan()
    assert type(differentiable(x)) is torch.Tensor
    assert type(torch.func.vmap(lambda z: layer(x) + z)(torch.zeros(2))) is torch.Tensor
    assert type(layer(x[:, :1, :, :3, :3])) is torch.Tensor  # few
    with FlopCounterMode(display=False):
        assert type(layer(x)) is torch.Tensor
    with torch.inference_mode():
        y = layer(x)
    assert y.is_inference() and equal(y, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.bool, torch.uint8, torch.int64])
def test_types(layer, following, x, expected, dtype):
    y = layer(x.to(dtype))
    assert type(y) is SpikeTensor and y.dtype == dtype
    assert equal(following(y), following(expected.to(dtype)))
    assert equal(pk.MaxPool2d(2)(y), pk.MaxPool2d(2)(expected.to(dtype)))
    if dtype.is_floating_point:
        assert equal(pk.AvgPool2d(2)(y), pk.AvgPool2d(2)(expected.to(dtype)))
        assert pk.AvgPool2d(2)(y).dtype == dtype
    assert y.dtype == dtype and equal(y, expected.to(dtype))


def test_dropout_in_training_keeps_the_bits(layer, following, x, expected):
    dropout = pk.Dropout(0.25)
    torch.manual_seed(0)
    y = dropout(layer(x))
    torch.manual_seed(0)
    wanted = dropout(expected)
    assert type(y) is SpikeTensor and y.packed().scale == 1 / 0.75
    assert equal(pk.Flatten()(y), wanted.flatten(2)) and equal(y, wanted)


def test_concatenate_and_sums(layer, x, expected):
    assert equal(pk.Concatenate()((layer(x), layer(x))), torch.cat([expected, expected], 2))
    assert equal(pk.Concatenate()((layer(x), expected / 2)), torch.cat([expected, expected / 2], 2))
    join = pk.FusedIFSum(nn.Identity(), nn.Identity(), v_threshold=2.0)
    wanted = join((expected, expected)) + 0
    assert wanted.any() and equal(join((layer(x), layer(x))), wanted)


def test_simulate_takes_the_bits(layer, following, x, expected):
    y, net = layer(x), nn.Sequential(following)
    given = pk.simulate(net, y, T).spikes.dense()
    assert y.packed() is not None and equal(given, following(expected))


def test_threads_look_at_the_same(layer, x, expected):
    for _ in range(20):
        y = layer(x)
        parts = [y[a : a + 4] for a in range(5)]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda z: z.add_(0).data_ptr() and z, [y, *parts]))
        assert equal(y, expected)
        assert all(torch.equal(part, expected[a : a + 4]) for a, part in enumerate(found[1:]))
        assert len({part.untyped_storage().data_ptr() for part in found}) == 1


@pytest.mark.costly
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_parts_of_torch_take_it(layer, x, expected, backend):
    def head(y):
        return (y * 2).sum(0) + y.flatten(2)[0, 0, 0]

    compiled = torch.compile(head, backend=backend, fullgraph=True)
    y = layer(x)
    for _ in range(2):  # packed, and seen
        assert equal(compiled(y), head(expected))
    if not torch.__version__.startswith("2.10."):  # which cannot make a fake view of a tensor's subclass: drop_in.md
        assert equal(compiled(layer(x)[:4]), head(expected[:4]))
    assert equal(compiled(layer(x)[:4].clone()), head(expected[:4]))
    y = layer(x)
    torch.compile(lambda y: y.add_(1), backend=backend, fullgraph=True)(y)
    assert equal(y, expected + 1)


@pytest.mark.costly
@pytest.mark.parametrize("strict", [True, False])
def test_it_is_an_example_for_export(layer, following, x, expected, strict):
    """What was exported with it takes dense tensors, too, and it is taken by what was exported with one."""
    exported = torch.export.export(nn.Flatten(2), (layer(x),), strict=strict)
    assert equal(exported.module()(expected + 1), expected.flatten(2) + 1)
    wanted = following(expected)
    assert wanted.any()
    for example in (layer(x), expected):
        exported = torch.export.export(following, (example,), strict=strict).module()
        for given in (expected, layer(x)):
            assert equal(exported(given), wanted)


def test_a_network_called_on_its_own(generator):
    """As in simulate, and no layer's output is ever dense but the last one's."""
    net = nn.Sequential(
        pk.FusedIFConv2d(1, 16, 3, padding=1, batch_norm=True), pk.MaxPool2d(2), pk.FusedIFConv2d(16, 32, 3, padding=1),
        pk.Flatten(), pk.FusedIFLinear(32 * 49, 100, batch_norm=True), pk.FusedIFLinear(100, 40, v_threshold=0.5),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for layer in net:
            if hasattr(layer, "weight"):
                layer.weight.mul_(3)
    image = torch.rand(2, 1, 14, 14, generator=generator)
    made, whole = [], spike_tensor.Memory.look
    try:
        spike_tensor.Memory.look = lambda self: (made.append(self), whole(self))[1]
        for x in (image.expand(20, *image.shape), (torch.rand(20, 2, 1, 14, 14, generator=generator) < 0.4).float()):
            y = net(x)
            assert not made
            wanted = pk.simulate(net, image if x.stride(0) == 0 else x, 20).spikes.dense()
            assert wanted.any() and equal(y, wanted)
            made.clear()
    finally:
        spike_tensor.Memory.look = whole


@pytest.mark.parametrize("how", ["jit", "fx"])
@pytest.mark.parametrize(
    "function",
    [
        lambda y: y * 2,
        lambda y: y[1:3].sum(0),
        lambda y: torch.cat([y, y]),
        lambda y: pk.MaxPool2d(2)(y),
        lambda y: y.flatten(2).mean(0),
        lambda y: y.clone().half(),
    ],
    ids=["times", "slice", "cat", "pool", "mean", "clone"],
)
def test_a_traced_graph_takes_other_values_than_its_example(generator, layer, x, function, how):
    example = layer(x)
    assert isinstance(example, SpikeTensor)
    traced = torch.jit.trace(function, (example,), check_trace=False) if how == "jit" else make_fx(function)(example)
    other = (torch.rand(example.shape, generator=generator) < 0.3).float()
    assert equal(traced(other), function(other)) and not torch.equal(function(other), function(example))
