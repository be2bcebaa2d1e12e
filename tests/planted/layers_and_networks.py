"""Defects of what stands above the kernels: layers, simulation, training, conversion."""

from planted.defect import Defect

STATEFUL_LAYER = "proxykernels/running/stateful_layer.py"
SNAPSHOT = "proxykernels/running/kept_plans.py"
KEPT_PLANS_TESTS = "tests/running/test_kept_plans.py"
FOLLOWED_FORWARDS_TESTS = "tests/running/test_followed_forwards.py"
SYNAPSES = "proxykernels/layers/synapses.py"
SYNAPSES_TESTS = "tests/layers/test_synapses.py"
TWIN = "proxykernels/training/twin.py"
PROXY_MODES_TESTS = "tests/training/test_proxy_modes.py"
VIEWED_GRAPH = "proxykernels/conversion/relu/viewed_graph.py"
CONVERT_TESTS = "tests/conversion/relu/test_convert.py"

DEFECTS = {
    "unfused: chunks": Defect(
        "kernels/unfused.py",
        "spikes, v = backend.if_scan(current, v, neuron)",
        "spikes, _ = backend.if_scan(current, v, neuron)",
        "tests/layers/test_layers.py tests/running/test_simulate.py tests/calls/test_ops.py",
    ),
    "weight cache: stale": Defect(
        "kernels/weight_cache.py", "known[key][0] != ", "False and known[key][0] != ", "tests/cpu"
    ),
    "simulation: samples in order": Defect(
        STATEFUL_LAYER, "torch.cat(indices).argsort()", "torch.cat(indices)", "tests/running/test_anytime.py"
    ),
    "functional: the state": Defect(
        "proxykernels/spikes/storage.py", "(v.float(),", "(v.float().relu(),", "tests/cpu/test_exactness.py"
    ),
    "layers: folding": Defect(
        "proxykernels/layers/normalisation.py",
        "- mean.double()) * scale",
        "- mean.double())",
        "tests/layers/test_layers.py tests/running/test_simulate.py",
    ),
    "layers: neurons of before a change": Defect(
        "proxykernels/layers/attributes.py", 'self.__dict__.pop("_made", None)', "pass", "tests/calls/test_hops.py"
    ),
    "plans: tensors that are read in another order": Defect(
        SNAPSHOT, "Tensor.data_ptr, Tensor.stride, attrgetter", "Tensor.data_ptr, attrgetter", KEPT_PLANS_TESTS
    ),
    "plans: modules in another order": Defect(
        SNAPSHOT,
        "or [*map(tuple, dicts)] != self._keys",
        "or [*map(len, dicts)] != [*map(len, self._keys)]",
        KEPT_PLANS_TESTS,
    ),
    "plans: the end of a tensor is not hashed": Defect(
        "proxykernels/plan/library.py",
        "min(PIECE, size - at)) for start",
        "min(PIECE, size - at - 4)) for start",
        KEPT_PLANS_TESTS,
    ),
    "plans: forward passes of a former call": Defect(
        "proxykernels/running/kept_plans.py",
        "or found[0] != weights or not alike:",
        "or found[0] != weights:",
        FOLLOWED_FORWARDS_TESTS,
    ),
    "plans: attributes that only a forward pass reads": Defect(
        SNAPSHOT, "(self._follow(thing) or self._all)", "self._follow(thing)", FOLLOWED_FORWARDS_TESTS
    ),
    "plans: factors of a sum": Defect(
        "proxykernels/plan/followed_values.py",
        "((value, alpha * factor) for value, factor in parts_of(other))",
        "((value, factor) for value, factor in parts_of(other))",
        FOLLOWED_FORWARDS_TESTS,
    ),
    "synapses: paddings swapped": Defect(
        SYNAPSES, "((0, *padding[2:]), (1, *padding[:2]))", "((0, *padding[:2]), (1, *padding[2:]))", SYNAPSES_TESTS
    ),
    "synapses: the tap of a dilation": Defect(
        SYNAPSES,
        "torch.arange(kernel, device=heap.CPU) * dilation",
        "torch.arange(kernel, device=heap.CPU)",
        SYNAPSES_TESTS,
    ),
    "simulation: a chunk's start": Defect(
        STATEFUL_LAYER,
        "[start : start + len(x)]",
        "[0 : len(x)]",
        "tests/running/test_simulate.py tests/running/test_anytime.py",
    ),
    "training: clipping": Defect(
        TWIN,
        "F.hardtanh(current, 0.0, theta)",
        "F.relu(current)",
        "tests/training/test_proxy.py tests/training/test_proxy_modes.py",
    ),
    "training: outputs below zero": Defect(
        TWIN, "gradient.clamp(max=0), gradient", "0, gradient", "tests/training/test_proxy.py"
    ),
    "training: a silent layer's passes": Defect(
        TWIN,
        "self._silent[name] + 1 for name in silent",
        "1 for name in silent",
        PROXY_MODES_TESTS,
    ),
    "training: unknown neurons": Defect(
        TWIN, "type(neuron) not in KNOWN", "not isinstance(neuron, KNOWN)", PROXY_MODES_TESTS
    ),
    "conversion: a shift beside padding": Defect(
        VIEWED_GRAPH, "not pads or not affine.shift.any()", "True", CONVERT_TESTS
    ),
    "conversion: a maximum of negative factors": Defect(
        VIEWED_GRAPH, "(affine.factor >= 0).all()", "(affine.factor >= 0).any()", CONVERT_TESTS
    ),
    "conversion: pooling of rates": Defect(
        "proxykernels/conversion/graph/fx_graph.py",
        "rewrites.MAX_RATE_POOLS if x.binary else rewrites.RUNNING_MAX_POOLS",
        "rewrites.MAX_POOLS if x.binary else rewrites.RUNNING_MAX_POOLS",
        CONVERT_TESTS,
    ),
    "conversion: shuffled channels": Defect(
        VIEWED_GRAPH,
        "layers.Channels(channels)",
        "layers.Channels(channels.sort().values)",
        "tests/conversion/relu/test_convert_graphs.py",
    ),
    "conversion: potentials of a loop": Defect(
        "proxykernels/conversion/libraries/time_loops.py",
        "part == (operator.getitem, (before, k))",
        "part is not None",
        "tests/conversion/libraries/test_public_code.py",
    ),
    "events: a time that a float rounds to the next step": Defect(
        "kernels/cpu/src/camera_events.h",
        "step + (rest >= denominator) - (rest < 0)",
        "step + (rest >= denominator)",
        "tests/spikes/test_engine_events.py",
    ),
}
