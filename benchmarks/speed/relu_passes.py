"""One pass of a ReLU network, as fast as it is to be had: torch, eager and compiled, OpenVINO and ONNX Runtime."""

import copy
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from speed.rivals import NotOffered

Logits = Callable[[Tensor], Tensor]  # images [N, C, H, W] to [N, classes]

# OpenVINO's names of what is computed in. Without the hint int8 networks compute in bfloat16 what is not int8.
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
TORCH, COMPILED, OPENVINO, ONNX = "torch", "torch.compile", "OpenVINO", "ONNX Runtime"
NAMES = (
    TORCH, COMPILED, *(f"{OPENVINO} {precision}" for precision in PRECISIONS), f"{ONNX} float32", f"{ONNX} int8",
)  # fmt: skip
CALIBRATION = 300  # images, nncf's own default
AT_ONCE = 32  # images that the compiled network takes where batches may have any size
UNREPORTED = patch.dict(os.environ, {"CI": "true"})  # elsewhere OpenVINO's converter and nncf send reports of their use
BEYOND = {"AVX2": "avx512f", "AVX512_CORE_BF16": "amx_tile"}  # by ONEDNN_MAX_CPU_ISA, what a limited processor lacks


def parts_of(name: str) -> tuple[str, str]:
    """What runs the pass of that name, and what it computes in."""
    by, _, precision = name.rpartition(" ")
    return (by, precision) if precision in PRECISIONS else (name, "float32")


class Passes:
    """The compiled passes of one network. What batches of all sizes share is made once.

    Args:
        images: [N, C, H, W], by which int8 is calibrated.
    """

    any_batch = False

    def __init__(self, net: nn.Module, images: Tensor):
        self.net, self.images = net.eval(), images[:CALIBRATION]

    def of(self, name: str, batch: int | None = None) -> Logits:
        """The pass called ``name``, for batches of ``batch`` images; None: of any number, which may take longer.

        Raises:
            NotOffered: this processor does not compute in bfloat16; a package is not installed or does not work here.
        """
        by, precision = parts_of(name)
        if by == TORCH:
            return self._torch
        if by == COMPILED:
            return self._compiled
        return self._openvino(precision, batch) if by == OPENVINO else self._onnxruntime(precision)

    @cached_property
    def _torch(self) -> Logits:
        """Channels last: as fast as contiguous images or faster on the networks here."""
        net = copy.deepcopy(self.net).to(memory_format=torch.channels_last)

        @torch.inference_mode()
        def run(images: Tensor) -> Tensor:
            return net(images.contiguous(memory_format=torch.channels_last))

        return run

    @cached_property
    def _compiled(self) -> Logits:
        """The same network by torch.compile, weights frozen; a first call with batches of another size compiles."""
        net = copy.deepcopy(self.net).to(memory_format=torch.channels_last)
        compiled = torch.compile(net, dynamic=False, options={"freezing": True})

        @torch.inference_mode()
        def run(images: Tensor) -> Tensor:
            return compiled(images.contiguous(memory_format=torch.channels_last))

        def of_any_number(images: Tensor) -> Tensor:
            if len(images) <= AT_ONCE:
                return run(images)
            count = -len(images) % AT_ONCE
            filled = torch.cat([images, images[-1:].expand(count, *images.shape[1:])])
            return torch.cat([run(part) for part in filled.split(AT_ONCE)])[: len(images)]

        try:
            run(self.images[:1])
        except Exception as error:  # no compiler, ...: the others run all the same
            first_line = str(error).partition("\n")[0]
            raise NotOffered(f"does not work here: {type(error).__name__}: {first_line}") from error
        return of_any_number

    def _onnxruntime(self, precision: str) -> Logits:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise NotOffered(f"absent ({error}); to compare with it: pip install onnxruntime onnx") from error
        lacks = BEYOND.get(os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper())
        if lacks and re.search(rf"\b{lacks}\b", Path("/proc/cpuinfo").read_text()):
            raise NotOffered("it uses all instructions of a processor, and cannot be limited")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.log_severity_level = 3  # errors
        model = self._onnx_int8 if precision == "int8" else self._onnx
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

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

    @cached_property
    def _onnx(self) -> bytes:
        """The network in ONNX, for batches of any size."""
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter without onnxscript is called old
            path = Path(folder) / "net.onnx"
            names: dict[str, Any] = {"input_names": ["images"], "dynamic_axes": {"images": {0: "N"}}}
            torch.onnx.export(self.net, (self.images[:1],), path, dynamo=False, **names)
            return path.read_bytes()

    @cached_property
    def _onnx_int8(self) -> bytes:
        """Weights of 8 bits with a scale an output channel; activations of 8 bits, scaled by the same images."""
        from onnxruntime.quantization import CalibrationDataReader, quantize_static

        batches = iter([{"images": image.numpy()} for image in self.images.split(1)])

        class Reader(CalibrationDataReader):
            def get_next(self):
                return next(batches, None)

        logging.getLogger().setLevel(logging.ERROR)  # it recommends a step that changes nothing here
        with tempfile.TemporaryDirectory() as folder:
            before, after = Path(folder) / "net.onnx", Path(folder) / "int8.onnx"
            before.write_bytes(self._onnx)
            quantize_static(before, after, Reader(), per_channel=True)
            return after.read_bytes()
