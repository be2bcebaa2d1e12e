"""Frames of video files, as networks take them."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from common import photographs
from torch import Tensor

NOISE = 1 / 255  # deviation of a sensor's


class Clip(NamedTuple):
    """Frames [F, 3, pixels, pixels] within 0 .. 1, and what they are of."""

    name: str
    kind: str
    frames: Tensor


def clips(path: Path, count: int, pixels: int) -> Iterator[Clip]:
    """A video as it is; its first frame, still; and that with noise.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is no video, or too short.
    """
    frames = read(path, count, pixels)
    yield Clip(path.name, "as it is", frames)
    still = frames[:1].expand_as(frames).contiguous()
    yield Clip(path.name, "first frame, still", still)
    noise = NOISE * torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    yield Clip(path.name, "first frame, noise of 1/255", (still + noise).clamp(0, 1))


def read(path: Path, count: int, pixels: int) -> Tensor:
    """The first frames of a video, cut to their middle square."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise ValueError(f"videos are read by PyAV ({error}): pip install av") from error
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give a video")
    found = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                image = torch.from_numpy(frame.to_ndarray(format="rgb24"))
                found.append(photographs.square(image, pixels))
                if len(found) == count:
                    break
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"{path} is no video that PyAV reads ({error})") from error
    if len(found) < count:
        raise ValueError(f"{path} has {len(found)} frames; give --frames {len(found)} or fewer")
    return torch.cat(found)
