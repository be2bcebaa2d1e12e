"""One pass of a ReLU network, as fast as it is to be had: torch, and OpenVINO in float32 and int8."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from speed.rivals import NotOffered

Logits = Callable[[Tensor], Tensor]  # images [N, C, H, W] to [N, classes]

NAMES = ("torch", "OpenVINO float32", "OpenVINO int8")
CALIBRATION = 300  # images, nncf's own default


def build(name: str, net: nn.Module, images: Tensor, batch: int) -> Logits:
    """The pass called ``name`` of batches of so many images.

    Args:
        images: [N, C, H, W], by which int8 is calibrated.

    Raises:
        NotOffered: OpenVINO or nncf is not installed.
    """
    if name == NAMES[0]:
        return _torch(net)
    try:
        return _openvino(net, images, batch, int8=name == NAMES[2])
    except ModuleNotFoundError as error:
        raise NotOffered(f"absent ({error}); to compare with it: pip install openvino nncf") from error


def _torch(net: nn.Module) -> Logits:
    """Channels last: as fast as contiguous images or faster on the networks here."""

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        return net(images.contiguous(memory_format=torch.channels_last))

    return run


def _openvino(net: nn.Module, images: Tensor, batch: int, int8: bool) -> Logits:
    """One stream of torch's number of threads. Without the hint int8 networks compute in bfloat16 what is not int8."""
    import openvino

    shape = batch, *images.shape[1:]
    model = openvino.convert_model(net, example_input=torch.zeros(shape), input=shape)
    if int8:
        import nncf

        batches = images[: CALIBRATION // batch * batch].split(batch)
        nncf.set_log_level("ERROR")
        model = nncf.quantize(model, nncf.Dataset(batches, lambda x: x.numpy()), subset_size=len(batches))
    settings = {
        "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
    }  # fmt: skip
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(request.infer(images.numpy(), share_inputs=True)[0])

    return run
