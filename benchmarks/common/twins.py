"""A weights file as both networks: the spiking one, and the ReLU network that shares its weights."""

from pathlib import Path

import proxykernels as pk
from common import nets, weights_file


def load(path: Path, make=None) -> tuple[pk.ProxyNet, bool, dict[str, str]]:
    """Both networks of a file in evaluation mode, whether the file holds all that the ReLU twin needs, and metadata.

    Arguments and errors: as of nets.load_file.
    """
    net, about = nets.load_file(path, make)
    told = weights_file.values(path, about, "T")
    clip, statistics = about.get("twin", "clipped") == "clipped", about.get("statistics", "steps")
    model = pk.ProxyNet(net, told["T"], clip=clip, readout="rate", statistics_of=statistics)
    tensors, _ = weights_file.read(path)
    state = {key.removeprefix(nets.TWIN): tensor for key, tensor in tensors.items() if key.startswith(nets.TWIN)}
    whole = state.keys() == model.statistics.state_dict().keys()
    if whole:
        try:
            model.statistics.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{path} is of another network: {str(error).splitlines()[1].strip()}") from error
    return model.eval(), whole, about
