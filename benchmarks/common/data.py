"""Fashion-MNIST from a folder, from Debian's package, or through torchvision's download.

The images that are shipped were written by this command, which writes them again:

    python -m common.data --make-sample
"""

import argparse
import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.command import command
from proxykernels import samples

SAMPLE = samples.FOLDER / "fashion-mnist"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CACHE = Path.home() / ".cache" / "proxykernels"
PREFIXES = {"train": "train", "test": "t10k"}
LARGEST = 60_000 * 28 * 28  # bytes of the training images
UNSIGNED_BYTE = 8  # the IDX code of the only element type that Fashion-MNIST uses


def fashion_mnist(split: str = "test", root: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """All images and labels of one split.

    Args:
        split: "train" (60,000 images) or "test" (10,000).
        root: folder with the four ``*-ubyte.gz`` files, or torchvision's data folder. Without it: Debian's
            package dataset-fashion-mnist if installed, else a download to ~/.cache/proxykernels.

    Returns:
        images float32 [N, 1, 28, 28] in 0..1, and labels int64 [N] in 0..9.
    """
    if split not in PREFIXES:
        raise ValueError(f"split must be one of {', '.join(PREFIXES)}, got {split!r}")
    images, labels = _file_names(split)
    folder = _default_folder() if root is None else _folder_with(Path(root), images)
    return _load(folder / images, folder / labels)


def shipped_images(count: int) -> tuple[Tensor, Tensor]:
    """The first images that are shipped, and their labels.

    Raises:
        ValueError: there are not as many.
    """
    if count > samples.SIZE:
        raise ValueError(f"--batch must be at most the {samples.SIZE} images that are shipped, got {count}")
    images, labels = samples.fashion_mnist()
    return images[:count], labels[:count]


def make_sample(root: str | Path | None = None, folder: Path = SAMPLE) -> None:
    """Write the first 256 test images and labels as two IDX files, byte for byte reproducible."""
    images, labels = fashion_mnist("test", root)
    pixels = (images[: samples.SIZE, 0] * 255).round().to(torch.uint8).numpy()
    names = _file_names("test")
    folder.mkdir(parents=True, exist_ok=True)
    _write_idx(folder / names[0], pixels)
    _write_idx(folder / names[1], labels[: samples.SIZE].to(torch.uint8).numpy())


def read_idx(path: Path) -> np.ndarray:
    """The unsigned bytes of one gzipped IDX file, in the shape that its header gives.

    torchvision's reader takes no gzipped files, and checks lengths with ``assert`` or not at all.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; put the original .gz file there")
    try:
        with gzip.open(path) as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:3] != bytes([0, 0, UNSIGNED_BYTE]):
                raise ValueError(_damaged(path, "not an IDX file of unsigned bytes"))
            lengths = file.read(4 * magic[3])  # big-endian, one a dimension
            shape = struct.unpack(f">{len(lengths) // 4}I", lengths[: len(lengths) // 4 * 4])
            size = math.prod(shape)
            if len(shape) < magic[3] or size > LARGEST:
                raise ValueError(_damaged(path, f"the shape {list(shape)} is not one of Fashion-MNIST's"))
            content = file.read(size + 1)  # and no more: a few compressed bytes may stand for gigabytes
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(_damaged(path, f"not a complete gzip file: {error}")) from error
    if len(content) != size:
        held = "more" if len(content) > size else str(len(content))
        raise ValueError(_damaged(path, f"{held} bytes do not hold the shape {list(shape)}"))
    return np.frombuffer(content, np.uint8).reshape(shape)


def _load(images_path: Path, labels_path: Path) -> tuple[Tensor, Tensor]:
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.shape[1:] != (28, 28):
        raise ValueError(_damaged(images_path, f"expected [N, 28, 28], got {images.shape}"))
    if labels.shape != images.shape[:1]:
        problem = f"expected {images.shape[0]} labels, got the shape {labels.shape}"
        raise ValueError(_damaged(labels_path, problem))
    if labels.max(initial=0) > 9:
        raise ValueError(_damaged(labels_path, f"a label is {labels.max()}, not in 0..9"))
    # A division by 255 in float32, as torchvision's ToTensor does it: the same pixels bit for bit.
    pixels = torch.from_numpy(images.copy()).unsqueeze(1).float() / 255
    return pixels, torch.from_numpy(labels.astype(np.int64))


def _damaged(path: Path, problem: str) -> str:
    return f"{path} is damaged ({problem}); remove it and fetch it again"


def _file_names(split: str) -> tuple[str, str]:
    prefix = PREFIXES[split]
    return f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"


def _folder_with(root: Path, file_name: str) -> Path:
    candidates = [root, root / "raw", root / "FashionMNIST" / "raw"]
    for folder in candidates:
        if (folder / file_name).is_file():
            return folder
    places = ", ".join(str(folder) for folder in candidates)
    raise FileNotFoundError(f"{file_name} is in none of {places}; give the folder that holds it")


def _default_folder() -> Path:
    return DEBIAN if DEBIAN.is_dir() else _download(CACHE)


def _download(cache: Path) -> Path:
    try:
        from torchvision.datasets import FashionMNIST

        FashionMNIST(cache, download=True)
    except (ImportError, OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"Fashion-MNIST could not be downloaded with torchvision ({error}). Two other ways: install "
            "Debian's package dataset-fashion-mnist, or give the folder that holds the .gz files from "
            "https://github.com/zalandoresearch/fashion-mnist"
        ) from error
    return cache / "FashionMNIST" / "raw"


def _write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, UNSIGNED_BYTE, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--make-sample", action="store_true", required=True)
    parser.add_argument("--root", help="folder of the original files (default: as fashion_mnist)")
    make_sample(parser.parse_args().data)
    print(f"wrote {SAMPLE}")


if __name__ == "__main__":
    command(main)
