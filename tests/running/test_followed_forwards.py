"""Forward passes of the user's own as plans: what they give, what changes them, and what is refused."""

import gc
import threading
import weakref

import layerwise
import pytest
import torch
from equality import equal
from own_forwards import FORWARDS, Layers, dyadic, image, inputs, network
from test_simulate_plans import is_planned
from torch import nn

import proxykernels as pk
from proxykernels.plan.followed_values import CannotFollowError
from proxykernels.running import kept_plans as plans


def dense(y):
    return y.dense() if isinstance(y, pk.Spikes) else y


def check(net: nn.Module, x, T: int = 9, **options):
    """A simulation by a plan, equal to one by layers."""
    expected = layerwise.simulate(net, x, T, chunk=4, **options)
    pk.simulate(net, x, T, **options)
    got = pk.simulate(net, x, T, **options)
    assert is_planned(net)
    assert expected.spikes.count().any() and equal(dense(got.spikes), dense(expected.spikes))
    assert got.rates == expected.rates and got.places == expected.places
    assert got.state.keys() == expected.state.keys()
    for name, states in expected.state.items():
        assert len(got.state[name]) == len(states) == 1 and equal(got.state[name][0], states[0])
    return got


def own(forward, **attributes) -> nn.Module:
    net = type("Own", (Layers,), {"forward": forward})().eval()
    for name, value in attributes.items():
        setattr(net, name, value)
    return net


@pytest.mark.costly
@pytest.mark.parametrize("samples, T", [(1, 9), (3, 40)])
@pytest.mark.parametrize("name", FORWARDS)
def test_a_plan_gives_what_the_layers_give(name, samples, T):
    for kind, x in inputs(T, samples).items():
        net = network(name)
        got = check(net, x, T)
        expected = layerwise.simulate(net, x, T)
        assert got.synops == expected.synops, kind
        engine = pk.compile(net, x)
        result = engine(x, T)
        assert equal(dense(result.spikes), dense(expected.spikes)) and result.synops == got.synops


@pytest.mark.parametrize("name", ["sums of sums", "side by side", "loop"])
def test_states_go_on_and_streams_step(name):
    net, x, T = network(name), inputs(12)["Spikes"], 12
    first = check(net, x, T)
    expected = layerwise.simulate(net, x, T, state=layerwise.simulate(net, x, T).state)
    assert equal(pk.simulate(net, x, T, state=first.state).spikes.dense(), dense(expected.spikes))
    stream = pk.compile(net, x).stream(3)
    for start in range(0, T, 5):
        stream(x[start : start + 5])
    assert equal(stream.count(), first.count()) and stream.count().any()


def test_an_engine_goes_to_a_file(tmp_path):
    net, x = network("sums of sums"), image()
    engine = pk.compile(net, x)
    engine.save(tmp_path / "net")
    again, expected = pk.load(tmp_path / "net"), engine(x, 9)
    assert equal(again(x, 9).spikes, expected.spikes) and expected.count().any()
    assert again(x, 9).synops == expected.synops


@pytest.mark.parametrize("precision", ["int16", "int8"])
def test_weights_of_few_bits(precision):
    """Of what has no sums and products; these run by layers."""
    for name in ("loop", "neurons of a sum of layers", "side by side", "reshape"):
        check(network(name), image(), precision=precision)
    net = network("a residual sum")
    expected = layerwise.simulate(net, image(), 9, precision=precision)
    assert equal(dense(pk.simulate(net, image(), 9, precision=precision).spikes), dense(expected.spikes))
    with pytest.raises(CannotFollowError, match=r"module c \(FusedIFConv2d\): its input is a sum or a product"):
        pk.compile(net, image(), precision=precision)


class Block(nn.Module):
    """A module within another, with an argument of its own, that gives several values."""

    def __init__(self):
        super().__init__()
        self.conv = dyadic(pk.FusedIFConv2d(4, 4, 3, padding=1))
        self.tail = nn.Sequential(dyadic(pk.FusedIFConv2d(4, 4, 3, padding=1)), nn.Identity())

    def forward(self, x, *, times=1.0, both=False):
        y = self.conv(x)
        return {"sum": (x + times * y, [y])} if both else self.tail(y) + x


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = dyadic(pk.FusedIFConv2d(2, 4, 3, padding=1))
        self.blocks = nn.Sequential(Block(), pk.Dropout(), Block())
        self.other, self.last = Block(), dyadic(pk.FusedIFLinear(144, 32))

    def forward(self, x):
        x = self.blocks(self.stem(x))
        found = self.other(x, times=0.5, both=True)
        x, (y,) = found["sum"]
        for layer in self.blocks[0].tail:
            y = layer(y)
        return self.last((x - y).flatten(2))


def test_modules_within_modules():
    with pytest.raises(
        CannotFollowError, match=r"module blocks.0.tail.0 .* more than once in a step; give each call a"
    ):
        pk.compile(Nested().eval(), image())
    net = Nested().eval()
    net.blocks[0].tail = nn.Sequential(nn.Identity())
    got = check(net, image())
    assert set(got.rates) == {"stem", "blocks.0.conv", "blocks.2.conv", "blocks.2.tail.0", "other.conv", "last"}
    sequence = nn.Sequential(net, pk.IF()).eval()
    assert "0.blocks.2.tail.0" in check(sequence, image()).rates
    assert "inner.other.conv" in check(graph_of(net), image()).rates


def graph_of(net: nn.Module) -> pk.Network:
    graph = pk.Network()
    graph.append("inner", net, (graph.INPUT,))
    return graph.eval()


FLAG = [True]


class Config:
    def __init__(self, flag: bool):
        self.flag = flag


def stale(net: nn.Module, change) -> None:
    """A plan is there, then something changes, and the plan is another one."""
    before = check(net, image())
    change(net)
    after = check(net, image())
    assert not equal(after.spikes.dense(), before.spikes.dense())
    called, x = graph_of(net), torch.stack([image()] * 9)
    assert equal(dense(called(x)), dense(after.spikes)) and is_planned(called)


def by(decide):
    """A forward pass that decides by what ``decide`` gives."""

    def forward(net, x):
        x = net.a(x)
        return net.end(net.b(x) if decide(net) else net.blocks[0](x))

    return forward


def swap(net):
    net.b = dyadic(pk.FusedIFConv2d(4, 4, 3, padding=1))


def other_end(net, x):
    return net.last(net.flat(net.names.average(x)))


CHANGES = {
    "an attribute": (by(lambda net: net.twice), lambda net: setattr(net, "twice", False)),
    "a weight": (by(lambda net: True), lambda net: net.b.weight.data.mul_(2)),
    "a weight, through NumPy": (by(lambda net: True), lambda net: net.b.weight.detach().numpy().__imul__(2)),
    "a layer": (by(lambda net: True), swap),
    "a global": (by(lambda net: FLAG[0]), lambda net: FLAG.__setitem__(0, False)),
    "an object": (by(lambda net: net.config.flag), lambda net: setattr(net.config, "flag", False)),
    "another object": (by(lambda net: net.config.flag), lambda net: setattr(net, "config", Config(False))),
    "a list": (by(lambda net: net.parts[0]), lambda net: net.parts.__setitem__(0, False)),
    "a number": (lambda net, x: net.end(net.b(net.factor * net.a(x))), lambda net: setattr(net, "factor", 0.25)),
    "a tensor's number": (
        lambda net, x: net.end(net.b(net.gain.item() * net.a(x))), lambda net: net.gain.fill_(0.25),
    ),
    "the number of blocks": (FORWARDS["loop"], lambda net: net.blocks.pop(1)),
    "a method": (FORWARDS["chain"], lambda net: setattr(type(net), "end", other_end)),
    "the forward pass": (FORWARDS["chain"], lambda net: setattr(type(net), "forward", FORWARDS["loop"])),
}  # fmt: skip


@pytest.mark.parametrize("forward, change", CHANGES.values(), ids=CHANGES)
def test_no_change_is_missed(forward, change):
    FLAG[0] = True
    net = own(forward, config=Config(True), parts=[True], factor=1.0)
    net.register_buffer("gain", torch.ones(()))
    stale(net, change)


def test_no_change_of_training_is_missed():
    net = own(by(lambda net: net.flat.training))
    before = check(net, image())
    net.flat.train()
    assert not equal(check(net, image()).spikes.dense(), before.spikes.dense())


def test_a_plan_that_is_as_before_stays():
    net = network("loop")
    check(net, image())
    engines = [found[1] for found in plans._kept(net).engines.values()]
    pk.simulate(net, image(), 9)
    assert engines == [found[1] for found in plans._kept(net).engines.values()]


SEEN = []


def sets(net, x):
    net.hidden = net.a(x)
    return net.end(net.b(net.hidden))


def sets_a_number(net, x):
    net.steps = 9
    return net.end(net.a(x))


def draws(net, x):
    return net.end(net.a(x) if torch.rand(()) < 2 else net.b(net.a(x)))


def counts(net, x):
    net.calls += 1
    return net.end(net.a(x))


def listens(net, x):
    try:
        x = net.a(x) * net.a(x)
    except TypeError:
        x = net.b(net.a(x))
    return net.end(x)


def in_place(net, x):
    x = y = net.a(x)
    x += net.b(x)
    return net.end(net.c(x - y))


def in_place_of_a_view(net, x):
    x = net.a(x)
    y = x.flatten(2)
    x *= 2
    return net.last(net.names["pool"](x).flatten(2) + net.names["pool"](y.reshape(*y.shape[:2], 4, 6, 6)).flatten(2))


def in_place_of_the_input(net, x):
    x += 1
    return net.end(net.a(x))


REFUSED = {
    "a value": (lambda net, x: net.end(net.a(x) if len(x.dense()) else x), r"its forward pass takes .dense"),
    "a truth": (lambda net, x: net.end(net.a(x) if x else x), "takes __bool__ of a value, which a plan does not know"),
    "a length": (lambda net, x: net.end(net.a(x) if len(x) else x), "takes __len__ of a value"),
    "steps": (lambda net, x: net.end(net.a(x) if x.shape[0] > 1 else x), "computes with the number of steps"),
    "samples": (lambda net, x: net.end(net.a(x) if x.size(1) != 7 else x), "computes with the number of samples"),
    "a range": (lambda net, x: net.end([net.a(x) for _ in range(x.shape[0])][-1]), "the number of steps"),
    "a type": (lambda net, x: net.end(net.a(x) if isinstance(x, pk.Spikes) else net.b(net.a(x))), "type of a value"),
    "a function": (lambda net, x: net.end(net.a(torch.relu(dense(x)))), "asks for the type of a value"),
    "torch's": (lambda net, x: net.end(torch.clamp(net.a(x), 0, 1)), "calls torch's clamp; write it with a layer"),
    "a product": (lambda net, x: net.end(net.a(x) * net.b(net.c(x))), r"module c .* has 2$|channels, and its input"),
    "two values": (lambda net, x: net.end(net.neurons(net.b(net.a(x)) * (1.0 * x.flatten(2)))), "multiplies values by"),
    "a tensor": (lambda net, x: net.end(net.b(net.a(x) * net.gain)), "computes with a Tensor, which may change"),
    "a number": (lambda net, x: net.end(net.b(net.a(x) + 1)), "adds the number 1 to a value; give it .* as a bias"),
    "a quotient": (lambda net, x: net.end(net.b(net.a(x) / 0)), "divides by a value"),
    "shapes": (lambda net, x: net.end(net.a(x) + net.names["pool"](net.a(x))), "more than once in a step"),
    "other shapes": (lambda net, x: net.end(net.a(x) + x), r"adds values of the shapes .* \(4, 6, 6\) and \(2, 6, 6\)"),
    "steps in a row": (lambda net, x: net.end(net.a(torch.cat([x, x]))), "concatenates along dim=0"),
    "samples in a row": (lambda net, x: net.end(net.a(torch.cat([x, x], 1))), "concatenates along dim=1"),
    "mixed steps": (lambda net, x: net.end(net.a(x.flatten(0, 1))), "flattens steps or samples; flatten"),
    "mixed shapes": (lambda net, x: net.end(net.a(x).reshape(-1, 3, 144)), "reshapes to .* keep x.shape"),
    "a reshape that is no one": (lambda net, x: net.end(net.a(x).reshape(*x.shape[:2], 145)), "the number of values"),
    "a sum at the end": (lambda net, x: net.end(net.a(x)) * 2, "it gives a sum, and not what one layer gives"),
    "several values": (lambda net, x: (net.end(net.a(x)), x), "it gives several values"),
    "a constant": (lambda net, x: net.end(net.a(torch.ones(1, 1, 2, 6, 6))), "with nothing that comes from"),
    "a state": (lambda net, x: net.end(net.a(x, None)), r"module a .* called with more than its input"),
    "a setting": (sets, "keeps it in self"),
    "a number that is set": (sets_a_number, "sets self.steps"),
    "a random number": (draws, "its forward pass draws random numbers"),
    "a counter": (counts, "its forward pass writes to a parameter or a buffer"),
    "an error that it catches": (listens, "more than once in a step"),
    "a value in place": (in_place, r"writes to a value in place and uses it by another name; write x = x \+ y"),
    "a view in place": (in_place_of_a_view, "writes to a value in place"),
    "the input in place": (in_place_of_the_input, "adds the number 1|writes to its input in place"),
    "an index": (lambda net, x: net.end(net.a(x[..., 1:, 1:])), "takes __getitem__ of a value"),
    "a past": (lambda net, x: net.end(net.a(x.transpose(0, 1))), "takes .transpose of a value; write it with a layer"),
    "an exception": (lambda net, x: net.end(net.nowhere(x)), "raises AttributeError: .* 'nowhere'"),
    "a layer twice": (lambda net, x: net.end(net.b(net.b(net.a(x)))), r"module b .* it is called more than once"),
    "functions": (lambda net, x: net.end(pk.if_conv2d(x, net.a.weight, padding=1, v=0.0)[0]), "asks for the type of a"),
}  # fmt: skip


@pytest.mark.parametrize("forward, message", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_and_by_which_sentence(forward, message):
    """compile says it; simulate runs layer by layer, or says what is wrong there."""
    net = own(forward)
    net.register_buffer("gain", torch.ones(()))
    net.register_buffer("calls", torch.zeros(()))
    with pytest.raises(CannotFollowError, match=message) as refused:
        pk.compile(net, image())
    assert "proxykernels.simulate may" in str(refused.value)
    with torch.no_grad():
        results = []
        for run in (layerwise.simulate, pk.simulate):
            try:
                results.append(dense(run(net, image(), 9).spikes))
            except Exception as error:
                results.append(f"{type(error)} {error}")
    assert not is_planned(net)
    assert results[0] == results[1] if isinstance(results[0], str) else equal(*results)


KEEPS = {
    "a global": lambda net, y: SEEN.append(y),
    "a list": lambda net, y: net.parts.append(y),
    "a dict": lambda net, y: net.config.__dict__.update(last=y),
    "a tuple": lambda net, y: SEEN.append((1, y)),
    "a set": lambda net, y: net.kept.add(y),
}


@pytest.mark.parametrize("keep", KEEPS.values(), ids=KEEPS)
def test_values_that_are_kept_beyond_a_call(keep):
    """Are those of a run by layers."""

    def forward(net, x):
        y = net.a(x)
        keep(net, y)
        return net.end(y)

    gc.unfreeze()  # which would hide lists of before
    SEEN.clear()
    net = own(forward, parts=[], config=Config(True), kept=set())
    with pytest.raises(CannotFollowError, match="its forward pass keeps a value beyond the call"):
        pk.compile(net, image())
    SEEN.clear(), net.kept.clear()
    expected = layerwise.simulate(net, image(), 9)
    net.parts.clear(), SEEN.clear()
    assert equal(pk.simulate(net, image(), 9).spikes.dense(), expected.spikes.dense()) and not is_planned(net)
    found = [y for y in (*SEEN, *net.parts, vars(net.config).get("last")) if y is not None]
    assert all(isinstance(y, pk.Spikes) and y.rate() for y in found if type(y) is not tuple)


def test_shapes_may_be_kept():
    SEEN.clear()
    check(own(lambda net, x: SEEN.append(x.shape) or net.end(net.a(x))), image())
    assert SEEN


def test_hooks_and_replaced_forwards_are_refused():
    for change in (
        lambda net: net.b.register_forward_hook(lambda *given: None),
        lambda net: setattr(net.b, "forward", 3),
    ):
        net = network("chain")
        change(net)
        with pytest.raises(
            TypeError, match=r"module b \(FusedIFConv2d\): it has hooks|layer b .* a forward pass of its"
        ):
            pk.compile(net, image())
    net = network("chain")
    net.register_forward_hook(lambda *given: None)
    with pytest.raises(CannotFollowError, match=r"net \(Own\): it has hooks"):
        pk.compile(net, image())


def test_networks_are_freed_at_once():
    net = network("loop")
    check(net, image())
    gc.collect()
    gc.disable()
    try:
        part = weakref.ref(net)
        del net
        assert part() is None
    finally:
        gc.enable()


def test_threads_at_once():
    net, x = network("sums of sums"), image()
    expected, found = pk.simulate(network("sums of sums"), x, 9).count(), []
    threads = [threading.Thread(target=lambda: found.append(pk.simulate(net, x, 9).count())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and expected.any() and all(equal(count, expected) for count in found)


@pytest.mark.parametrize("window", [(2,), (3, 1, 1), ((2, 1), None, 0)])
def test_the_function_of_maxima(window):
    """Which takes Spikes only, as simulations have them."""
    net = own(lambda net, x: net.neurons(pk.max_pool2d(net.a(x), *window)))
    del net.last
    check(net, image())
    by_layers = own(lambda net, x: net.neurons(net.maxima(net.a(x))), maxima=pk.MaxPool2d(*window))
    del by_layers.last
    assert equal(pk.simulate(net, image(), 9).spikes, pk.simulate(by_layers, image(), 9).spikes)
    assert equal(net(inputs(9)["Spikes"]).dense(), pk.Network(net)(inputs(9)["Spikes"]).dense())
    with pytest.raises(TypeError, match="x must be Spikes, got Tensor"):
        pk.max_pool2d(torch.ones(9, 1, 1, 4, 4), 2)


@pytest.mark.parametrize("seed", range(12))
def test_random_forward_passes(seed):
    """Sums, products, layers and concatenations in any order."""
    generator = torch.Generator().manual_seed(seed)

    def chosen(of: int) -> int:
        return int(torch.randint(of, (), generator=generator))

    class Program(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.steps = nn.ModuleList([dyadic(pk.FusedIFConv2d(2, 4, 3, padding=1))]), []
            for k in range(6):
                kind = ("layer", "sum", "difference", "product", "wide", "neurons", "pool")[chosen(7)]
                self.steps.append((kind, len(self.layers), chosen(k + 1), chosen(k + 1), (0.5, 2.0, -1.0)[chosen(3)]))
                if kind == "neurons":
                    layer = pk.IF(v_threshold=0.5)
                elif kind == "pool":
                    layer = pk.AvgPool2d(3, 1, 1, divisor_override=8) if chosen(2) else pk.MaxPool2d(3, 1, 1)
                else:
                    layer = dyadic(pk.FusedIFConv2d(8 if kind == "wide" else 4, 4, 3, padding=1))
                self.layers.append(layer)
            self.layers.append(dyadic(pk.FusedIFConv2d(4, 8, 3)))

        def forward(self, x):
            values = [self.layers[0](x)]
            for kind, layer, a, b, factor in self.steps:
                x, y = values[a], values[b]
                if kind == "sum":
                    y = x + factor * y
                elif kind == "difference":
                    y = x - y
                elif kind == "product":
                    y = factor * x
                elif kind == "wide":
                    y = self.layers[layer](torch.cat([x, y], 2))
                else:
                    y = self.layers[layer](x)
                values.append(y)
            return self.layers[-1](sum(values))

    torch.manual_seed(seed)
    net = Program().eval()
    for x in inputs(9, 2).values():
        check(net, x)


@pytest.mark.parametrize("name", ["chain", "sums of sums", "a maximum of a sum", "side by side, scaled"])
def test_a_network_of_a_module_is_called_as_a_whole(name):
    """And layer by layer where a gradient is wanted, in training, and where a plan does not take it."""
    net = network(name)
    whole = pk.Network(net)
    assert not whole.training and dict(whole.named_parameters()).keys() == {
        f"net.{n}" for n, _ in net.named_parameters()
    }
    for kind, x in inputs(9).items():
        if kind == "image":
            continue
        expected, y = net(x), whole(x)
        assert is_planned(whole) and type(y) is type(x) and dense(expected).any()
        assert equal(dense(y), dense(expected))
    pk.use_surrogate(net, pk.ATan())
    y = whole(inputs(9)["values"])
    assert dense(y).requires_grad and equal(dense(y), dense(net(inputs(9)["values"])))


def test_a_network_of_a_sequence():
    torch.manual_seed(0)
    net = nn.Sequential(dyadic(pk.FusedIFConv2d(2, 4, 3)), pk.Flatten(), dyadic(pk.FusedIFLinear(64, 5))).eval()
    whole, x = pk.Network(net), inputs(9)["values"]
    assert equal(whole(x), net(x)) and net(x).any() and is_planned(whole)
    assert pk.simulate(whole, image(), 9).rates.keys() == {"net.0", "net.2"}
    assert pk.Network(net.train()).training and not len(pk.Network().layers())
    with pytest.raises(TypeError, match="net must be"):
        pk.Network([net])


def test_a_network_of_a_module_that_no_plan_takes():
    net = own(REFUSED["a type"][0])
    whole, x = pk.Network(net), inputs(9)["Spikes"]
    assert equal(whole(x).dense(), net(x).dense()) and net(x).count().any() and not is_planned(whole)
