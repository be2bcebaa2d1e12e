"""How many networks of other libraries are taken over here, and why the others are refused.

    python benchmarks/research/coverage.py
    python benchmarks/research/coverage.py --only spikingjelly,snntorch

- torchvision's classification zoo, one or two sizes of each family, by pk.convert with graded and with IF neurons;
- all of SpikingJelly's neurons, the networks of PLIF's paper, and snnTorch's neurons with each reset;
- forward passes as people write them, such as sums of groups of neurons;
- the networks of supported_models.py, the larger zoos among them.

All have random weights, and inputs are small. Prints a line for each that is refused, and the numbers.
supported_models.py says how accurate those are that are taken.
"""

import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, which has common/ and speed/

from common.command import command
from common.printed import new_parser

Attempt = tuple[str, Callable[[], object]]  # a network's name, and what takes it over
TORCHVISION = """
    alexnet densenet121 densenet169 efficientnet_b0 efficientnet_b1 efficientnet_v2_s googlenet inception_v3 maxvit_t
    mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_400mf
    regnet_x_800mf regnet_x_1_6gf regnet_y_400mf regnet_y_800mf regnet_y_1_6gf resnet18 resnet34 resnet50
    resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0
    squeezenet1_1 swin_t swin_v2_t vgg11 vgg11_bn vit_b_32 wide_resnet50_2 convnext_tiny convnext_small
"""
OF_DVS = {"NMNISTNet": (2, 34, 34), "CIFAR10DVSNet": (2, 128, 128), "DVSGestureNet": (2, 128, 128)}
OF_ONE_CHANNEL = {"MNISTNet": (1, 28, 28), "FashionMNISTNet": (1, 28, 28)}


def torchvision_nets(neuron: str) -> Iterator[Attempt]:
    import torch
    from torchvision import models

    import proxykernels as pk

    kind = pk.neurons.Graded(threshold=0.0) if neuron == "graded" else neuron
    for name in TORCHVISION.split():
        size = 224 if name.startswith(("vit", "maxvit")) else 96 if name.startswith("inception") else 64
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}

        def take(name: str = name, size: int = size, options: dict = options) -> object:
            torch.manual_seed(0)
            net = models.get_model(name, weights=None, **options).eval()
            return pk.convert(net, torch.rand(4, 3, size, size), neuron=kind)

        yield name, take


def of_spikingjelly() -> Iterator[Attempt]:
    import torch
    from spikingjelly.activation_based import functional, layer, neuron
    from spikingjelly.activation_based.model import parametric_lif_net
    from torch import nn

    import proxykernels as pk

    def port(net: nn.Module, *shape: int) -> object:
        functional.set_step_mode(net, "m")
        return pk.from_spikingjelly(net.eval(), torch.rand(2, *shape))

    for kind, shape in {**OF_DVS, **OF_ONE_CHANNEL, "CIFAR10Net": (3, 32, 32)}.items():
        made = getattr(parametric_lif_net, kind)
        yield kind, lambda made=made, shape=shape: port(made(channels=8, spiking_neuron=neuron.IFNode), *shape)

    def arguments(kind: str) -> dict:
        table = (
            neuron.FewSpikeTable([1.0, 0.5], [1.0, 0.5], [1.0, 0.5]) if kind.startswith(("Few", "HG", "Out")) else None
        )
        return {
            "PSN": {"T": 4},
            "MaskedPSN": {"T": 4, "k": 2, "lambda_init": 1.0},  # as after its training
            "SlidingPSN": {"k": 2},
            "GatedLIFNode": {"T": 4},
            "LIAFNode": {"act": torch.relu, "threshold_related": False},
            "FewSpikeNode": {"table": table},
            "HGNode": {"tables": [table, table], "gate_thresholds": [0.5]},
            "OutlierAwareThresholdNode": {"table": table, "outlier_table": table, "split_threshold": 1.0},
            "STBIFNode": {"q_threshold": 1.0, "level": 4},
            "MPBNLIFNode": {"out_features": 30},
            "NoisyNonSpikingIFNode": {"num_node": 10},
            **{f"ILC{name}Node": {"act_dim": 3, "dec_pop_dim": 10} for name in ("IF", "LIF", "CUBALIF")},
            "NoisyCUBALIFNode": {"num_node": 30},
            "NoisyILCCUBALIFNode": {"act_dim": 3, "dec_pop_dim": 10},
        }.get(kind, {})

    nodes = [name for name, value in vars(neuron).items() if isinstance(value, type) and name.endswith(("Node", "PSN"))]
    for kind in nodes:
        if "Base" in kind or kind.startswith("Simple"):
            continue  # from which others are derived

        def of_neurons(kind: str = kind) -> object:
            made = getattr(neuron, kind)(**arguments(kind))
            if kind.startswith("NonSpiking"):  # readouts
                return port(nn.Sequential(layer.Linear(20, 30), neuron.IFNode(), layer.Linear(30, 10), made), 20)
            if kind == "GatedLIFNode":  # which takes images only
                return port(nn.Sequential(layer.Conv2d(2, 4, 3), made, layer.Flatten(), layer.Linear(144, 10)), 2, 8, 8)
            if kind.startswith(("OTTT", "LIAF")):  # which run a step at a time, LIAF in full only so
                net = nn.Sequential(nn.Linear(20, 30), made, nn.Linear(30, 10), neuron.IFNode())
                return pk.from_spikingjelly(net.eval(), torch.rand(2, 20))
            return port(nn.Sequential(layer.Linear(20, 30), made, layer.Linear(30, 10), neuron.IFNode()), 20)

        yield f"neurons: {kind}", of_neurons


def of_snntorch() -> Iterator[Attempt]:
    import snntorch
    from torch import nn

    import proxykernels as pk

    decays = {"Leaky": {"beta": 0.9}, "Lapicque": {"beta": 0.9}, "Synaptic": {"alpha": 0.8, "beta": 0.9}}
    decays |= {"Alpha": {"alpha": 0.9, "beta": 0.8}, "RLeaky": {"beta": 0.9}, "RSynaptic": {"alpha": 0.8, "beta": 0.9}}
    for kind, options in decays.items():
        for reset in ("zero", "subtract", "none"):
            for delay in (True, False) if kind not in ("Alpha", "Lapicque", "RSynaptic") else (True,):  # as they run

                def take(kind=kind, options=options, reset=reset, delay=delay) -> object:
                    more = {} if delay else {"reset_delay": False}
                    more |= {"linear_features": 30} if kind[0] == "R" else {}
                    made = getattr(snntorch, kind)(**options, reset_mechanism=reset, init_hidden=True, **more)
                    last = snntorch.Leaky(0.9, init_hidden=True)
                    return pk.from_snntorch(nn.Sequential(nn.Linear(20, 30), made, nn.Linear(30, 10), last))

                yield f"{kind}, {reset}{'' if delay else ', at once'}", take


def of_written_passes() -> Iterator[Attempt]:
    from zoo.written_passes import written_passes

    import proxykernels as pk

    for name, make in written_passes().items():
        yield name, lambda make=make: pk.from_snntorch(make())


def of_supported_models() -> Iterator[Attempt]:
    from zoo import models_table, relu_nets, spiking_nets

    import proxykernels as pk

    for net in relu_nets.ALL:
        if net.source == "torchvision":
            continue  # which are taken above

        def take(net=net) -> object:
            ann, calibration, _ = models_table.prepared(net)
            return pk.convert(ann, calibration[:4])

        yield net.name, take
    for spiking in spiking_nets.spiking_nets():

        def port(spiking=spiking) -> object:
            x = spiking.inputs()
            return spiking.port(spiking.make(), x[0] if x.ndim == 5 else x)  # a sample is one step of frames

        yield spiking.name, port


SETS: dict[str, Callable[[], Iterator[Attempt]]] = {
    "torchvision, graded": lambda: torchvision_nets("graded"),
    "torchvision, IF": lambda: torchvision_nets("if"),
    "spikingjelly": of_spikingjelly,
    "snntorch": of_snntorch,
    "written passes": of_written_passes,
    "supported_models": of_supported_models,
}


def reason(error: Exception) -> str:
    """What an error says, without the names of modules."""
    text = re.sub(r"^[\w ]+: ", "", str(error).split("\n")[0])
    return re.sub(r"(module )?'[^']*'", "a module", text)[:100]


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--only", help=f"sets of {', '.join(SETS)}, of which one of these words is a part")
    options = parser.parse_args(arguments)
    words = (options.only or "").split(",")
    for name, attempts in SETS.items():
        if not any(word in name for word in words):
            continue
        taken, refused = 0, Counter[str]()
        for network, take in attempts():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    take()
                taken += 1
            except Exception as error:  # whatever is said of a network, or of one that its library cannot make
                refused[reason(error)] += 1
                print(f"  {network}: {type(error).__name__}: {reason(error)}", flush=True)
        print(f"{name}: {taken} taken, {sum(refused.values())} refused", flush=True)


if __name__ == "__main__":
    command(main)
