"""Images seen by a moving event camera: three saccades along the sides of a triangle.

N-MNIST was recorded so, by a camera on a platform that moved before a screen: 34 x 34 pixels, three movements of 100 ms
each (Orchard, Jayawant, Cohen and Thakor, "Converting static image datasets to spiking neuromorphic datasets using
saccades", Frontiers in Neuroscience 9:437, 2015). Here the camera is a model, without noise: a pixel remembers the
logarithm of an intensity, and sends an event whenever the logarithm is a contrast threshold away from it, ON above and
OFF below; the events of a few milliseconds are a frame.
"""

import torch
from torch import Tensor

from .. import checks

SIZE = 34  # pixels of the sensor, along each side
LARGEST = 28  # pixels of an image that stays on the sensor
CORNERS = ((0, 0), (3, 6), (6, 0))  # x, y of the image's place on the sensor, in pixels; the path ends where it began
CONTRAST = 0.4  # threshold of the logarithm: an event for each 49 % more light, or 33 % less
DARK = 0.1  # intensity of what is black; white is 1 + DARK
POSITIONS = 4  # of the camera that are looked at in each frame
BATCH = 1000  # images at a time


def saccade_frames(images: Tensor, T: int = 15) -> Tensor:
    """The events of a camera that moves before each image, in T frames.

    Args:
        images: intensities from 0 to 1, [N, 1, H, W] with H, W at most 28.
        T: frames of all three saccades together.

    Returns:
        Numbers of events, uint8 [N, T, 2, 34, 34]; channel 0 is OFF, 1 is ON, as in tonic's frames of N-MNIST.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or value.
    """
    checks.floating("images", images)
    if images.ndim != 4 or images.shape[1] != 1 or max(images.shape[2:]) > LARGEST:
        raise ValueError(
            f"images must have the shape [N, 1, H, W] with H and W at most {LARGEST}, got {list(images.shape)}"
        )
    if images.numel() and not 0 <= images.min() <= images.max() <= 1:
        raise ValueError(f"images must lie from 0 to 1, got {images.min():g} to {images.max():g}")
    T = checks.steps(T)
    return torch.cat([_record(batch, T) for batch in images.split(BATCH)])


def place(time: float) -> tuple[float, float]:
    """Where the image's upper left corner is on the sensor, x and y in pixels, at a time from 0 to 1."""
    side, along = divmod(3 * time, 1)
    (x, y), (next_x, next_y) = CORNERS[int(side) % 3], CORNERS[(int(side) + 1) % 3]
    return x + along * (next_x - x), y + along * (next_y - y)


def _record(images: Tensor, T: int) -> Tensor:
    frames = torch.zeros(len(images), T, 2, SIZE, SIZE, dtype=torch.uint8, device="cpu")
    remembered = _seen(images, *place(0))
    for step in range(1, T * POSITIONS + 1):
        light = _seen(images, *place(step / (T * POSITIONS)))
        events = ((light - remembered) / CONTRAST * (1 + 1e-4)).trunc()  # of a whole number, in spite of rounding
        remembered += events * CONTRAST
        frame = frames[:, (step - 1) // POSITIONS]
        frame[:, 0] += (-events).clamp(min=0).to(torch.uint8)
        frame[:, 1] += events.clamp(min=0).to(torch.uint8)
    return frames


def _seen(images: Tensor, x: float, y: float) -> Tensor:
    """The logarithm of the light on each pixel [N, 34, 34], the image being at (x, y): between pixels it is mixed."""
    light = torch.full((len(images), SIZE, SIZE), DARK, dtype=torch.float32, device="cpu")
    height, width = images.shape[2:]
    left, top = min(int(x), SIZE - width - 1), min(int(y), SIZE - height - 1)
    for column, part_x in ((left, left + 1 - x), (left + 1, x - left)):
        for row, part_y in ((top, top + 1 - y), (top + 1, y - top)):
            light[:, row : row + height, column : column + width] += images[:, 0] * (part_x * part_y)
    return light.log_()
