"""Which models that people have become spiking networks here, and how near those come: one table.

    python benchmarks/research/supported_models.py
    python benchmarks/research/supported_models.py --nets resnet18,mobilenet_v2

torchvision's classification zoo, nets of tutorials and other tasks, and the zoos and tutorials of SpikingJelly and
snnTorch, all with random weights and small real inputs; their normalisations have seen such inputs. For each:

- whether pk.convert, pk.from_spikingjelly or pk.from_snntorch takes it, and the reason where not;
- of ReLU networks, how far the spiking network's logits are from the ReLU network's outputs after T = 64 and 1024
  steps: the norm of the difference over the norm of the outputs, with pk.convert's defaults; "far off" where it is
  translated and more than a tenth remains;
- of spiking networks, which share of all neurons' spikes differs from the library's own run over 16 steps.

Writes supported_models.csv, where rows of networks that are not run stay, and with --page the table of docs/models.md.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, which has common/ and speed/

from common import names
from common.command import command, work
from common.printed import add_out, new_parser, some_of


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    text = "names of the table, with hyphens for all but letters, digits and dots: U-Net-bilinear; default: all"
    parser.add_argument("--nets", type=nets, help=text)
    longest = names.ZOO_STEPS[-1]
    parser.add_argument("--longest", type=int, choices=names.ZOO_STEPS, default=longest, help="steps of ReLU networks")
    add_out(parser, "the tables")
    parser.add_argument("--page", type=Path, help="also write the table into this page: docs/models.md")
    work("zoo.models_table", parser.parse_args(arguments))


def nets(text: str) -> list[str]:
    """The type of --nets."""
    from zoo import relu_nets, spiking_nets  # which import torch and the zoos

    return some_of([net.name for net in (*relu_nets.ALL, *spiking_nets.spiking_nets())])(text)


if __name__ == "__main__":
    command(main)
