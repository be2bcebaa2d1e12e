"""One pass of a ReLU network, as fast as it is to be had: torch, and OpenVINO in float32, bfloat16 and int8."""

import copy
import os
from collections.abc import Callable
from functools import cached_property
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from speed.rivals import NotOffered

Logits = Callable[[Tensor], Tensor]  # images [N, C, H, W] to [N, classes]

# OpenVINO's names of what is computed in. Without the hint int8 networks compute in bfloat16 what is not int8.
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
NAMES = ("torch", *(f"OpenVINO {precision}" for precision in PRECISIONS))
CALIBRATION = 300  # images, nncf's own default
UNREPORTED = patch.dict(os.environ, {"CI": "true"})  # elsewhere OpenVINO's converter and nncf send reports of their use


class Passes:
    """The compiled passes of one network. What batches of all sizes share is made once.

    Args:
        images: [N, C, H, W], by which int8 is calibrated.
    """

    def __init__(self, net: nn.Module, images: Tensor):
        self.net, self.images = net.eval(), images[:CALIBRATION]

    def of(self, name: str, batch: int | None = None) -> Logits:
        """The pass called ``name``, for batches of ``batch`` images; None: of any number, which may take longer.

        Raises:
            NotOffered: this processor does not compute in bfloat16.
        """
        if name == NAMES[0]:
            return self._torch
        return self._openvino(name.removeprefix("OpenVINO "), batch)

    @cached_property
    def _torch(self) -> Logits:
        """Channels last: as fast as contiguous images or faster on the networks here."""
        net = copy.deepcopy(self.net).to(memory_format=torch.channels_last)

        @torch.inference_mode()
        def run(images: Tensor) -> Tensor:
            return net(images.contiguous(memory_format=torch.channels_last))

        return run

    def _openvino(self, precision: str, batch: int | None) -> Logits:
        """One stream of torch's number of threads."""
        import openvino

        core = openvino.Core()
        if precision == "bfloat16" and os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() == "AVX2":
            raise NotOffered("a processor with AVX2 alone has no instructions for bfloat16")
        if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise NotOffered("this processor has no instructions for bfloat16")
        model = self._int8 if precision == "int8" else self._float32
        if batch is not None:
            model = model.clone()
            model.reshape([batch, *self.images.shape[1:]])
        settings = {
            "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        }  # fmt: skip
        request = core.compile_model(model, "CPU", settings).create_infer_request()

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(request.infer(images.numpy(), share_inputs=True)[0])

        return run

    @cached_property
    def _float32(self) -> Any:
        import openvino

        some = self.images[:1]
        with UNREPORTED:
            return openvino.convert_model(self.net, example_input=some, input=[-1, *some.shape[1:]])

    @cached_property
    def _int8(self) -> Any:
        model, images = self._float32, self.images.split(1)
        with UNREPORTED:
            import nncf

            nncf.set_log_level("ERROR")
            return nncf.quantize(model, nncf.Dataset(images, lambda x: x.numpy()), subset_size=len(images))
