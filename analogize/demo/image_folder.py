"""A folder of images, decoded once into one uint8 tensor and kept beside it.

    root/train/<class>/<image>      root/test/<class>/<image>   (or root/val/...)

The cache file's name is a digest of every image's path, size and time of change and of how the
images were read, so a changed folder is decoded anew and a stale cache is never used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from analogize.errors import EvaluationError

Samples = list[tuple[str, int]]


def read_folder(
    root: Path,
    train: bool,
    *,
    limit: int | None = None,
    image_size: int | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Read one split of an image folder.

    Args:
        root: The folder that holds ``train`` and ``test`` (or ``val``).
        train: Whether to read the training split.
        limit: Read at most so many images, spread evenly over the sorted split.
        image_size: Resize the shorter side to 256 / 224 of this and crop the centre, as
            torchvision's pretrained models were evaluated; None needs images of one size.
        cache: Folder for the decoded images; by default ``root``, if it can be written to.

    Returns:
        RGB images, uint8 (N, 3, H, W); class indices, int64 (N,); class names, sorted.

    Raises:
        EvaluationError: Folders are missing or empty, an image cannot be read, or sizes differ.
    """
    samples, classes = _list_samples(_split_folder(root, train), limit)
    kept_at = Path(cache) if cache is not None else root
    kept = kept_at / f"{'train' if train else 'test'}-{_digest(root, samples, image_size)}.pt"
    images = _load_cache(kept, len(samples))
    if images is None:
        images = _decode(samples, image_size)
        _store_cache(images, kept, asked_for=cache is not None)
    return images, torch.tensor([label for _, label in samples]), classes


def spread(count: int, limit: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """``limit`` indices spread evenly over ``range(count)``.

    Args:
        count: Number of samples.
        limit: Number to keep, 1 to ``count``.

    Returns:
        Ascending, distinct indices, int64 (limit,).

    Raises:
        EvaluationError: ``limit`` is below 1.
    """
    if limit < 1:
        raise EvaluationError(f"limit is {limit}; it must be at least 1")
    return np.arange(limit, dtype=np.int64) * count // limit


def _split_folder(root: Path, train: bool) -> Path:
    names = ("train",) if train else ("test", "val")
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise EvaluationError(
        f"{root} has no folder {' or '.join(names)}: an image folder holds train/<class>/<image> "
        "and test/<class>/<image>"
    )


def _list_samples(folder: Path, limit: int | None) -> tuple[Samples, tuple[str, ...]]:
    from torchvision.datasets import ImageFolder

    try:
        listed = ImageFolder(str(folder))
    except FileNotFoundError as cause:
        raise EvaluationError(f"no images to read below {folder}: {cause}") from cause
    samples: Samples = listed.samples
    if limit is not None and limit < len(samples):
        samples = [samples[i] for i in spread(len(samples), limit)]
    return samples, tuple(listed.classes)


def _digest(root: Path, samples: Samples, image_size: int | None) -> str:
    digest = hashlib.blake2b(f"image_size={image_size}".encode(), digest_size=8)
    for path, label in samples:
        status = os.stat(path)
        name = path.removeprefix(str(root))
        digest.update(f"{name}\0{label}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _decode(samples: Samples, image_size: int | None) -> Tensor:
    first = _read_image(samples[0][0], image_size)
    images = np.empty((len(samples), *first.shape), np.uint8)

    def place(index: int) -> None:
        path = samples[index][0]
        image = _read_image(path, image_size)
        if image.shape != first.shape:
            raise EvaluationError(
                f"{path} is {image.shape[1]}x{image.shape[0]} pixels, but {samples[0][0]} is "
                f"{first.shape[1]}x{first.shape[0]}: pass image_size (--image-size) to resize all"
            )
        images[index] = image

    # Decoding releases the interpreter's lock, so threads do run side by side here.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(place, range(len(samples))):
            pass
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _read_image(
    path: str, image_size: int | None
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    from torchvision.transforms import functional

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as cause:
        raise EvaluationError(f"cannot read the image {path}: {cause}") from cause
    if image_size is not None:
        resized = functional.resize(image, round(image_size * 256 / 224))
        image = functional.center_crop(resized, [image_size, image_size])
    return np.asarray(image)


def _load_cache(kept: Path, count: int) -> Tensor | None:
    if not kept.is_file():
        return None
    try:
        images = torch.load(kept, weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError):
        return None  # damaged: decode again and overwrite it
    usable = isinstance(images, Tensor) and images.dtype == torch.uint8 and len(images) == count
    return images if usable else None


def _store_cache(images: Tensor, kept: Path, asked_for: bool) -> None:
    beside = kept.with_name(f"{kept.name}.{os.getpid()}.tmp")
    try:
        if asked_for:
            kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(images, beside)
        os.replace(beside, kept)
    except (OSError, RuntimeError) as cause:
        with contextlib.suppress(OSError):
            beside.unlink()
        if asked_for:
            raise EvaluationError(
                f"cannot keep decoded images in {kept.parent}: {cause}"
            ) from cause
